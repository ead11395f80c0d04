"""What came of a study's trials, as files in its folder: one ``trial.json`` a trial, beside the trial's run.

study.yaml            the study resolved, its base recipe written out whole; can be run again as it is
run.json              the MLflow run that is the parent of the trials'
trials/0003/          an ordinary run of ``pipelines.train``, and
            trial.json   parameters, status and the numbers by step

Imports neither torch nor ray.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from clippy.config import ConfigError
from pipelines.storage import Location, locate
from tuning.study import Study

STUDY_FILE, TRIAL_FILE, TRIALS = "study.yaml", "trial.json", "trials"
Status = Literal["waiting", "running", "finished", "stopped", "failed"]


@dataclass(frozen=True)
class Trial:
    """One point of the space and what came of it."""

    number: int
    parameters: dict[str, Any]
    """The varied recipe fields by dotted name."""
    run: str
    """URL of its run folder."""
    status: Status = "waiting"
    """``stopped`` is ended early, by the scheduler or because the study's time was over."""
    error: str | None = None
    """Why it failed, in a sentence."""
    steps: int = 0
    """Optimizer steps done."""
    mlflow_run_id: str | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    """``step`` and the numbers of each validation, oldest first."""
    seconds: float = 0.0
    """Time it ran for, in all starts of the study."""

    @property
    def name(self) -> str:
        """The folder's name."""
        return trial_name(self.number)

    @property
    def is_over(self) -> bool:
        """Whether the study is done with it."""
        return self.status in ("finished", "stopped", "failed")

    def value(self, metric: str) -> float | None:
        """The last value reported; None without one."""
        return next((record[metric] for record in reversed(self.history) if metric in record), None)

    def best(self, metric: str, direction: str) -> float | None:
        """The best value reported, ``direction`` being 'max' or 'min'; None without one."""
        values = [record[metric] for record in self.history if metric in record]
        return (max if direction == "max" else min)(values) if values else None


@dataclass(frozen=True)
class StudyResults:
    """A study and all its trials so far."""

    study: Study
    folder: Location
    trials: list[Trial]
    """By number."""

    @property
    def objective(self) -> tuple[str, str]:
        """The first metric, and its direction: 'max' or 'min'."""
        return self.study.metrics[0].metric, self.study.metrics[0].direction

    def ranked(self) -> list[Trial]:
        """Finished and stopped trials that have a value of the first metric, the best last value first."""
        return ranked(self.trials, *self.objective)


def ranked(trials: Iterable[Trial], metric: str, direction: str) -> list[Trial]:
    """Finished and stopped trials that have a value of the metric, the best last value first."""
    sign = -1 if direction == "max" else 1
    valued = [(trial, trial.value(metric)) for trial in trials if trial.status in ("finished", "stopped")]
    having = [(sign * value, trial.number, trial) for trial, value in valued if value is not None]
    return [trial for _, _, trial in sorted(having, key=lambda row: row[:2])]


def trial_name(number: int) -> str:
    """'0003'."""
    return f"{number:04d}"


def save_trial(folder: Location, trial: Trial) -> None:
    """Write the trial's ``trial.json`` whole; ``folder`` is the study's."""
    values = json.dumps(asdict(trial), indent=2) + "\n"
    (folder / TRIALS / trial.name / TRIAL_FILE).write_text(values)


def load_results(folder_url: str, storage_options: Mapping[str, Any] | None = None) -> StudyResults:
    """The study in that folder, on a disk or an object store, and its trials.

    Raises ConfigError when no study lies there.
    """
    folder = locate(folder_url, storage_options)
    file = folder / STUDY_FILE
    if not file.exists():
        raise ConfigError(folder_url, [f"no study lies here: it has no {STUDY_FILE}"])
    return StudyResults(Study.load(file.url, file.read_text()), folder, load_trials(folder))


def load_trials(folder: Location) -> list[Trial]:
    """All trials of the study in ``folder``, by number. Raises ConfigError where a file is none of ours."""
    trials = []
    for info in (folder / TRIALS).list():
        file = folder / TRIALS / info.base_name / TRIAL_FILE
        if file.exists():
            try:
                trials.append(Trial(**json.loads(file.read_text())))
            except (ValueError, TypeError) as error:
                raise ConfigError(
                    file.url, [f"is no trial that a study wrote ({error}); restore or remove it"]
                ) from None
    return sorted(trials, key=lambda trial: trial.number)
