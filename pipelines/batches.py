"""Decoded units on their way to a worker, and the batch they make there. Imports no ray."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, field, fields

import numpy as np

from pipelines.layout import FILLER, Layout
from pipelines.samples import CAUSES, Work


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """Rows that run through the towers at once."""

    pixels: np.ndarray
    """uint8 (B, H, W, 3)."""
    ids: np.ndarray
    """int32 (B, T), padded to the recipe's longest caption."""
    causes: np.ndarray
    """int8 (B,): index into ``pipelines.samples.CAUSES``, 0 for a valid row, FILLER for one that is of no batch."""

    @property
    def valid(self) -> np.ndarray:
        """bool (B,)."""
        return self.causes == 0


@dataclass(frozen=True, eq=False)
class Unit:
    """A decoded unit of the plan."""

    number: int
    """FILLER for one that is not of the plan."""
    keys: list[str]
    """Filler has none."""
    rows: MicroBatch
    work: Work
    """What these rows took."""


@dataclass(frozen=True, eq=False)
class Batch:
    """One worker's rows of one global batch."""

    units: list[int]
    keys: list[str]
    """Filler has none."""
    micro_batches: list[MicroBatch]
    work: Work = field(default_factory=Work)
    """What these rows took."""

    def count_causes(self) -> np.ndarray:
        """int64 (len(CAUSES),): rows by what became of them."""
        causes = np.concatenate([micro_batch.causes for micro_batch in self.micro_batches])
        return np.bincount(causes[causes != FILLER], minlength=len(CAUSES))


def to_unit(number: int, decoded: dict[str, np.ndarray]) -> Unit:
    """The unit of that number from what ``pipelines.samples.decode_unit`` or ``filler_unit`` made."""
    work = Work(*(decoded[name].sum().item() for name in ("image_bytes", "read_seconds", "decode_seconds")))
    rows = MicroBatch(decoded["pixels"], decoded["ids"], decoded["cause"])
    return Unit(number, decoded["key"].tolist(), rows, work)


def to_block(units: Sequence[Unit], pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Units as one row of the dataset; ``pixels`` (units, B, H, W, 3) is the memory that theirs lie in."""
    notes = [[unit.number, unit.keys, *astuple(unit.work)] for unit in units]
    return {
        "notes": np.array([json.dumps(notes)]),
        "pixels": pixels[None],
        "ids": np.stack([unit.rows.ids for unit in units])[None],
        "causes": np.stack([unit.rows.causes for unit in units])[None],
    }


def from_block(block: dict[str, np.ndarray]) -> Iterator[Unit]:
    """The units of ``to_block``, where they lie."""
    for i, (number, keys, *work) in enumerate(json.loads(block["notes"].item())):
        rows = MicroBatch(block["pixels"][0, i], block["ids"][0, i], block["causes"][0, i])
        yield Unit(number, keys, rows, Work(*work))


def to_batch(units: Sequence[Unit], layout: Layout) -> Batch:
    """The batch that a worker's units make, in order."""
    size = layout.units_per_micro_batch
    work = [astuple(unit.work) for unit in units]
    return Batch(
        units=[unit.number for unit in units],
        keys=[key for unit in units for key in unit.keys],
        micro_batches=[_to_micro_batch([u.rows for u in units[i : i + size]]) for i in range(0, len(units), size)],
        work=Work(*map(sum, zip(*work, strict=True))),
    )


def _to_micro_batch(rows: Sequence[MicroBatch]) -> MicroBatch:
    if len(rows) == 1:
        return rows[0]  # it lies well in the object store
    return MicroBatch(*(np.concatenate([getattr(part, f.name) for part in rows]) for f in fields(MicroBatch)))
