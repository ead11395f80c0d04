"""``clippy data index``: list a dataset's shards, read the footers of those that are new, write the manifest."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from pipelines.columns import Columns, DataError, find_columns, usable_mask
from pipelines.manifest import Manifest, load_manifest, manifest_location, save_manifest
from pipelines.sections import DatasetConfig
from pipelines.shards import footer_digest, open_shard, read_footer, read_groups, retry
from pipelines.storage import Location, locate

Progress = Callable[[int, int], None]
_TOLD = ("image", "caption", "key")
_THREADS = 64
"""Footers read at once: they wait on storage far longer than they work."""


@dataclass(frozen=True, eq=False)
class Index:
    """A manifest, and how it differs from the one that was there before."""

    manifest: Manifest
    added: tuple[str, ...]
    changed: tuple[str, ...]
    vanished: tuple[str, ...]

    def summary(self) -> dict[str, object]:
        """What ``clippy data index`` reports."""
        names = {name: list(getattr(self, name)) for name in ("added", "changed", "vanished")}
        return {**self.manifest.summary(), **names}


def index_dataset(data: DatasetConfig, progress: Progress | None = None) -> Index:
    """Bring the dataset's manifest up to date and write it. Only new and changed shards are read.

    Calls ``progress(done, all)`` as footers arrive. Raises DataError for a folder without Parquet, a shard that is
    none, or one without the needed columns; then nothing is written.
    """
    known = _known(data)
    manifest = read_manifest(data, progress, known)
    save_manifest(data, manifest)
    before = {} if known is None else dict(zip(known.shards, known.shard_digests, strict=True))
    now = dict(zip(manifest.shards, manifest.shard_digests, strict=True))
    return Index(
        manifest,
        added=tuple(shard for shard in now if shard not in before),
        changed=tuple(shard for shard in now if shard in before and before[shard] != now[shard]),
        vanished=tuple(shard for shard in before if shard not in now),
    )


def read_manifest(data: DatasetConfig, progress: Progress | None = None, known: Manifest | None = None) -> Manifest:
    """The dataset's manifest as its shards are now, without writing it.

    What ``known`` says of a shard of the same size and time of writing is taken over. Raises DataError.
    """
    folder = locate(data.url, data.storage_options)
    own = manifest_location(data).path  # by a name of the user's own it may look like a shard
    infos = [info for info in _list_shards(folder) if info.path != own]
    if not infos:
        raise DataError(_nothing_there(folder))
    described = _taken_over(folder, infos, known)
    if described and known is not None:  # a dataset remembers the columns that it was once told
        data = data.model_copy(update={f"{name}_column": getattr(known.columns, name) for name in _TOLD})
    missing = [info for info in infos if info.path not in described]
    with ThreadPoolExecutor(max_workers=_THREADS) as pool:
        for done, (info, shard) in enumerate(
            zip(missing, pool.map(lambda info: _describe(folder, info, data), missing), strict=True), start=1
        ):
            described[info.path] = shard
            if progress:
                progress(done, len(missing))
    return _assemble(folder, infos, [described[info.path] for info in infos])


def _known(data: DatasetConfig) -> Manifest | None:
    """The manifest there is, if it can be read and was made for the same columns."""
    try:
        return load_manifest(data)
    except DataError:
        return None


def _list_shards(folder: Location) -> list[pafs.FileInfo]:
    if folder.is_local and folder.filesystem.get_file_info(folder.path).type == pafs.FileType.File:
        return []  # as of object storage, where nothing lies under a file
    selector = pafs.FileSelector(folder.path, recursive=True, allow_not_found=True)
    infos = retry(lambda: folder.filesystem.get_file_info(selector), folder)
    return sorted((info for info in infos if _is_shard(folder, info)), key=lambda info: info.path)


def _nothing_there(folder: Location) -> str:
    """Why no shard was found."""
    bucket = folder.path.split("/")[0]
    if folder.exists():
        return f"data.url: no Parquet file in {folder.url}; name the folder that holds the shards"
    if not folder.is_local and folder.filesystem.get_file_info(bucket).type == pafs.FileType.NotFound:
        return f"data.url: {folder.url}: there is no such bucket; check name and endpoint"
    return f"data.url: {folder.url} does not exist; name the folder or URL that holds the Parquet shards"


def _is_shard(folder: Location, info: pafs.FileInfo) -> bool:
    hidden = any(part.startswith(("_", ".")) for part in info.path[len(folder.path) :].split("/") if part)
    return info.type == pafs.FileType.File and info.path.endswith(".parquet") and not hidden


@dataclass(frozen=True)
class _Shard:
    """What the index knows of one shard; lists have one entry a row group."""

    columns: Columns
    digest: str
    rows: list[int]
    usable_rows: list[int]
    null_captions: list[int]
    image_bytes: list[int]


def _taken_over(folder: Location, infos: list[pafs.FileInfo], known: Manifest | None) -> dict[str, _Shard]:
    """Descriptions of the shards, by path, that are as the known manifest saw them."""
    if known is None:
        return {}
    place = {shard: i for i, shard in enumerate(known.shards)}
    starts = np.concatenate([[0], np.cumsum(known.groups_of_shard)])
    taken = {}
    for info in infos:
        i = place.get(_relative(folder, info))
        same = i is not None and info.size == known.shard_bytes[i] and _modified(info) == known.shard_modified[i] != 0
        if i is not None and same:
            part = slice(starts[i], starts[i + 1])
            arrays = (known.rows, known.usable_rows, known.null_captions, known.image_bytes)
            taken[info.path] = _Shard(
                known.columns, known.shard_digests[i], *(array[part].tolist() for array in arrays)
            )
    return taken


def _describe(folder: Location, info: pafs.FileInfo, data: DatasetConfig) -> _Shard:
    """Read one shard's footer, and of its rows only what the statistics leave open."""
    location = folder / _relative(folder, info)
    shard = open_shard(location, info.size)
    try:
        footer = read_footer(shard, location)
    except DataError as error:
        if "Parquet" in str(error) or info.size < 12:
            raise DataError(f"{location.url}: not a readable Parquet file: {error}") from None
        raise
    columns = find_columns(footer.schema.to_arrow_schema(), data, location.url)
    groups = range(footer.num_row_groups)
    rows = [footer.row_group(group).num_rows for group in groups]
    usable, null = list(rows), [0] * len(rows)
    unsure = [group for group in groups if not _all_usable(footer.row_group(group), columns)]
    if unsure:
        names = [name for name in (columns.caption, columns.status) if name]
        table, start = read_groups(shard, location, unsure, names), 0
        for group in unsure:
            usable[group], null[group] = _count_usable(table.slice(start, rows[group]), columns)
            start += rows[group]
    sizes = [_stored_bytes(footer.row_group(group), columns.image) for group in groups]
    return _Shard(columns, footer_digest(footer), rows, usable, null, sizes)


