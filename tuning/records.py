"""The trials of a study while it runs: what is known of each, written down at every change. Imports no ray."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from pipelines.run_folder import RUN_FILE, RunFolder
from pipelines.storage import Location
from tuning.results import TRIALS, Trial, load_trials, save_trial, trial_name
from tuning.space import Parameters


class TrialRecords:
    """All trials by number. Their files are the truth from which a study goes on after a kill."""

    def __init__(self, folder: Location) -> None:
        self.folder = folder
        self.trials = {trial.number: trial for trial in load_trials(folder)}
        known = RunFolder(folder).read_json(RUN_FILE)
        self._seconds_before = float(known.get("seconds", 0.0))
        self._began = time.monotonic()
        self._since: dict[int, float] = {}

    @property
    def seconds(self) -> float:
        """How long the study ran, in all its starts."""
        return self._seconds_before + time.monotonic() - self._began

    @property
    def unfinished(self) -> list[Trial]:
        """Trials that are not over, those that had begun first."""
        left = [trial for trial in self.trials.values() if not trial.is_over]
        return sorted(left, key=lambda trial: (trial.status == "waiting" and not trial.steps, trial.number))

    def add(self, points: Iterable[Parameters]) -> None:
        """Enter those of the points, counted from 0, that are not known yet."""
        for number, parameters in enumerate(points):
            if number not in self.trials:
                self.new(number, parameters)

    def new(self, number: int, parameters: Parameters) -> Trial:
        """Enter one more."""
        run = self.folder / TRIALS / trial_name(number)
        return self._write(Trial(number, dict(parameters), run.path if run.is_local else run.url))

    def start(self, number: int) -> Trial:
        """The trial runs, maybe again."""
        self._since.setdefault(number, time.monotonic())
        return self._write(replace(self.trials[number], status="running"))

    def reached(self, number: int, step: int, mlflow_run_id: str | None = None) -> Trial:
        """The trial is at this step; not written, since the next thing that counts is."""
        trial = self.trials[number]
        known = mlflow_run_id or trial.mlflow_run_id
        self.trials[number] = replace(trial, steps=max(step, trial.steps), mlflow_run_id=known)
        return self.trials[number]

    def measured(self, number: int, step: int, numbers: Mapping[str, float]) -> bool:
        """A validation of the trial; False when it was known."""
        trial = self.trials[number]
        if any(record["step"] == step for record in trial.history):
            return False
        history = sorted([*trial.history, {"step": step, **numbers}], key=lambda record: record["step"])
        self._write(replace(trial, history=history, steps=max(step, trial.steps)))
        return True

    def end(self, number: int, **changes: Any) -> Trial:
        """The trial ends, or waits for another start of the study."""
        ended = self._write(replace(self.trials[number], **changes))
        self._since.pop(number, None)
        return ended

    def running_seconds(self, trial: Trial) -> float:
        """How long the trial ran, in all starts."""
        since = self._since.get(trial.number)
        return trial.seconds + (time.monotonic() - since if since is not None else 0.0)

    def _write(self, trial: Trial) -> Trial:
        now = time.monotonic()
        if trial.number in self._since:
            trial = replace(trial, seconds=self.running_seconds(trial))
            self._since[trial.number] = now
        self.trials[trial.number] = trial
        save_trial(self.folder, trial)
        own = RunFolder(self.folder)
        own.write_json(RUN_FILE, own.read_json(RUN_FILE) | {"seconds": round(self.seconds, 1)})
        return trial
