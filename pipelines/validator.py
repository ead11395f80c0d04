"""Validation while training goes on: the driver has each checkpoint that is due measured in a task of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import ray

from pipelines import validation
from pipelines.checkpoints import checkpoint_name
from pipelines.console import Console
from pipelines.job import Job

_PAUSE_SECONDS = 5.0
_PATIENCE_SECONDS = 600.0
"""So long storage that is away is waited for when nothing else is left to do."""


class Validator:
    """One checkpoint at a time, oldest first. What one came to, or why it could not be measured, is written down.

    Ray Train has a validation of its own, for checkpoints that it keeps a list of; ours are found by their commit
    marker alone, so a run that was started again also validates those that its driver did not live to see measured.
    """

    def __init__(self, job: Job, console: Console, log: Callable[[dict[str, float], int, int], None]) -> None:
        """``log`` hears the numbers of each step, and when they were known, in milliseconds since 1970."""
        self._job, self._console, self._log = job, console, log
        self._running: tuple[int, Any] | None = None
        self._look = True
        self._stuck_since: float | None = None
        self._not_before = 0.0

    def saved(self) -> None:
        """There is a new checkpoint."""
        self._look = True

    def cancel(self) -> None:
        """Give up the validation that is being made, and free what it takes; a later start makes it."""
        if self._running is not None:
            ray.cancel(self._running[1], force=True)
            self._running = None

    def poll(self, timeout: float = 0.0) -> bool:
        """Take a result if there is one, start the next; False when there is nothing left to do.

        What storage refuses is tried again later: the training is none the worse.
        """
        if self._stuck_since is not None and time.monotonic() < self._not_before:
            time.sleep(timeout)
            return True
        try:
            busy = self._go_on(timeout)
        except Exception as error:  # Arrow, s3fs and botocore each raise their own
            now = time.monotonic()
            if self._stuck_since is None:
                self._stuck_since = now
                self._console.line(f"storage does not let validation go on, which tries again: {_in_one_line(error)}")
            self._not_before = now + _PAUSE_SECONDS
            return now - self._stuck_since < _PATIENCE_SECONDS
        self._stuck_since = None
        return busy

    def _go_on(self, timeout: float) -> bool:
        if self._running is not None:
            step, task = self._running
            if not ray.wait([task], timeout=timeout)[0]:
                return True
            self._finish(step, task)
            self._running, self._look = None, True
        if self._look:
            due = validation.steps_due(self._job.folder, self._job.recipe.eval.every)
            self._look = False
            if due:
                self._running = (due[0], self._start(due[0]))
        return self._running is not None

    def _start(self, step: int) -> Any:
        resources = dict(self._job.recipe.eval.resources)
        task = ray.remote(_measure).options(
            num_cpus=resources.pop("CPU", 0), num_gpus=resources.pop("GPU", 0), resources=resources, max_retries=2
        )
        return task.remote(self._job, step)

    def _finish(self, step: int, task: Any) -> None:
        config, folder, now = self._job.recipe.eval, self._job.folder, int(time.time() * 1000)
        try:
            numbers = ray.get(task)
        except Exception as error:  # of the benchmark's data, or of its worker: training is none the worse
            reason = _in_one_line(getattr(error, "cause", error))
            validation.record(folder, step, {}, config, now, error=reason)
            self._console.line(f"validation of step {step} failed: {reason}")
            return
        is_best = validation.record(folder, step, numbers, config, now)
        self._log(numbers, step, now)
        shown = f"{config.best} {numbers[config.best]:.4f}" if config.best in numbers else f"no {config.best}"
        self._console.line(f"validation of step {step}: {shown}{', the best so far' if is_best else ''}")


def _in_one_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _measure(job: Job, step: int) -> dict[str, float]:
    from pipelines.evaluate import measure_here

    return measure_here(job.folder.checkpoints / checkpoint_name(step), job.recipe.eval)
