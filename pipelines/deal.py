"""The units of a plan as a dataset, a few of a worker's to a block, dealt out no faster than they are decoded.

Ray Data holds back a step that fills the object store, but a unit's number fills nothing: it would take in a plan of
ten thousand shards whole, for minutes and into hundreds of megabytes, before it decodes the first image. So one task
deals, and waits for an actor that the decoding tasks keep informed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import islice

import numpy as np
import ray
import ray.actor
import ray.data

from pipelines.layout import Layout

AHEAD_PER_CORE = 4
"""Blocks that may be dealt and not yet decoded: two at work, and two so that none has to wait for the dealing."""


def deal_units(
    layout: Layout, first_batch: int, stop_batch: int, units_per_block: int, pace: ray.actor.ActorHandle
) -> ray.data.Dataset:
    """The units of global batches [first_batch, stop_batch), as rows with the column ``units``, a worker's in turn."""
    bounds = ray.data.from_items([{"first": first_batch, "stop": stop_batch}])
    one_task = ray.data.TaskPoolStrategy(size=1)  # or Ray Data keeps a quarter of the cluster free for more of them
    units = bounds.map_batches(
        _deal, batch_format="numpy", fn_args=(layout, units_per_block, pace), num_cpus=0, compute=one_task
    )
    units.context.target_max_block_size = 1  # byte: every row is a block of its own, here and in all that follows
    return units


def start_pace(cores: int) -> ray.actor.ActorHandle:
    """The actor that says how far the dealing may go; whoever decodes a block calls ``done`` once."""
    return ray.remote(num_cpus=0)(Pace).remote(cores)


class Pace:
    """Counts decoded blocks and lets the dealing run AHEAD_PER_CORE blocks a core ahead of them."""

    def __init__(self, cores: int) -> None:
        self._cores = cores
        self._done = 0
        self._changed = asyncio.Condition()

    async def done(self) -> None:
        """One more block is decoded."""
        async with self._changed:
            self._done += 1
            self._changed.notify_all()

    async def allowed(self, dealt: int) -> int:
        """Blocks that may be dealt in all, as soon as they are a block a core more than those ``dealt``."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._allowed >= dealt + self._cores)
            return self._allowed

    @property
    def _allowed(self) -> int:
        return self._done + AHEAD_PER_CORE * self._cores


def _deal(
    bounds: dict[str, np.ndarray], layout: Layout, units_per_block: int, pace: ray.actor.ActorHandle
) -> Iterator[dict[str, np.ndarray]]:
    blocks = layout.dealt(int(bounds["first"][0]), int(bounds["stop"][0]), units_per_block)
    dealt = 0
    while True:
        allowed = ray.get(pace.allowed.remote(dealt))
        for units in islice(blocks, allowed - dealt):
            yield {"units": np.array([units])}
            dealt += 1
        if dealt < allowed:
            return
