"""Where a step's time goes, on a CPU by its clock and on a GPU by events in its stream."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch.profiler import record_function

PHASES = (
    "data_wait",
    "host_to_device",
    "forward",
    "loss",
    "backward",
    "communication",
    "optimizer",
    "checkpoint",
    "other",
)
"""``communication`` is what training waits for: gathering embeddings, agreeing on a step, and what of adding up the
gradients goes on after the backward pass is done. What of it runs beside the backward pass costs nothing."""


class StepTimer:
    """A timeline of phases, each moment in one of them: a phase inside another takes its time from that one."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._phases = ["other"]
        self._marks: list[tuple[Any, str]] = [(self._now(), "other")]

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Time the block as ``phase``; a trace of torch's profiler shows it by that name."""
        self._phases.append(phase)
        self.turn(phase)
        try:
            with record_function(phase):
                yield
        finally:
            self._phases.pop()
            self.turn(self._phases[-1])

    def turn(self, phase: str) -> None:
        """From here to the end of the running block time counts as ``phase``."""
        self._marks.append((self._now(), phase))

    def take(self) -> dict[str, float]:
        """Seconds of each phase since the last call; waits for a GPU."""
        marks = [*self._marks, (self._now(), "")]
        if self._cuda:
            torch.cuda.synchronize()
        seconds = dict.fromkeys(PHASES, 0.0)
        for (start, phase), (stop, _) in pairwise(marks):
            seconds[phase] += start.elapsed_time(stop) / 1e3 if self._cuda else stop - start
        self._marks = [(marks[-1][0], self._phases[-1])]
        return seconds

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