def _count_usable(table: pa.Table, columns: Columns) -> tuple[int, int]:
    """Usable rows, and rows of status success without a caption."""
    usable = int(usable_mask(table, columns).sum())
    if columns.status is None:
        return usable, len(table) - usable
    success = pc.fill_null(pc.equal(table.column(columns.status), "success"), False)
    return usable, int(pc.sum(success).as_py() or 0) - usable


def _all_usable(group: pq.RowGroupMetaData, columns: Columns) -> bool:
    """Whether the statistics alone show that every row is a sample."""
    captions = _statistics(group, columns.caption)
    if captions is None or not captions.has_null_count or captions.null_count:
        return False  # in a list, an empty one or a missing caption counts as null too
    if columns.status is None:
        return True
    statistics = _statistics(group, columns.status)
    return (
        statistics is not None
        and statistics.has_min_max
        and statistics.min == statistics.max == "success"
        and statistics.has_null_count
        and statistics.null_count == 0
    )


def _statistics(group: pq.RowGroupMetaData, name: str) -> pq.Statistics | None:
    """Of the column of that name, or of what a list of that name holds."""
    for i in range(group.num_columns):
        if belongs(group.column(i), name):
            return group.column(i).statistics
    return None


def _stored_bytes(group: pq.RowGroupMetaData, name: str) -> int:
    chunks = (group.column(i) for i in range(group.num_columns))
    return sum(chunk.total_compressed_size for chunk in chunks if belongs(chunk, name))


def belongs(chunk: pq.ColumnChunkMetaData, name: str) -> bool:
    """Whether the chunk is of the column of that name, which may have dots of its own, or of what lies in it."""
    return chunk.path_in_schema == name or chunk.path_in_schema.startswith(f"{name}.")


def _relative(folder: Location, info: pafs.FileInfo) -> str:
    return info.path[len(folder.path) :].lstrip("/")


def _modified(info: pafs.FileInfo) -> int:
    return info.mtime_ns or 0


def _assemble(folder: Location, infos: list[pafs.FileInfo], described: list[_Shard]) -> Manifest:
    shards = tuple(_relative(folder, info) for info in infos)
    columns = described[0].columns
    for name, shard in zip(shards, described, strict=True):
        if shard.columns != columns:
            raise DataError(
                f"{folder.url}/{name}: has the columns {asdict(shard.columns)}, while {shards[0]} has "
                f"{asdict(columns)}; shards of one dataset need the same"
            )
    groups = [len(shard.rows) for shard in described]

    def joined(lists: list[list[int]]) -> np.ndarray:
        return np.array([n for values in lists for n in values], dtype=np.int64)

    return Manifest(
        columns=columns,
        shards=shards,
        shard_bytes=np.array([info.size for info in infos], dtype=np.int64),
        shard_modified=np.array([_modified(info) for info in infos], dtype=np.int64),
        shard_digests=tuple(shard.digest for shard in described),
        shard_of_group=np.repeat(np.arange(len(shards)), groups),
        group_in_shard=np.concatenate([np.arange(n) for n in groups]),
        rows=joined([shard.rows for shard in described]),
        usable_rows=joined([shard.usable_rows for shard in described]),
        null_captions=joined([shard.null_captions for shard in described]),
        image_bytes=joined([shard.image_bytes for shard in described]),
    )
