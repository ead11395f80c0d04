"""Trials that are stopped early: Ray Tune's ASHA decides, the trial itself ends."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from tuning.results import Trial
from tuning.study import Study

_STEP = "step"


class EarlyStopping(ASHAScheduler):
    """ASHA that asks a trial to end rather than have Tune end it, and that knows the trials of earlier starts."""

    def __init__(self, study: Study, steps: int, grace_steps: int, ask: Callable[[int], None]) -> None:
        """``steps`` is the length of the longest trial; ``ask`` is told of each trial that is to end."""
        objective, scheduler = study.metrics[0], study.scheduler
        super().__init__(
            time_attr=_STEP,
            metric=objective.metric,
            mode=objective.direction,
            max_t=steps,
            grace_period=grace_steps,
            reduction_factor=scheduler.reduction_factor,
            stop_last_trials=False,
        )
        self._name, self._ask = objective.metric, ask
        self.asked: set[int] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles what it is given, and a study never reads a pickle."""
        return {}

    def remember(self, trials: Iterable[Trial]) -> None:
        """Let these, which are over, count where others are compared with them."""
        for trial in trials:
            known: Any = SimpleNamespace(trial_id=f"earlier {trial.number}")
            self.on_trial_add(None, known)
            for record in trial.history:
                super().on_trial_result(None, known, record)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Look at a validation; the trial goes on until it has done what it is asked."""
        value, number = result.get(f"numbers/{self._name}"), trial.config["number"]
        if value is not None and math.isfinite(value) and number not in self.asked:
            record = {_STEP: result[_STEP], self._name: value}
            if super().on_trial_result(tune_controller, trial, record) == TrialScheduler.STOP:
                self.asked.add(number)
                self._ask(number)
        return TrialScheduler.CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """All was said before."""


def build_scheduler(study: Study, over: Iterable[Trial], ask: Callable[[int], None]) -> EarlyStopping | FIFOScheduler:
    """The scheduler that the study names; ``over`` are the trials that are over."""
    if study.scheduler.name == "none":
        return FIFOScheduler()
    recipe = study.base_recipe
    domain = study.space.get("train.steps")
    steps = max(domain.ends) if domain else recipe.train.steps
    grace = study.scheduler.grace_steps or recipe.eval.every or steps
    scheduler = EarlyStopping(study, steps, min(grace, steps), ask)
    scheduler.remember(over)
    return scheduler
