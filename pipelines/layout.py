"""Which rows of each global batch a worker takes: arithmetic alone.

A global batch is cut into micro-batches, the same ones however many workers there are: worker r takes the r-th run of
them. What is drawn at random in a step is drawn for each micro-batch, so an elastic run that loses workers goes on with
the numbers it would have had. Where the micro-batches do not come out even, the last workers get filler in their place,
rows that nobody counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

FILLER = -1
"""A unit of no rows of the plan."""


@dataclass(frozen=True)
class Layout:
    """The units of a global batch, dealt to ``world_size`` workers."""

    units_per_batch: int
    units_per_micro_batch: int
    world_size: int

    @property
    def micro_batches(self) -> int:
        """Of each worker, filler among them."""
        return -(-self.units_per_batch // (self.units_per_micro_batch * self.world_size))

    @property
    def units_per_worker(self) -> int:
        """Of each global batch, filler among them."""
        return self.micro_batches * self.units_per_micro_batch

    def units(self, batch: int, rank: int) -> list[int]:
        """The units of global batch ``batch`` that worker ``rank`` takes, in order."""
        first = rank * self.units_per_worker
        return [self._unit(batch, place) for place in range(first, first + self.units_per_worker)]

    def dealt(self, first_batch: int, stop_batch: int, units_per_block: int = 1) -> Iterator[list[int]]:
        """All units of batches [first_batch, stop_batch), in the order in which they go to the workers in turn.

        Each gets so many of its own at a time, whatever batches they are of; the last blocks may hold fewer.
        """
        workers = [self._units_of(rank, first_batch, stop_batch) for rank in range(self.world_size)]
        while blocks := [block for units in workers if (block := list(islice(units, units_per_block)))]:
            yield from blocks

    def _units_of(self, rank: int, first_batch: int, stop_batch: int) -> Iterator[int]:
        for batch in range(first_batch, stop_batch):
            yield from self.units(batch, rank)

    def _unit(self, batch: int, place: int) -> int:
        return batch * self.units_per_batch + place if place < self.units_per_batch else FILLER
