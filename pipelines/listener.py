"""The driver's ear: what workers say goes to the console, to MLflow, and to the summary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipelines.console import Console
from pipelines.follower import Follower
from pipelines.job import Job
from pipelines.progress import progress_line
from pipelines.summary import Heard
from pipelines.tracking import Tracker
from pipelines.validator import Validator


class Listener:
    """Hears events in order; has checkpoints validated as they are announced, for as long as it is entered."""

    def __init__(
        self, job: Job, console: Console, tracker: Tracker | None, heard: Heard, follower: Follower | None = None
    ) -> None:
        self._job, self._console, self._tracker, self._heard = job, console, tracker, heard
        self._follower = follower or Follower()
        self._validator = Validator(job, console, self._log_validation)

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *error: object) -> None:
        self._validator.cancel()

    def listen(self, events: list[dict[str, Any]]) -> None:
        """Pass on each event, and look after validation."""
        for event in events:
            self._hear(event)
        self._validator.poll()

    def finish_validation(self, stop_requested: Callable[[], bool]) -> None:
        """Wait for the checkpoints that are still to be validated, unless somebody wants an end."""
        while not stop_requested() and self._validator.poll(timeout=0.5):
            pass

    def _log_validation(self, numbers: dict[str, float], step: int, time_ms: int) -> None:
        if self._tracker:
            self._tracker.log_validation(self._job.recipe.eval.benchmark, numbers, step, time_ms)
        self._follower.validated(step, numbers)

    def _hear(self, event: dict[str, Any]) -> None:
        job, console = self._job, self._console
        match event:
            case {"records": records}:
                self._heard.add(job.recipe, records)
                console.progress(progress_line(job.recipe, records[-1]))
                if self._tracker:
                    self._tracker.log(records)
                self._follower.trained(records)
            case {"saved": _}:
                self._validator.saved()
            case {"starting": _}:
                self._heard.failures_before = len(self._heard.failures)
            case {"started": workers, "step": step, "placement_group": group}:
                self._heard.starts += 1
                self._heard.placement_group = group
                self._follower.started(group)
                if self._heard.starts > 1:
                    console.line(f"started again on {workers} worker{'s' * (workers > 1)} at step {step}")
            case {"checkpoint_failed": step, "reason": reason}:
                console.line(f"the checkpoint of step {step} could not be written: {reason}; training goes on")
            case {"unpruned": reason}:
                console.line(f"older checkpoints could not be removed and take up room: {reason}; training goes on")
            case {"checkpoint_skipped": step}:
                console.line(f"no checkpoint of step {step}: two before it are still being written")
            case {"went_back": back, "at": step}:
                where = f"the checkpoint of step {back}" if back else "the start"
                console.line(
                    f"too many steps in a row were not finite: weights and optimizer are those of {where} again, and "
                    f"step {step} goes on with the next batch"
                )
            case {"preemption": nodes, "ranks": ranks}:
                console.line(f"{len(nodes)} node(s) with workers {ranks} will be taken: saving a checkpoint now")
            case {"profile": url}:
                console.line(f"trace written: {url}")
            case {"failure": sentence}:
                self._heard.failures.append(event)
                console.line(f"failed: {sentence.splitlines()[0][:200]}")
