"""The manifest: which row groups a dataset has and how many usable rows each, from one pass over the footers.

Written once beside the data, so that a run neither lists shards nor reads footers before it starts.

A usable row is one whose ``status``, where there is such a column, is "success", and whose caption is not null; both
are decided without reading a single image. A usable row whose image turns out to be null or broken keeps its place.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from pipelines.columns import Columns, DataError, find_columns, usable_mask
from pipelines.recipe import DataConfig
from pipelines.storage import Location, locate

MANIFEST_FILE = "_manifest.parquet"  # Parquet readers pass over names with a leading underscore
_VERSION = 1


@dataclass(frozen=True, eq=False)
class Manifest:
    """Row groups in file order: arrays with one entry a group, and the shards they lie in."""

    columns: Columns
    shards: tuple[str, ...]
    """Paths relative to the dataset's folder."""
    shard_bytes: np.ndarray
    shard_of_group: np.ndarray
    group_in_shard: np.ndarray
    rows: np.ndarray
    usable_rows: np.ndarray
    null_captions: np.ndarray
    """Rows left out for want of a caption; the other left-out rows had no status 'success'."""
    digest: str
    """Of all the above and of every footer: other data, other digest."""

    @property
    def excluded(self) -> dict[str, int]:
        """Rows that are no samples, by cause."""
        null, absent = int(self.null_captions.sum()), int((self.rows - self.usable_rows).sum())
        return {cause: n for cause, n in (("null_caption", null), ("status_not_success", absent - null)) if n}

    def summary(self) -> dict[str, object]:
        """What ``clippy data index`` reports."""
        return {
            "shards": len(self.shards),
            "bytes": int(self.shard_bytes.sum()),
            "row_groups": len(self.rows),
            "rows": int(self.rows.sum()),
            "usable_rows": int(self.usable_rows.sum()),
            "excluded_rows": self.excluded,
            "columns": asdict(self.columns),
            "digest": self.digest,
        }


def manifest_location(data: DataConfig) -> Location:
    """Where the manifest of this dataset lies."""
    if data.manifest is not None:
        return locate(data.manifest, data.storage_options)
    return locate(data.url, data.storage_options) / MANIFEST_FILE


def build_manifest(data: DataConfig, progress: Callable[[int, int], None] | None = None) -> Manifest:
    """Read every shard's footer, and write the manifest whole. Calls ``progress(done, all)`` as shards finish.

    Raises DataError for a folder without Parquet, a shard that is none, or one without the needed columns.
    """
    folder = locate(data.url, data.storage_options)
    infos = _list_shards(folder)
    if not infos:
        raise DataError(
            f"data.url: no Parquet file in {data.url}; name the folder that holds the shards"
            if folder.exists()
            else f"data.url: {data.url} does not exist; name the folder or URL that holds the Parquet shards"
        )
    with ThreadPoolExecutor(max_workers=32) as pool:  # waits on storage, hardly any work
        footers = []
        for footer in pool.map(lambda info: _read_footer(folder, info, data), infos):
            footers.append(footer)
            if progress:
                progress(len(footers), len(infos))
    manifest = _assemble(folder, infos, footers)
    manifest_location(data).write_bytes(_to_parquet(manifest))
    return manifest


def load_manifest(data: DataConfig) -> Manifest | None:
    """The manifest written for this dataset, or None if there is none. Raises DataError if it is unreadable."""
    location = manifest_location(data)
    try:
        content = location.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"data.url: {data.url} cannot be read: {error}") from None
    try:
        manifest = _from_parquet(content)
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{location.url}: no manifest of this version ({error}); run: clippy data index {data.url}"
        ) from None
    for field, name in (("image_column", manifest.columns.image), ("caption_column", manifest.columns.caption)):
        wanted = getattr(data, field)
        if wanted is not None and wanted != name:
            raise DataError(
                f"data.{field}: {wanted!r}, but the manifest of {data.url} was made for {name!r}; "
                f"run: clippy data index {data.url} data.{field}={wanted}"
            )
    return manifest


def check_shards(data: DataConfig, manifest: Manifest) -> None:
    """Raise DataError if a shard of a local dataset vanished or changed size since it was indexed.

    On object storage nothing is asked: there a missing shard is named by the first task that reads it.
    """
    folder = locate(data.url, data.storage_options)
    if not folder.is_local:
        return
    infos = folder.filesystem.get_file_info([f"{folder.path}/{shard}" for shard in manifest.shards])
    for shard, size, info in zip(manifest.shards, manifest.shard_bytes, infos, strict=True):
        if info.type == pafs.FileType.NotFound:
            raise DataError(missing_shard(data.url, shard))
        if info.size != size:
            raise DataError(changed_shard(data.url, shard))


def missing_shard(url: str, shard: str) -> str:
    """The sentence for a shard that the manifest names and storage does not have."""
    return f"{url}/{shard}: this shard is in the manifest but is gone; restore it, or run: clippy data index {url}"


def changed_shard(url: str, shard: str) -> str:
    """The sentence for a shard that is not the one the manifest describes."""
    return f"{url}/{shard}: this shard changed after it was indexed; run: clippy data index {url}"


def _list_shards(folder: Location) -> list[pafs.FileInfo]:
    selector = pafs.FileSelector(folder.path, recursive=True, allow_not_found=True)
    try:
        infos = folder.filesystem.get_file_info(selector)
    except OSError as error:
        raise DataError(f"data.url: {folder.url} cannot be listed: {error}") from None
    return sorted((info for info in infos if _is_shard(folder, info)), key=lambda info: info.path)


