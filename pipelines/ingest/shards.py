"""Staged rows to the shards of the plan, and the refused rows to one Parquet."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.ingest.config import ImportConfig
from pipelines.ingest.fetch import FETCHES
from pipelines.ingest.plan import ImportPlan, find_duplicates
from pipelines.ingest.rows import DUPLICATE
from pipelines.ingest.stage import REJECTS, StagedPart, parquet_options, part_name, write_parquet
from pipelines.plan import seeded_permutation
from pipelines.storage import Location

_PARTS_AT_A_TIME = 64


@dataclass(frozen=True)
class Shard:
    """The work of one task: rows of staged row groups, in order."""

    index: int
    name: str
    has_lists: bool
    """Whether captions of this dataset are lists."""
    parts: list[int]
    groups: list[int]
    firsts: list[int]
    """Of the kept rows of each group, the first that is wanted."""
    counts: list[int]
    left_out: list[list[int]]
    """Rows of each group that are not kept."""


def shard_name(index: int, shards: int) -> str:
    """``shard-00000.parquet``; more digits where there are more shards."""
    return f"shard-{index:0{max(5, len(str(shards - 1)))}d}.parquet"


def make_shards(plan: ImportPlan, staged: list[StagedPart], duplicates: list[np.ndarray]) -> Iterator[Shard]:
    """Every shard of the plan."""
    has_lists = any(part.has_lists for part in staged)
    starts = {part.index: np.cumsum([0, *part.groups]) for part in staged}
    left_out = {part.index: rows for part, rows in zip(staged, duplicates, strict=True) if rows.any()}
    for index in range(plan.shards):
        parts, groups, firsts, counts = (array.tolist() for array in plan.chunks(index))
        missing: list[list[int]] = []
        for part, group in zip(parts, groups, strict=True):
            start, stop = starts[part][group], starts[part][group + 1]
            missing.append(np.flatnonzero(left_out[part][start:stop]).tolist() if part in left_out else [])
        yield Shard(index, shard_name(index, plan.shards), has_lists, parts, groups, firsts, counts, missing)


def write_shard(config: ImportConfig, staging: Location, dest: Location, shard: Shard) -> None:
    """Write one shard, whole or not at all."""
    chunks = list(zip(shard.parts, shard.groups, shard.firsts, shard.counts, shard.left_out, strict=True))
    runs = [list(run) for _, run in itertools.groupby(chunks, key=lambda chunk: chunk[0])]
    with ThreadPoolExecutor(FETCHES) as pool:
        table = pa.concat_tables(list(pool.map(lambda run: _read_run(staging, run), runs))).combine_chunks()
    captions = table.column("captions")
    if not shard.has_lists:
        captions = pa.chunked_array([chunk.flatten() for chunk in captions.chunks], pa.string())
    index = table.schema.get_field_index("captions")
    table = table.set_column(index, "caption", captions)
    order = None if config.shuffle is None else seeded_permutation(len(table), f"{config.shuffle}/shard/{shard.index}")
    content = pa.BufferOutputStream()
    with pq.ParquetWriter(content, table.schema, **parquet_options(table.schema)) as writer:
        for start in range(0, len(table), config.row_group_rows):
            stop = min(start + config.row_group_rows, len(table))
            group = table.slice(start, stop - start) if order is None else table.take(pa.array(order[start:stop]))
            writer.write_table(group, row_group_size=config.row_group_rows)
    (dest / shard.name).write_bytes(content.getvalue())


def _read_run(staging: Location, run: list[tuple[int, int, int, int, list[int]]]) -> pa.Table:
    """The wanted rows of row groups of one staged part."""
    path = (staging / f"{part_name(run[0][0])}.parquet").path
    tables = []
    with staging.filesystem.open_input_file(path) as stream, pq.ParquetFile(stream, pre_buffer=True) as file:
        for _, group, first, count, left_out in run:
            table = file.read_row_group(group, use_threads=False)
            if left_out:
                table = table.take(pa.array(np.setdiff1d(np.arange(len(table)), left_out)))
            tables.append(table.slice(first, count))
    return pa.concat_tables(tables)


def read_duplicates(staging: Location, staged: list[StagedPart]) -> list[np.ndarray]:
    """For each part, bool (rows): which rows hold an image that came before."""

    def read(part: StagedPart) -> tuple[np.ndarray, np.ndarray]:
        if not part.rows:
            return np.zeros((0, 2), np.uint64), np.zeros(0, np.int64)
        table = read_table(staging / f"{part_name(part.index)}.index.parquet", ["position", "sha256"])
        digests = b"".join(table.column("sha256").to_pylist())
        return np.frombuffer(digests, np.uint64).reshape(-1, 4)[:, :2].copy(), table.column("position").to_numpy()

    with ThreadPoolExecutor(FETCHES) as pool:
        read_parts = list(pool.map(read, staged))
    return find_duplicates([hashes for hashes, _ in read_parts], [positions for _, positions in read_parts])


def write_rejects(staging: Location, dest: Location, staged: list[StagedPart], duplicates: list[np.ndarray]) -> int:
    """Write every refused row with key, cause, source and message, in the order of the source; returns how many."""

    def read(part: StagedPart, left_out: np.ndarray) -> list[pa.Table]:
        tables = []
        if part.rejects:
            tables.append(read_table(staging / f"{part_name(part.index)}.rejects.parquet"))
        if left_out.any():
            tables.append(_duplicate_rejects(staging, part, left_out))
        return tables

    written = 0
    with write_parquet(dest, REJECTS) as writer, ThreadPoolExecutor(FETCHES) as pool:
        for start in range(0, len(staged), _PARTS_AT_A_TIME):
            some = slice(start, start + _PARTS_AT_A_TIME)
            tables = [table for found in pool.map(read, staged[some], duplicates[some]) for table in found]
            if tables:
                writer.write_table(pa.concat_tables(tables))
                written += sum(len(table) for table in tables)
    return written


def _duplicate_rejects(staging: Location, part: StagedPart, left_out: np.ndarray) -> pa.Table:
    table = read_table(staging / f"{part_name(part.index)}.index.parquet").filter(pa.array(left_out))
    table = table.sort_by("position")
    columns: dict[str, Any] = {
        "key": table.column("key"),
        "cause": pa.repeat(DUPLICATE, len(table)),
        "source": table.column("source"),
        "message": [
            f"the same bytes as an earlier image, SHA-256 {d.hex()}" for d in table.column("sha256").to_pylist()
        ],
    }
    return pa.table(columns, REJECTS)


def read_table(location: Location, columns: list[str] | None = None) -> pa.Table:
    """A small Parquet file, whole."""
    return pq.read_table(pa.BufferReader(location.read_bytes()), columns=columns, use_threads=False)
