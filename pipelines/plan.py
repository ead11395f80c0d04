"""The order of samples, as a pure function of (manifest, seed): no I/O, no state, no number of workers.

Epoch follows epoch in one endless sequence, and global batch k is rows [k * G, (k + 1) * G) of it. Within an epoch
every row group comes once, in a fresh seeded order, its rows shuffled. Row groups of the usual size come first and
start at multiples of that size in the endless sequence, so that a unit of so many rows (or a multiple, or a divisor)
never straddles two of them; what is left over of smaller row groups fills the joint between two epochs.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np


@dataclass(frozen=True)
class Rows:
    """Some rows of one row group, in the order in which they are wanted."""

    group: int
    """Index of the row group in the manifest."""
    rows: np.ndarray
    """int64, each counting the usable rows of the group from 0."""


@dataclass(frozen=True, eq=False)
class Plan:
    """The endless order over row groups of ``usable_rows`` (int64, one entry a group).

    Raises ValueError when there is no usable row at all.
    """

    usable_rows: np.ndarray
    digest: str
    """Of the manifest: other data, other order."""
    seed: int

    def __post_init__(self) -> None:
        if not self.rows_per_epoch:
            raise ValueError("the dataset has no usable row")

    @cached_property
    def rows_per_epoch(self) -> int:
        """Usable rows in all."""
        return int(self.usable_rows.sum())

    @cached_property
    def usual_rows(self) -> int:
        """The commonest number of usable rows in a row group; of two equally common ones, the larger."""
        sizes, counts = np.unique(self.usable_rows[self.usable_rows > 0], return_counts=True)
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
        order = self._epoch(epoch)
        found: list[Rows] = []
        for run in range(int(np.searchsorted(order.ends, start, side="right")), len(order.ends)):
            begin = int(order.ends[run] - order.counts[run])
            if begin >= stop:
                break
            group = int(order.groups[run])
            shuffled = _permutation(int(self.usable_rows[group]), self._key("rows", epoch, group))
            first = int(order.firsts[run])
            low, high = max(start - begin, 0), min(stop - begin, int(order.counts[run]))
            found.append(Rows(group, shuffled[first + low : first + high]))
        return found

    def _epoch(self, epoch: int) -> _EpochOrder:
        return _epoch_order(self, epoch)

    def _key(self, *parts: object) -> int:
        text = "/".join(map(str, (self.digest, self.seed, *parts)))
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


@dataclass(frozen=True, eq=False)
class _EpochOrder:
    """Runs of rows in the order of one epoch: ``counts`` rows of ``groups`` from the ``firsts``-th shuffled one on."""

    groups: np.ndarray
    firsts: np.ndarray
    counts: np.ndarray

    @cached_property
    def ends(self) -> np.ndarray:
        """Rows of the epoch up to and with each run."""
        return np.cumsum(self.counts)


@lru_cache(maxsize=4)
def _epoch_order(plan: Plan, epoch: int) -> _EpochOrder:
    """Head of odd rows up to the next multiple of the usual size, then full groups, then the other odd rows."""
    usable, usual = plan.usable_rows, plan.usual_rows
    shuffled = _permutation(len(usable), plan._key("groups", epoch))
    full, odd = shuffled[usable[shuffled] == usual], shuffled[(usable[shuffled] != usual) & (usable[shuffled] > 0)]
    head_rows = -epoch * plan.rows_per_epoch % usual
    if head_rows > usable[odd].sum():  # too few odd rows to fill the joint: one full group serves as an odd one
        full, odd = full[:-1], np.append(odd, full[-1])
    groups, firsts, counts = _split_odd(usable, full, odd, head_rows)
    return _EpochOrder(groups[counts > 0], firsts[counts > 0], counts[counts > 0])


def _split_odd(
    usable: np.ndarray, full: np.ndarray, odd: np.ndarray, head_rows: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Groups, first rows and counts with ``head_rows`` of the odd groups before the full ones, the rest behind."""
    ends = np.cumsum(usable[odd])
    cut = int(np.searchsorted(ends, head_rows))  # the odd group in which the head ends
    groups = np.concatenate([odd[: cut + 1], full, odd[cut:]])
    firsts, counts = np.zeros_like(groups), usable[groups]
    if len(odd):
        part = head_rows - (int(ends[cut - 1]) if cut else 0)
        rest = cut + 1 + len(full)
        counts[cut], firsts[rest] = part, part
        counts[rest] -= part
    return groups, firsts, counts


def _permutation(length: int, key: int) -> np.ndarray:
    """A permutation of range(length), int64, fixed for ever by ``key``: numpy's own generators may change."""
    with np.errstate(over="ignore"):  # splitmix64, Steele et al. 2014
        x = np.arange(1, length + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.argsort(x ^ (x >> np.uint64(31)), kind="stable")


def unit_rows(rows_per_worker: int, bytes_per_row: int, max_bytes: int = 64 * 2**20) -> int:
    """Rows of one unit: the largest divisor of a worker's batch whose decoded rows fit one block of the stream."""
    limit = max(1, max_bytes // bytes_per_row)
    return next(rows for rows in range(min(rows_per_worker, limit), 0, -1) if rows_per_worker % rows == 0)
