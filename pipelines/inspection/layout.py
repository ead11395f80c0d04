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
import pyarrow.parquet as pq

from pipelines.columns import DataError
from pipelines.index import belongs, read_manifest
from pipelines.inspection.distribution import Distribution, distribution
from pipelines.manifest import Manifest, load_manifest, missing_shard
from pipelines.sections import DatasetConfig
from pipelines.shards import open_shard, read_footer
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
    """Of the image column as stored, which is nearly all that training reads."""
    largest_image_column_bytes: int
    """Of images in one row group, uncompressed where its footer was read."""
    compression: tuple[str, ...]
    """Codecs of the image column."""
    manifest: ManifestState
    digest: str

    @property
    def bytes_per_row(self) -> float:
        """Stored bytes of all columns for one row."""
        return self.bytes / max(self.rows, 1)


Progress = Callable[[int, int], None]


def find_manifest(data: DatasetConfig, progress: Progress | None = None) -> tuple[Manifest, ManifestState]:
    """The manifest that describes the data as it lies there, and what became of the one that was written.

    Only footers that the written one does not describe are read, with ``progress(done, all)``. Raises DataError for
    data that cannot be read.
    """
    try:
        written = load_manifest(data)
    except DataError:  # or nothing can be reached: then reading the footers says so
        return read_manifest(data, progress), "unreadable"
    manifest = read_manifest(data, progress, written)
    if written is None:
        return manifest, "missing"
    return manifest, "current" if manifest.digest == written.digest else "stale"


def read_footers(data: DatasetConfig, manifest: Manifest, shards: Iterable[int]) -> dict[int, pq.FileMetaData]:
    """The footers of some shards, in parallel. Raises DataError naming a shard that is gone or broken."""
    folder, wanted = locate(data.url, data.storage_options), sorted(set(shards))

    def read(shard: int) -> pq.FileMetaData:
        location = folder / manifest.shards[shard]
        try:
            return read_footer(open_shard(location, int(manifest.shard_bytes[shard])), location)
        except FileNotFoundError:
            raise DataError(missing_shard(data, manifest.shards[shard])) from None

    with ThreadPoolExecutor(max_workers=32) as pool:
        return dict(zip(wanted, pool.map(read, wanted), strict=True))


def describe_layout(manifest: Manifest, state: ManifestState, footers: dict[int, pq.FileMetaData]) -> Layout:
    """The layout that a manifest and some footers tell."""
    groups = [footer.row_group(i) for footer in footers.values() for i in range(footer.num_row_groups)]
    images = [[column for column in _columns(group) if belongs(column, manifest.columns.image)] for group in groups]
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
        row_group_bytes=_sizes(manifest.image_bytes.tolist(), binary=True),
        largest_image_column_bytes=max(
            [sum(column.total_uncompressed_size for column in columns) for columns in images]
            + manifest.image_bytes.tolist(),
            default=0,
        ),
        compression=tuple(sorted({column.compression.lower() for columns in images for column in columns})),
        manifest=state,
        digest=manifest.digest,
    )


def _sizes(values: list[int], binary: bool = False) -> Distribution:
    return distribution(values or [0], binary=binary) or Distribution(0, 0, 0, 0, 0, 0, (0, 1), (0,))


def _columns(group: pq.RowGroupMetaData) -> list[pq.ColumnChunkMetaData]:
    return [group.column(i) for i in range(group.num_columns)]


def _schema(manifest: Manifest, schema: pa.Schema) -> tuple[Column, ...]:
    columns = manifest.columns
    roles = {columns.image: "image", columns.caption: "caption", columns.key: "key", columns.status: "status"}
    return tuple(Column(field.name, str(field.type), roles.get(field.name)) for field in schema)


def read_import(data: DatasetConfig, examples: int = 10) -> dict[str, Any] | None:
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
