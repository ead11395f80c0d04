"""How a dataset lies in storage: shards, rows, row groups, columns. From its manifest and a few footers; read only."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from pipelines.columns import DataError
from pipelines.distribution import Distribution, distribution
from pipelines.manifest import Manifest, build_manifest, load_manifest, missing_shard
from pipelines.recipe import DataConfig
from pipelines.storage import locate

ManifestState = Literal["current", "missing", "stale", "unreadable"]


@dataclass(frozen=True)
class Column:
    """One column of the shards, and what training takes it for: image, caption, key, status or None."""

    name: str
    type: str
    role: str | None


@dataclass(frozen=True)
class Layout:
    """Facts about a dataset that need no row of it."""

    schema: tuple[Column, ...]
    shards: int
    bytes: int
    shard_bytes: Distribution
    rows: int
    usable_rows: int
    excluded_rows: dict[str, int]
    row_groups: int
    row_group_rows: Distribution
    row_group_bytes: Distribution
    """As stored, over ``measured_row_groups``."""
    measured_row_groups: int
    """Row groups of the shards whose footers were read here."""
    largest_image_column_bytes: int
    """Uncompressed bytes of images in the largest measured row group."""
    compression: tuple[str, ...]
    """Codecs of the image column."""
    manifest: ManifestState
    digest: str

    @property
    def bytes_per_row(self) -> float:
        """Stored bytes of all columns for one row."""
        return self.bytes / max(self.rows, 1)


Progress = Callable[[int, int], None]


def find_manifest(data: DataConfig, progress: Progress | None = None) -> tuple[Manifest, ManifestState]:
    """The manifest that describes the data as it lies there, and what became of the one that was written.

    One that is missing, unreadable or of other shards is made anew in memory, with ``progress(done, all)``.
    Raises DataError for data that cannot be read.
    """
    state: ManifestState = "missing"
    try:
        written = load_manifest(data)
        if written is not None:
            if _shard_bytes(data) == dict(zip(written.shards, written.shard_bytes.tolist(), strict=True)):
                return written, "current"
            state = "stale"
    except DataError:  # or it cannot be reached: then reading the footers says so
        state = "unreadable"
    return read_manifest(data, progress), state


def read_manifest(data: DataConfig, progress: Progress | None = None) -> Manifest:
    """Stand-in until pipelines.manifest has it."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return build_manifest(data.model_copy(update={"manifest": f"{folder}/m.parquet"}), progress)


def _shard_bytes(data: DataConfig) -> dict[str, int]:
    """Size of every shard in storage, by its path inside the dataset."""
    folder = locate(data.url, data.storage_options)
    try:
        infos = folder.filesystem.get_file_info(pafs.FileSelector(folder.path, recursive=True, allow_not_found=True))
    except OSError as error:
        raise DataError(f"data.url: {folder.url} cannot be listed: {error}") from None
    sizes = {info.path[len(folder.path) :].lstrip("/"): info.size for info in infos if info.is_file}
    return {path: size for path, size in sizes.items() if path.endswith(".parquet") and not _is_hidden(path)}


def _is_hidden(path: str) -> bool:
    return any(part.startswith(("_", ".")) for part in path.split("/"))


def read_footers(data: DataConfig, manifest: Manifest, shards: Iterable[int]) -> dict[int, pq.FileMetaData]:
    """The footers of some shards, in parallel. Raises DataError naming a shard that is gone or broken."""
    folder, wanted = locate(data.url, data.storage_options), sorted(set(shards))

    def read(shard: int) -> pq.FileMetaData:
        name = manifest.shards[shard]
        try:
            with folder.filesystem.open_input_file((folder / name).path) as stream:
                return pq.read_metadata(stream)
        except FileNotFoundError:
            raise DataError(missing_shard(data.url, name)) from None
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{data.url}/{name}: cannot be read: {str(error).splitlines()[0]}") from None

    with ThreadPoolExecutor(max_workers=32) as pool:
        return dict(zip(wanted, pool.map(read, wanted), strict=True))


def describe_layout(manifest: Manifest, state: ManifestState, footers: dict[int, pq.FileMetaData]) -> Layout:
    """The layout that a manifest and some footers tell."""
    groups = [footer.row_group(i) for footer in footers.values() for i in range(footer.num_row_groups)]
    images = [[column for column in _columns(group) if _belongs(column, manifest.columns.image)] for group in groups]
    stored = [sum(column.total_compressed_size for column in _columns(group)) for group in groups]
    summary: dict[str, Any] = manifest.summary()
    return Layout(
        schema=_schema(manifest, next(iter(footers.values())).schema.to_arrow_schema()),
        shards=len(manifest.shards),
        bytes=summary["bytes"],
        shard_bytes=_sizes(manifest.shard_bytes.tolist(), binary=True),
        rows=summary["rows"],
        usable_rows=summary["usable_rows"],
        excluded_rows=manifest.excluded,
        row_groups=len(manifest.rows),
        row_group_rows=_sizes(manifest.rows.tolist()),
        row_group_bytes=_sizes(stored, binary=True),
        measured_row_groups=len(groups),
        largest_image_column_bytes=max(
            (sum(column.total_uncompressed_size for column in columns) for columns in images), default=0
        ),
        compression=tuple(sorted({column.compression.lower() for columns in images for column in columns})),
        manifest=state,
        digest=manifest.digest,
    )


def _sizes(values: list[int], binary: bool = False) -> Distribution:
    return distribution(values or [0], binary=binary) or Distribution(0, 0, 0, 0, 0, 0, (0, 1), (0,))


def _columns(group: pq.RowGroupMetaData) -> list[pq.ColumnChunkMetaData]:
    return [group.column(i) for i in range(group.num_columns)]


def _belongs(column: pq.ColumnChunkMetaData, name: str) -> bool:
    return column.path_in_schema == name or column.path_in_schema.startswith(f"{name}.")


def _schema(manifest: Manifest, schema: pa.Schema) -> tuple[Column, ...]:
    columns = manifest.columns
    roles = {columns.image: "image", columns.caption: "caption", columns.key: "key", columns.status: "status"}
    return tuple(Column(field.name, str(field.type), roles.get(field.name)) for field in schema)


def read_import(data: DataConfig, examples: int = 10) -> dict[str, Any] | None:
    """What ``clippy data import`` left beside the data: its summary, and its rejects by cause with a few of each.

    None where neither lies there or neither can be understood.
    """
    folder = locate(data.url, data.storage_options)
    found: dict[str, Any] = {}
    with suppress(OSError, ValueError):  # not there, or not ours
        found["summary"] = json.loads((folder / "_import.json").read_text())
    counts: Counter[str] = Counter()
    try:
        with (
            folder.filesystem.open_input_file((folder / "_rejects.parquet").path) as stream,
            pq.ParquetFile(stream) as file,
        ):
            for batch in file.iter_batches(columns=["cause"]):  # there may be millions
                counts.update(str(cause) for cause in batch.column("cause").to_pylist())
            first = next(file.iter_batches(examples, columns=["key", "cause", "source", "message"]), None)
    except (OSError, pa.ArrowException, KeyError):  # not there, or not ours
        return found or None
    found["rejects"] = dict(counts.most_common())
    found["reject_examples"] = [
        {name: None if value is None else str(value)[:300] for name, value in row.items()}
        for row in (first.to_pylist() if first is not None else [])
    ]
    return found
