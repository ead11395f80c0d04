"""How much of Ray's object store the stream may fill: worked out before the start, held to, and watched."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import ray
import ray.data

from pipelines.recipe import Recipe
from pipelines.samples import Decoding, Source
from pipelines.stream import BLOCKS_PER_CORE

_FILL = 0.8
"""Above this share Ray begins to spill blocks to disk."""
_COMFORT = 256 * 2**20
"""Small units may fill this much unless told otherwise: so little is not worth holding them up for."""
_BLOCK_BYTES, _BLOCK_UNITS = 128 * 2**20, 8
"""Units are joined to a block up to both: what Ray does for a block then costs little of what decoding it takes."""


@dataclass(frozen=True)
class StreamBudget:
    """Bytes of the object store that the stream needs at least and may use at most."""

    unit_bytes: int
    """One decoded unit."""
    units_per_block: int
    prefetch_blocks: int
    """That each worker fetches ahead."""
    needed_bytes: int
    limit_bytes: int
    handed_bytes: int
    """Part of the limit for the block that each worker fetched last: Ray Data hears of it when it fetches again."""
    store_bytes: int
    """What the cluster has."""
    decode_cores: int
    """Cores that are not the workers'."""

    def as_text(self) -> str:
        """One line for the log."""
        return (
            f"object store: the stream fills at most {_gib(self.limit_bytes)} of {_gib(self.store_bytes)} GiB, "
            f"in blocks of {self.units_per_block * self.unit_bytes / 2**20:.1f} MiB"
        )


def plan_budget(recipe: Recipe, source: Source, decoding: Decoding, cores: int, store_bytes: int) -> StreamBudget:
    """The budget of a stream decoding on ``cores`` into a store of ``store_bytes``.

    Needed are the blocks that workers hold or fetch ahead, and those being made; they hold as many units as fit well.
    Raises ValueError, with the numbers and the field to change, when not even blocks of one unit fit.
    """
    data, workers = recipe.data, recipe.scaling.max_workers
    unit = source.unit_rows * (3 * decoding.image_size**2 + 4 * decoding.max_tokens + 64)
    usable = int(_FILL * store_bytes)
    told = None if data.object_store_gib is None else int(data.object_store_gib * 2**30)
    making = BLOCKS_PER_CORE * cores
    per_batch = -(-recipe.optim.global_batch_size // workers // source.unit_rows)
    for units_per_block in range(max(1, min(_BLOCK_UNITS, _BLOCK_BYTES // unit)), 0, -1):
        block, ahead = units_per_block * unit, -(-data.prefetch_batches // units_per_block)
        # The batch at work may begin anywhere in a block; besides, one block is going and one is coming.
        held = workers * (ahead + 1 + (per_batch + units_per_block - 2) // units_per_block + 2)
        needed = (held + making) * block
        if needed <= (usable // 2 if told is None else min(told, usable)):
            break
    what = f"{held} units held by {workers} workers and {making} being made, {unit / 2**20:.1f} MiB each,"
    if told is not None and told < needed:
        raise ValueError(
            f"data.object_store_gib: {data.object_store_gib:g} is less than the {_gib(needed)} that {what} need; "
            f"raise it, or lower data.prefetch_batches ({data.prefetch_batches}) or optim.global_batch_size"
        )
    if needed > usable:
        raise ValueError(
            f"data.prefetch_batches: {what} need {_gib(needed)} GiB, more than the {_gib(usable)} GiB that the "
            f"cluster's object store of {_gib(store_bytes)} GiB takes without spilling; lower data.prefetch_batches "
            f"({data.prefetch_batches}) or optim.global_batch_size, or start Ray with a larger object store"
        )
    limit = told or max(needed + making * block, _COMFORT)
    return StreamBudget(unit, units_per_block, ahead, needed, min(limit, usable), workers * block, store_bytes, cores)


def cluster_budget(recipe: Recipe, source: Source, decoding: Decoding) -> StreamBudget:
    """The budget on the cluster that this process is connected to. Raises ValueError when it does not fit."""
    store_bytes = int(ray.cluster_resources().get("object_store_memory", 0))
    return plan_budget(recipe, source, decoding, decode_cores(recipe), store_bytes)


def decode_cores(recipe: Recipe, workers: int | None = None) -> int:
    """Cores that read and decode: as many as the recipe says, or all of the cluster's that the rest of it leaves."""
    scaling = recipe.scaling
    taken = (workers or scaling.max_workers) * scaling.resources_per_worker.get("CPU", 1.0)
    taken += recipe.eval.resources.get("CPU", 0.0)
    return scaling.decode_cores or max(1, int(ray.cluster_resources().get("CPU", 1) - taken))


def execution_options(budget: StreamBudget) -> ray.data.ExecutionOptions:
    """Ray Data's options: the plan's order, and no more of the object store than the budget."""
    limits = ray.data.ExecutionResources.for_limits(object_store_memory=budget.limit_bytes - budget.handed_bytes)
    return ray.data.ExecutionOptions(preserve_order=True, resource_limits=limits)


class StoreGauge:
    """The most that the cluster's object store was seen to hold beyond what it held at first."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._first = self._used()

    def sample(self) -> None:
        """Look once."""
        self.peak_bytes = max(self.peak_bytes, self._used() - self._first)

    @staticmethod
    def _used() -> int:
        total, free = ray.cluster_resources(), ray.available_resources()
        return int(total.get("object_store_memory", 0) - free.get("object_store_memory", 0))


@contextmanager
def watch_store(seconds: float = 0.25) -> Iterator[StoreGauge]:
    """Sample the object store in a thread while the block runs."""
    gauge, done = StoreGauge(), threading.Event()

    def watch() -> None:
        while not done.wait(seconds):
            gauge.sample()

    thread = threading.Thread(target=watch, daemon=True, name="object store")
    thread.start()
    try:
        yield gauge
    finally:
        done.set()
        thread.join()


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f}"
