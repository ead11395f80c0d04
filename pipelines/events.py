"""What a run says while it runs: rank 0 puts events into an actor, the driver takes them out and prints them.

So only the driver talks to the terminal and to MLflow, wherever the workers are; and a wish to stop travels back.
"""

from __future__ import annotations

import time
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


class EventLog:
    """A queue of events, and whether somebody asked to stop."""

    def __init__(self) -> None:
        self._events: list[dict[str, Any]] = []
        self._stop = False
        self._over = False

    def put(self, event: dict[str, Any]) -> None:
        """Add an event; one that is ``final`` ends the run."""
        self._events.append(event)
        self._over |= bool(event.get("final"))

    def ping(self) -> None:
        """Answers once all that the caller put before is in."""

    def is_over(self) -> bool:
        """Whether the run failed in a way that would only come again."""
        return self._over

    def take(self) -> list[dict[str, Any]]:
        """All events since the last call."""
        events, self._events = self._events, []
        return events

    def request_stop(self) -> None:
        """Ask the run to save and end."""
        self._stop = True

    def stop_requested(self) -> bool:
        """Whether the run should save and end."""
        return self._stop


def start_event_log() -> Any:
    """A handle of a new event log, as an actor that takes no CPU and lives where the driver does."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(EventLog).remote()


class StopFlag:
    """The actor's stop flag, asked for at most twice a second and never waited for."""

    def __init__(self, log: Any) -> None:
        self._log = log
        self._answer: Any = None
        self._asked = 0.0
        self._stop = False

    def is_set(self) -> bool:
        """The flag as last heard."""
        if self._answer is not None:
            ready, _ = ray.wait([self._answer], timeout=0)
            if ready:
                self._stop, self._answer = ray.get(self._answer), None
        elif time.monotonic() - self._asked > 0.5:
            self._answer, self._asked = self._log.stop_requested.remote(), time.monotonic()
        return self._stop
