"""Decoded units on their way to a worker, and the batch they make there. Imports no ray."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

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


_ARRAYS = ("pixels", "ids", "cause")
_WORK = ("image_bytes", "read_seconds", "decode_seconds")


def to_block(unit: int, decoded: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A decoded unit as one row of the dataset."""
    block = {name: decoded[name][None] for name in _ARRAYS}
    work = {name: decoded[name].sum(keepdims=True) for name in _WORK}
    return {"unit": np.array([unit]), "keys": np.array([json.dumps(decoded["key"].tolist())]), **block, **work}


def to_batch(blocks: list[dict[str, np.ndarray]], layout: Layout) -> Batch:
    """The batch that a worker's blocks make, in order."""
    size = layout.units_per_micro_batch
    image_bytes, read_seconds, decode_seconds = (sum(block[name].item() for block in blocks) for name in _WORK)
    return Batch(
        units=[block["unit"].item() for block in blocks],
        keys=[key for block in blocks for key in json.loads(block["keys"].item())],
        micro_batches=[_to_micro_batch(blocks[i : i + size]) for i in range(0, len(blocks), size)],
        work=Work(image_bytes, read_seconds, decode_seconds),
    )


def _to_micro_batch(blocks: list[dict[str, np.ndarray]]) -> MicroBatch:
    joined = []
    for name in _ARRAYS:
        parts = [block[name][0] for block in blocks]
        joined.append(np.concatenate(parts) if len(parts) > 1 else parts[0])  # one lies well in the object store
    return MicroBatch(*joined)
