"""The only Ray Data graph of training: plan, read and decode, split over workers, batches.

A few units of the plan are one call of a decoder, and one block with one row: what Ray does for a block takes tens of
milliseconds of a core, whatever it holds. There is a decoder for each core, with two threads: while one decodes, the
other reads the next unit or hands the last block to Ray; encoded images never enter the object store.
``preserve_order`` keeps the plan's order, blocks of one row go to the workers in turn, and every worker checks the unit
numbers it is handed: an order that broke is an error, never a silently different run.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.actor
import ray.data

from pipelines.batches import Batch, Unit, from_block, to_batch, to_block, to_unit
from pipelines.deal import deal_units, start_pace
from pipelines.layout import FILLER, Layout
from pipelines.samples import Decoding, Source, decode_unit, filler_unit, read_unit

BLOCKS_PER_CORE = 2
"""One is decoded while the other is read or handed over."""
_KEEP_PAGES = {"MIMALLOC_PURGE_DELAY": "-1"}
"""Arrow would give the memory of a unit back to the system before it reads the next, which the system then clears."""


def build_dataset(
    source: Source,
    decoding: Decoding,
    layout: Layout,
    first_batch: int,
    stop_batch: int,
    *,
    cores: int,
    units_per_block: int,
) -> ray.data.Dataset:
    """Global batches [first_batch, stop_batch) as a lazy dataset, a block a row, decoded on so many cores.

    Split over the layout's workers in turn, it gives each what ``layout.units`` says, whatever the size of blocks.
    Opens only what is needed.
    """
    pace = start_pace(cores)
    units = deal_units(layout, first_batch, stop_batch, units_per_block, pace)
    # Ray Data would also hold decoding back by what the workers have fetched, of which they tell it only when they
    # fetch again: where that takes more blocks than are held back, both wait for ever. The budget bounds it already.
    units.context.downstream_capacity_backpressure_ratio = None
    units.context.op_resource_reservation_ratio = 0.1  # or a quarter of the budget waits for the dealing to use it
    units.context.memory_usage_poll_interval_s = None  # or a thread for each block asks for figures that nobody reads
    decoders = ray.data.ActorPoolStrategy(
        size=cores,
        max_concurrent_calls_per_actor=BLOCKS_PER_CORE,
        max_tasks_in_flight_per_actor=BLOCKS_PER_CORE,
        enable_true_multi_threading=True,
    )
    return units.map_batches(
        Decoder,
        compute=decoders,
        num_cpus=1,
        batch_size=None,
        batch_format="pyarrow",
        fn_constructor_args=(ray.put(source), decoding, pace),
        runtime_env={"env_vars": _KEEP_PAGES},
    )


def iterate_batches(
    shard: Any, layout: Layout, *, rank: int, first_batch: int, prefetch_blocks: int
) -> Iterator[Batch]:
    """This worker's batches from its split of the dataset, in order.

    Raises RuntimeError if a unit is not the next one of the plan.
    """
    units: list[Unit] = []
    batch, expected = first_batch, layout.units(first_batch, rank)
    blocks = shard.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=prefetch_blocks)
    for unit in (unit for block in blocks for unit in from_block(block)):
        if unit.number != expected[len(units)]:
            raise RuntimeError(
                f"worker {rank} of {layout.world_size} was handed unit {unit.number} of the plan instead of "
                f"{expected[len(units)]}: the stream lost its order, so training stops here and can be resumed"
            )
        units.append(unit)
        if len(units) == len(expected):
            yield to_batch(units, layout)
            units = []
            batch += 1
            expected = layout.units(batch, rank)


class Decoder:
    """Makes blocks of units: called from several threads, of which one at a time decodes."""

    def __init__(self, source_ref: ray.ObjectRef, decoding: Decoding, pace: ray.actor.ActorHandle) -> None:
        self._source: Source = ray.get(source_ref)
        self._decoding = decoding
        self._pace = pace
        self._core = threading.Lock()  # two pictures at once would only take each other's cache
        self._memory = Memory()

    def __call__(self, block: pa.Table) -> dict[str, np.ndarray]:
        """The units that the one row of ``block`` names, read and decoded."""
        numbers, size = np.ravel(block.column("units")[0].as_py()).tolist(), self._decoding.image_size
        pixels = self._memory.take(len(numbers), self._source.unit_rows, size, size, 3)
        units = [self._unit(number, pixels[i]) for i, number in enumerate(numbers)]
        self._pace.done.remote()
        return to_block(units, pixels)

    def _unit(self, number: int, pixels: np.ndarray) -> Unit:
        if number == FILLER:
            return to_unit(number, filler_unit(self._source.unit_rows, self._decoding, pixels))
        table = read_unit(self._source, number)
        with self._core:
            return to_unit(number, decode_unit(table, self._decoding, pixels))


class Memory(threading.local):
    """Memory of a thread's last block for its next one: clean pages from the system cost more than filling them."""

    def __init__(self) -> None:
        self._bytes = np.empty(0, np.uint8)

    def take(self, *shape: int) -> np.ndarray:
        """A uint8 array; the same memory as before unless somebody still holds an array over it."""
        if self._bytes.size != np.prod(shape) or sys.getrefcount(self._bytes) > 2:  # ours and getrefcount's own
            self._bytes = np.empty(np.prod(shape), np.uint8)
        return self._bytes.reshape(shape)
