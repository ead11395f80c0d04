"""What the driver of a study does about what its trials say: writes it down, shows it, and ends the study when due."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray.util
from ray.tune import Callback

from clippy.config import ConfigError, nearest
from pipelines.tracking import Tracker
from tuning.board import Board
from tuning.records import TrialRecords
from tuning.results import Trial
from tuning.study import Study


class Watch(Callback):
    """Hears every trial from Ray Tune, in the driver's main thread."""

    def __init__(self, study: Study, records: TrialRecords, board: Board, tracker: Tracker | None) -> None:
        self._study, self._records, self._board, self._tracker = study, records, board, tracker
        self._placement_groups: dict[int, Any] = {}
        self.asked_to_end: set[int] = set()
        """Trials that the scheduler asked to end early."""
        self.on_end: Callable[[], None] = lambda: None
        """Called once when no trial shall go on."""
        self.reason: str | None = None
        """Why the study ends before its time: 'stopped', 'out of time' or 'mistaken'."""
        self.mistake: ConfigError | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles what it is given, and a study never reads a pickle."""
        return {}

    def end(self, reason: str) -> None:
        """Have every trial save a checkpoint and end, and start no other."""
        if self.reason is None:
            self.reason = reason
            self.on_end()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial begins or goes on."""
        before = self._records.trials[trial.config["number"]]
        again = before.status == "running" or before.steps > 0
        self._board.started(self._records.start(before.number), again)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Whatever a trial reports."""
        number = trial.config["number"]
        if "placement_group" in result:
            self._placement_groups[number] = result["placement_group"]
        if "ended" in result:
            self._ended(number, result)
        elif "step" in result:
            self._records.reached(number, result["step"], result.get("mlflow_run_id"))
            if "numbers" in result:
                self._measured(number, result["step"], result["numbers"])

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The process that drove a trial died again and again."""
        number = trial.config["number"]
        self._free(number)
        self._over(number, status="failed", error="the process that drove it died; was there memory enough?")

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The process that drove a trial died, and Tune starts another, which goes on from the checkpoint."""
        self._free(trial.config["number"])

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Several times a second."""
        minutes = self._study.budget.minutes
        if minutes is not None and self._records.seconds > 60 * minutes:
            self.end("out of time")
        self._board.draw()

    def _measured(self, number: int, step: int, numbers: dict[str, float]) -> None:
        if not self._records.measured(number, step, numbers):
            return
        trial = self._records.trials[number]
        for metric in (objective.metric for objective in self._study.metrics):
            if metric not in numbers and all(other.value(metric) is None for other in self._records.trials.values()):
                told = f"{metric!r} is none of what the benchmark comes to{nearest(metric, list(numbers))}"
                self.mistake = ConfigError(self._study.name, [f"metrics: {told}; it comes to {', '.join(numbers)}"])
                self.end("mistaken")
        steps = self._study.trial_recipe(trial.parameters).train.steps
        self._board.measured(trial, step, steps)

    def _ended(self, number: int, result: dict[str, Any]) -> None:
        trial = self._records.reached(number, result.get("step", 0), result.get("mlflow_run_id"))
        self._placement_groups.pop(number, None)
        if result["ended"] != "stopped":
            self._over(number, status=result["ended"], error=result.get("error"))
        elif number in self.asked_to_end or (self.reason == "out of time" and trial.history):
            self._over(number, status="stopped", error=None)
        else:
            self._over(number, status="waiting", error=None)

    def _over(self, number: int, **changes: Any) -> None:
        trial = self._records.end(number, **changes)
        self._board.ended(trial)
        if self._tracker and trial.is_over:
            self._tracker.log_values(_last_values(self._study, trial), number)

    def _free(self, number: int) -> None:
        group = self._placement_groups.pop(number, None)
        if group is not None:
            ray.util.remove_placement_group(group)


def _last_values(study: Study, trial: Trial) -> dict[str, float]:
    """What the trial came to in the end, for the parent run, whose steps are trials."""
    names = [objective.metric for objective in study.metrics]
    return {f"trials/{name}": value for name in names if (value := trial.value(name)) is not None}
