"""A source cut into parts, each the work of one task: a tar, some row groups, some rows of a listing.

The cut depends on the source alone, so that an import gives the same bytes on any machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from pipelines.columns import DataError
from pipelines.ingest.config import ImportConfig
from pipelines.ingest.fetch import StorageError, open_location
from pipelines.ingest.listing import listing_rows, write_sample_listing, write_table_listing
from pipelines.ingest.rows import SourceRow
from pipelines.ingest.sources import SourceListing
from pipelines.ingest.tables import open_parquet, parquet_columns, parquet_rows
from pipelines.ingest.tar import tar_rows
from pipelines.storage import Location

_MIN_PART_BYTES, _MAX_PART_BYTES, _PARTS = 8 * 2**20, 256 * 2**20, 256
_LISTING_GROUP_ROWS, _MAX_LISTING_GROUPS = 256, 4

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Part:
    """``groups`` row groups of a Parquet file or of a listing, from the ``first_group``-th on; or one whole tar."""

    index: int
    file: str
    """Below the source's root; empty for images with captions in files beside them."""
    listing: str = ""
    """Below the staging folder: the Parquet that a listing was brought to."""
    first_group: int = 0
    groups: int = 0
    first_row: int = 0


def cut_parts(
    config: ImportConfig, source: SourceListing, staging: Location, progress: Progress
) -> tuple[list[Part], dict[str, str]]:
    """All parts in the order of the source, and what is wrong with each broken file that is left out.

    Raises DataError for a file that cannot be read, unless broken ones are to be skipped.
    """
    if source.format == "wds":
        return [Part(i, file.name) for i, file in enumerate(source.files)], {}
    if source.format == "parquet":
        return _cut_parquet(config, source, progress)
    return _cut_listings(config, source, staging, progress)


def read_part(
    config: ImportConfig, source: SourceListing, staging: Location, part: Part, pool: Executor
) -> Iterator[SourceRow]:
    """The rows of a part, in order."""
    root = open_location(source.root, config.storage_options)
    groups = list(range(part.first_group, part.first_group + part.groups))
    if source.format == "wds":
        return tar_rows(root / part.file, part.file, config)
    if source.format == "parquet":
        return parquet_rows(root, part.file, groups, part.first_row, config, pool)
    return listing_rows(staging / part.listing, part.file, groups, root, config, pool)


def _part_bytes(source: SourceListing) -> int:
    """Enough parts to keep many cores busy, none so large that it strains one."""
    return int(np.clip(sum(file.size for file in source.files) // _PARTS, _MIN_PART_BYTES, _MAX_PART_BYTES))


def _cut_parquet(config: ImportConfig, source: SourceListing, progress: Progress) -> tuple[list[Part], dict[str, str]]:
    root, limit = open_location(source.root, config.storage_options), _part_bytes(source)
    parts: list[Part] = []
    broken: dict[str, str] = {}

    def read_footer(name: str) -> list[tuple[int, int]] | DataError:
        try:
            with open_parquet(root / name) as file:
                parquet_columns(file, config, (root / name).url)
                groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
                return [(group.num_rows, group.total_byte_size) for group in groups]
        except DataError as error:
            return error

    names = [file.name for file in source.files]
    with ThreadPoolExecutor(max_workers=32) as pool:
        for done, (name, groups) in enumerate(zip(names, pool.map(read_footer, names), strict=True), start=1):
            progress("reading footers", done, len(names))
            if isinstance(groups, DataError):
                _refuse(config, groups, name, broken)
                continue
            for first, count, first_row in _cut_groups(groups, limit):
                parts.append(Part(len(parts), name, "", first, count, first_row))
    return parts, broken


def _cut_groups(groups: list[tuple[int, int]], limit: int) -> Iterator[tuple[int, int, int]]:
    """First group, number of groups and first row of each run of groups (rows, bytes) that holds about ``limit``."""
    first = first_row = rows = size = 0
    for i, (group_rows, group_bytes) in enumerate(groups):
        if i > first and size + group_bytes > limit:
            yield first, i - first, first_row
            first, first_row, size = i, rows, 0
        rows, size = rows + group_rows, size + group_bytes
    if groups:
        yield first, len(groups) - first, first_row


def _cut_listings(
    config: ImportConfig, source: SourceListing, staging: Location, progress: Progress
) -> tuple[list[Part], dict[str, str]]:
    root = open_location(source.root, config.storage_options)
    cut: list[tuple[str, str, list[int]]] = []
    broken: dict[str, str] = {}
    if source.format == "files":
        name = "listing-00000.parquet"
        cut.append(("", name, write_sample_listing(source, config, staging / name, _LISTING_GROUP_ROWS)))
    for i, file in enumerate(source.files if source.format != "files" else ()):
        name = f"listing-{i:05d}.parquet"
        try:
            rows = write_table_listing(config, root / file.name, source.format, staging / name, _LISTING_GROUP_ROWS)
            cut.append((file.name, name, rows))
        except DataError as error:
            _refuse(config, error, file.name, broken)
        progress("reading listings", i + 1, len(source.files))
    total = sum(len(rows) for _, _, rows in cut)
    together = int(np.clip(total // _PARTS, 1, _MAX_LISTING_GROUPS))
    parts: list[Part] = []
    for file_name, name, rows in cut:
        for first in range(0, len(rows), together):
            parts.append(Part(len(parts), file_name, name, first, len(rows[first : first + together]), 0))
    return parts, broken


def _refuse(config: ImportConfig, error: DataError, name: str, broken: dict[str, str]) -> None:
    if isinstance(error, StorageError):
        raise error
    if not config.skip_broken_files:
        raise DataError(f"{error}; --skip-broken-files leaves such files out")
    broken[name] = str(error)
