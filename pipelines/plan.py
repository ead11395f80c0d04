"""The order of samples, as a pure function of (manifests, weights, seed): no I/O, no state, no number of workers.

Epoch follows epoch in one endless sequence, and global batch k is rows [k * G, (k + 1) * G) of it. Each dataset of a
mixture has an endless sequence of its own, pass after pass over its row groups in a fresh seeded order, and an epoch
takes the next ``weight`` passes of each. What it takes is cut into visits of row groups, and these are shuffled over
all datasets, the rows of each shuffled too. Visits of the usual size come first and start at multiples of that size
in the endless sequence, so that a unit of so many rows (or a multiple, or a divisor) never straddles two of them;
what is left over of smaller visits fills the joint between two epochs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np


@dataclass(frozen=True)
class Rows:
    """Some rows of one row group, in the order in which they are wanted."""

    part: int
    """Index of the dataset."""
    group: int
    """Index of the row group in that dataset's manifest."""
    passes: int
    """How often the dataset was gone through before: what is drawn at random for a row follows from it."""
    rows: np.ndarray
    """int64, each counting the usable rows of the group from 0."""


@dataclass(frozen=True, eq=False)
class Part:
    """One dataset: usable rows of each row group, the digest of its manifest, and its passes in an epoch."""

    usable_rows: np.ndarray
    digest: str
    weight: float = 1.0

    @cached_property
    def rows_per_pass(self) -> int:
        """Usable rows in all."""
        return int(self.usable_rows.sum())

    @cached_property
    def rows_per_epoch(self) -> int:
        """Rows of an epoch: ``weight`` passes, rounded to whole rows, and one at least if there is any."""
        return max(round(self.weight * self.rows_per_pass), min(1, self.rows_per_pass))


@dataclass(frozen=True, eq=False)
class Plan:
    """The endless order over one dataset or several. Raises ValueError when one of them has no usable row."""

    parts: Sequence[Part]
    seed: int

    def __post_init__(self) -> None:
        if not all(part.rows_per_pass for part in self.parts):
            raise ValueError("the dataset has no usable row")

    @cached_property
    def digest(self) -> str:
        """Of all datasets and weights: another mixture, another order. Of one dataset, its manifest's own."""
        if len(self.parts) == 1 and self.parts[0].weight == 1:
            return self.parts[0].digest
        text = "/".join(f"{part.digest} {part.weight!r}" for part in self.parts)
        return hashlib.sha256(text.encode()).hexdigest()

    @cached_property
    def rows_per_epoch(self) -> int:
        """Rows of an epoch over all datasets."""
        return sum(part.rows_per_epoch for part in self.parts)

    @cached_property
    def usual_rows(self) -> int:
        """The commonest number of usable rows in a visited row group; of two equally common ones, the larger."""
        usable = np.concatenate([part.usable_rows for part in self.parts])
        weights = np.concatenate([np.full(len(part.usable_rows), part.weight) for part in self.parts])
        sizes, places = np.unique(usable[usable > 0], return_inverse=True)
        counts = np.bincount(places, weights=weights[usable > 0])
        return int(sizes[counts == counts.max()].max())

    def rows(self, start: int, stop: int) -> list[Rows]:
        """Positions [start, stop) of the endless sequence, in order, as runs of rows of one row group each."""
        found: list[Rows] = []
        while start < stop:
            epoch, offset = divmod(start, self.rows_per_epoch)
            count = min(stop - start, self.rows_per_epoch - offset)
            found += self._rows_of_epoch(epoch, offset, offset + count)
            start += count
        return found

    def _rows_of_epoch(self, epoch: int, start: int, stop: int) -> list[Rows]:
        visits, ends = _epoch_order(self, epoch)
        found: list[Rows] = []
        for run in range(int(np.searchsorted(ends, start, side="right")), len(ends)):
            part, group, passes, first, count = visits[:, run].tolist()
            begin = int(ends[run]) - count
            if begin >= stop:
                break
            source = self.parts[part]
            rows = int(source.usable_rows[group])
            shuffled = seeded_permutation(rows, source.digest, self.seed, "rows", passes, group)
            low, high = max(start - begin, 0), min(stop - begin, count)
            found.append(Rows(part, group, passes, shuffled[first + low : first + high]))
        return found


