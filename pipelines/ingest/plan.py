"""Which staged rows make up which shard: a pure function of what was staged, so that any start gives the same shards.

Kept rows form one sequence, part after part or, shuffled, chunk after chunk in a seeded order. Row groups are equal
cuts of that sequence, and a shard is as many of them as come nearest to its size.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pipelines.ingest.stage import StagedPart
from pipelines.plan import seeded_permutation


@dataclass(frozen=True, eq=False)
class ImportPlan:
    """The sequence as chunks, a chunk being one row group of one staged part, and the shards as cuts of it."""

    parts: np.ndarray
    """int64, one entry a chunk: the part's index."""
    groups: np.ndarray
    """int64: the row group within the part."""
    rows: np.ndarray
    """int64: how many of its rows are kept."""
    bounds: np.ndarray
    """int64, one entry more than there are shards: rows of the sequence before each."""

    @property
    def shards(self) -> int:
        """How many."""
        return len(self.bounds) - 1

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum(self.rows)

    def chunks(self, shard: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Parts, groups, first kept rows and counts, int64, that make up one shard, in order."""
        ends = self._ends
        begin, end = self.bounds[shard], self.bounds[shard + 1]
        first, last = np.searchsorted(ends, begin, side="right"), np.searchsorted(ends, end, side="left")
        inside = slice(first, last + 1)
        starts = ends[inside] - self.rows[inside]
        firsts = np.maximum(begin - starts, 0)
        counts = np.minimum(end - starts, self.rows[inside]) - firsts
        return self.parts[inside], self.groups[inside], firsts, counts


def plan_shards(
    staged: list[StagedPart],
    duplicates: list[np.ndarray],
    row_group_rows: int,
    shard_bytes: int,
    seed: int | None,
) -> ImportPlan:
    """The plan. ``duplicates`` holds, for each part, bool (rows): which of its staged rows are left out.

    An empty array stands for none. Every row group has ``row_group_rows`` rows but the very last.
    """
    parts = np.repeat([part.index for part in staged], [len(part.groups) for part in staged]).astype(np.int64)
    groups = np.concatenate([np.zeros(0, np.int64), *(np.arange(len(part.groups)) for part in staged)])
    rows = np.array([n for part in staged for n in part.groups], dtype=np.int64)
    mean_bytes = {part.index: part.image_bytes / max(part.rows, 1) for part in staged}
    sizes = np.array([mean_bytes[part] for part in parts.tolist()], dtype=np.float64)
    if any(len(left_out) for left_out in duplicates):
        rows = np.concatenate([_kept(part, left_out) for part, left_out in zip(staged, duplicates, strict=True)])
    order = np.arange(len(rows)) if seed is None else seeded_permutation(len(rows), f"{seed}/chunks")
    order = order[rows[order] > 0]
    parts, groups, rows, sizes = parts[order], groups[order], rows[order], sizes[order]
    return ImportPlan(parts, groups, rows, _cut_shards(rows, rows * sizes, row_group_rows, shard_bytes))


def _kept(part: StagedPart, left_out: np.ndarray) -> np.ndarray:
    """Rows kept of each row group."""
    if not len(left_out) or not part.groups:
        return np.array(part.groups, dtype=np.int64)
    starts = np.cumsum([0, *part.groups[:-1]])
    return np.array(part.groups, dtype=np.int64) - np.add.reduceat(left_out.astype(np.int64), starts)


def _cut_shards(rows: np.ndarray, sizes: np.ndarray, row_group_rows: int, shard_bytes: int) -> np.ndarray:
    """Rows before each shard and at the end; bytes within a chunk are taken to be even."""
    total = int(rows.sum())
    cuts = np.append(np.arange(0, total, row_group_rows), total)  # where a row group may begin
    size_before = np.interp(cuts, np.append(0, np.cumsum(rows)), np.append(0.0, np.cumsum(sizes)))
    bounds = [0]
    while bounds[-1] < len(cuts) - 1:
        here = bounds[-1]
        fits = int(np.searchsorted(size_before, size_before[here] + shard_bytes, side="right")) - 1
        bounds.append(min(max(fits, here + 1), len(cuts) - 1))
    return cuts[bounds]


def find_duplicates(hashes: list[np.ndarray], positions: list[np.ndarray]) -> list[np.ndarray]:
    """For each part, bool (rows): whether the same hash came before in source order.

    ``hashes`` are uint64 (rows, 2) for each part, ``positions`` int64 (rows,) the rows' places in it. In all, memory
    is about 60 bytes a row.
    """
    lengths = [len(part) for part in hashes]
    values = np.concatenate([np.zeros((0, 2), np.uint64), *hashes])
    part_of = np.repeat(np.arange(len(hashes)), lengths)
    places = np.concatenate([np.zeros(0, np.int64), *positions])
    order = np.lexsort((places, part_of, values[:, 1], values[:, 0]))
    ordered = values[order]
    left_out = np.zeros(len(values), dtype=bool)
    left_out[order[1:]] = (ordered[1:] == ordered[:-1]).all(axis=1)
    return np.split(left_out, np.cumsum(lengths)[:-1]) if hashes else []