def _is_shard(folder: Location, info: pafs.FileInfo) -> bool:
    hidden = any(part.startswith(("_", ".")) for part in info.path[len(folder.path) :].split("/") if part)
    return info.type == pafs.FileType.File and info.path.endswith(".parquet") and not hidden


@dataclass(frozen=True)
class _Footer:
    columns: Columns
    rows: list[int]
    usable_rows: list[int]
    null_captions: list[int]
    digest: str


def _read_footer(folder: Location, info: pafs.FileInfo, data: DataConfig) -> _Footer:
    name = f"{folder.url.rstrip('/')}/{_relative(folder, info)}"
    try:
        with folder.filesystem.open_input_file(info.path) as stream, pq.ParquetFile(stream) as file:
            columns = find_columns(file.schema_arrow, data, name)
            counts = [_count_usable(file, group, columns) for group in range(file.num_row_groups)]
            content = io.BytesIO()
            file.metadata.write_metadata_file(content)
    except DataError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{name}: not a readable Parquet file: {str(error).splitlines()[0]}") from None
    rows, usable, null = ([int(count[i]) for count in counts] for i in range(3))
    return _Footer(columns, rows, usable, null, hashlib.sha256(content.getvalue()).hexdigest())


def _count_usable(file: pq.ParquetFile, group: int, columns: Columns) -> tuple[int, int, int]:
    """Rows, usable rows, and rows of status success without a caption, reading only what statistics leave open."""
    footer = file.metadata.row_group(group)
    if columns.status is None and _null_count(footer, columns.caption) == 0:
        return footer.num_rows, footer.num_rows, 0
    names = [columns.caption, columns.status] if columns.status else [columns.caption]
    if columns.status and _null_count(footer, columns.caption) == 0 and _all_success(footer, columns.status):
        return footer.num_rows, footer.num_rows, 0
    table = file.read_row_group(group, columns=names)
    usable = int(usable_mask(table, columns).sum())
    if columns.status is None:
        return footer.num_rows, usable, footer.num_rows - usable
    success = pc.fill_null(pc.equal(table.column(columns.status), "success"), False)
    return footer.num_rows, usable, int(pc.sum(success).as_py() or 0) - usable


def _statistics(footer: pq.RowGroupMetaData, name: str) -> pq.Statistics | None:
    for i in range(footer.num_columns):
        if footer.column(i).path_in_schema == name:
            return footer.column(i).statistics
    return None


def _null_count(footer: pq.RowGroupMetaData, name: str) -> int | None:
    statistics = _statistics(footer, name)
    return statistics.null_count if statistics is not None and statistics.has_null_count else None


def _all_success(footer: pq.RowGroupMetaData, name: str) -> bool:
    statistics = _statistics(footer, name)
    return (
        statistics is not None
        and statistics.has_min_max
        and statistics.min == statistics.max == "success"
        and statistics.has_null_count
        and statistics.null_count == 0
    )


def _relative(folder: Location, info: pafs.FileInfo) -> str:
    return info.path[len(folder.path) :].lstrip("/")


def _assemble(folder: Location, infos: list[pafs.FileInfo], footers: list[_Footer]) -> Manifest:
    shards = tuple(_relative(folder, info) for info in infos)
    columns = footers[0].columns
    for shard, footer in zip(shards, footers, strict=True):
        if footer.columns != columns:
            raise DataError(
                f"{folder.url}/{shard}: has the columns {asdict(footer.columns)}, while {shards[0]} has "
                f"{asdict(columns)}; shards of one dataset need the same"
            )
    groups = [len(footer.rows) for footer in footers]
    described = [
        _VERSION,
        asdict(columns),
        [(s, i.size, f.digest) for s, i, f in zip(shards, infos, footers, strict=True)],
    ]
    return Manifest(
        columns=columns,
        shards=shards,
        shard_bytes=np.array([info.size for info in infos], dtype=np.int64),
        shard_of_group=np.repeat(np.arange(len(shards)), groups),
        group_in_shard=np.concatenate([np.arange(n) for n in groups]),
        rows=np.array([n for footer in footers for n in footer.rows], dtype=np.int64),
        usable_rows=np.array([n for footer in footers for n in footer.usable_rows], dtype=np.int64),
        null_captions=np.array([n for footer in footers for n in footer.null_captions], dtype=np.int64),
        digest=hashlib.sha256(json.dumps(described).encode()).hexdigest(),
    )


_GROUP_ARRAYS = ("shard_of_group", "group_in_shard", "rows", "usable_rows", "null_captions")


def _to_parquet(manifest: Manifest) -> bytes:
    described = {
        "version": _VERSION,
        "columns": asdict(manifest.columns),
        "shards": list(manifest.shards),
        "shard_bytes": manifest.shard_bytes.tolist(),
        "digest": manifest.digest,
    }
    table = pa.table({name: pa.array(getattr(manifest, name)) for name in _GROUP_ARRAYS})
    content = io.BytesIO()
    pq.write_table(
        table.replace_schema_metadata({"clippy_manifest": json.dumps(described)}), content, compression="zstd"
    )
    return content.getvalue()


def _from_parquet(content: bytes) -> Manifest:
    table = pq.read_table(io.BytesIO(content))
    described = json.loads((table.schema.metadata or {})[b"clippy_manifest"])
    if described["version"] != _VERSION:
        raise ValueError(f"version {described['version']}, this is {_VERSION}")
    return Manifest(
        columns=Columns(**described["columns"]),
        shards=tuple(described["shards"]),
        shard_bytes=np.array(described["shard_bytes"], dtype=np.int64),
        digest=described["digest"],
        **{name: table.column(name).to_numpy() for name in _GROUP_ARRAYS},
    )