_PART, _GROUP, _PASSES, _FIRST, _COUNT = range(5)
"""Rows of an int64 (5, visits) array: a visit is ``count`` rows of a group from the ``first``-th shuffled one on."""


@lru_cache(maxsize=4)
def _epoch_order(plan: Plan, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """The visits of one epoch in order, and the rows up to and with each.

    Head of odd rows up to the next multiple of the usual size, then full visits, then the other odd rows.
    """
    visits = np.concatenate([_visits(part, i, plan.seed, epoch) for i, part in enumerate(plan.parts)], axis=1)
    visits = visits[:, seeded_permutation(visits.shape[1], plan.digest, plan.seed, "groups", epoch)]
    usual = visits[_COUNT] == plan.usual_rows
    full, odd = visits[:, usual], visits[:, ~usual]
    head_rows = -epoch * plan.rows_per_epoch % plan.usual_rows
    if head_rows > odd[_COUNT].sum() and full.shape[1]:
        # Too few odd rows to fill the joint: one full group serves as an odd one.
        full, odd = full[:, :-1], np.concatenate([odd, full[:, -1:]], axis=1)
    visits = _split_odd(full, odd, head_rows)
    visits = visits[:, visits[_COUNT] > 0]
    return visits, np.cumsum(visits[_COUNT])


def _visits(part: Part, index: int, seed: int, epoch: int) -> np.ndarray:
    """What an epoch takes of one dataset: the next rows of its passes, group by group."""
    found, start, stop = [], epoch * part.rows_per_epoch, (epoch + 1) * part.rows_per_epoch
    while start < stop:
        passes, low = divmod(start, part.rows_per_pass)
        high = min(low + stop - start, part.rows_per_pass)
        groups = np.arange(len(part.usable_rows))
        if high - low < part.rows_per_pass:  # a whole pass needs no order: the epoch is shuffled anyway
            groups = seeded_permutation(len(groups), part.digest, seed, "pass", passes)
        ends = np.cumsum(part.usable_rows[groups])
        begins = ends - part.usable_rows[groups]
        firsts = np.clip(low - begins, 0, None)
        counts = np.minimum(ends, high) - begins - firsts
        taken = counts > 0
        visits = [np.full_like(groups, index), groups, np.full_like(groups, passes), firsts, counts]
        found.append(np.stack(visits)[:, taken])
        start += high - low
    return np.concatenate(found, axis=1)


def _split_odd(full: np.ndarray, odd: np.ndarray, head_rows: int) -> np.ndarray:
    """Visits with ``head_rows`` of the odd ones before the full ones, the rest behind."""
    if not odd.shape[1]:
        return full
    ends = np.cumsum(odd[_COUNT])
    cut = min(int(np.searchsorted(ends, head_rows)), len(ends) - 1)  # the odd visit in which the head ends
    taken = min(head_rows, int(ends[-1])) - (int(ends[cut - 1]) if cut else 0)
    before, after = odd[:, : cut + 1].copy(), odd[:, cut:].copy()
    before[_COUNT, -1] = taken
    after[_FIRST, 0] += taken
    after[_COUNT, 0] -= taken
    return np.concatenate([before, full, after], axis=1)


def seeded_permutation(length: int, *seed: object) -> np.ndarray:
    """A permutation of range(length), int64, fixed for ever by ``seed``: numpy's own may change."""
    text = "/".join(map(str, seed))
    key = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
    with np.errstate(over="ignore"):  # splitmix64, Steele et al. 2014
        x = np.arange(1, length + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.argsort(x ^ (x >> np.uint64(31)), kind="stable")


MAX_UNIT_BYTES = 160 * 2**20
"""256 rows of 448 x 448 pixels: a row group of the usual size need not be read in parts."""


def unit_rows(rows_per_worker: int, bytes_per_row: int, max_bytes: int = MAX_UNIT_BYTES) -> int:
    """Rows of one unit: the largest divisor of a worker's batch whose decoded rows fit one block of the stream."""
    limit = max(1, max_bytes // bytes_per_row)
    return next(rows for rows in range(min(rows_per_worker, limit), 0, -1) if rows_per_worker % rows == 0)
