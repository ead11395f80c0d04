"""Validation while training goes on: the driver has each checkpoint that is due measured in a task of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray

from pipelines import validation
from pipelines.checkpoints import checkpoint_name
from pipelines.console import Console
from pipelines.job import Job


class Validator:
    """One checkpoint at a time, oldest first. What one came to, or why it could not be measured, is written down.

    Ray Train has a validation of its own, for checkpoints that it keeps a list of; ours are found by their commit
    marker alone, so a run that was started again also validates those that its driver did not live to see measured.
    """

    def __init__(self, job: Job, console: Console, log: Callable[[dict[str, float], int], None]) -> None:
        """``log`` hears the numbers of each step."""
        self._job, self._console, self._log = job, console, log
        self._running: tuple[int, Any] | None = None
        self._due = validation.steps_due(job.folder, job.recipe.eval.every)

    def saved(self) -> None:
        """There is a new checkpoint."""
        self._due = validation.steps_due(self._job.folder, self._job.recipe.eval.every)

    def poll(self, timeout: float = 0.0) -> bool:
        """Take a result if there is one, start the next; False when there is nothing left to do."""
        if self._running is not None:
            step, task = self._running
            if not ray.wait([task], timeout=timeout)[0]:
                return True
            self._running = None
            self._finish(step, task)
            self.saved()
        if self._due:
            self._running = (self._due[0], self._start(self._due[0]))
        return self._running is not None

    def _start(self, step: int) -> Any:
        resources = dict(self._job.recipe.eval.resources)
        task = ray.remote(_measure).options(
            num_cpus=resources.pop("CPU", 0), num_gpus=resources.pop("GPU", 0), resources=resources, max_retries=2
        )
        return task.remote(self._job, step)

    def _finish(self, step: int, task: Any) -> None:
        config, folder = self._job.recipe.eval, self._job.folder
        try:
            numbers = ray.get(task)
        except Exception as error:  # of the benchmark's data, or of its worker: training is none the worse
            reason = str(getattr(error, "cause", error)).splitlines()[0]
            validation.record(folder, step, {}, config, error=reason)
            self._console.line(f"validation of step {step} failed: {reason}")
            return
        is_best = validation.record(folder, step, numbers, config)
        self._log(numbers, step)
        shown = f"{config.best} {numbers[config.best]:.4f}" if config.best in numbers else f"no {config.best}"
        self._console.line(f"validation of step {step}: {shown}{', the best so far' if is_best else ''}")


def _measure(job: Job, step: int) -> dict[str, float]:
    from pipelines.evaluate import measure_here

    return measure_here(job.folder.checkpoints / checkpoint_name(step), job.recipe.eval)
