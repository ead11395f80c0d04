"""The study's wish that a trial ends, for trials wherever they are."""

from __future__ import annotations

from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


class StopFlags:
    """Which trials should stop: one actor for all trials of a study."""

    def __init__(self) -> None:
        self._numbers: set[int] = set()
        self._all = False

    def request_stop(self, number: int | None = None) -> None:
        """A trial should stop, or all of them."""
        if number is None:
            self._all = True
        else:
            self._numbers.add(number)

    def stop_requested(self, number: int) -> bool:
        """Whether this trial should stop."""
        return self._all or number in self._numbers


def start_stop_flags() -> Any:
    """A handle of new flags, as an actor that takes no CPU and lives where the driver does."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(StopFlags).remote()
