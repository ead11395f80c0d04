"""A study as a person sees it: a table that lives on a terminal, plain lines in a log."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence

from pipelines.console import Console, duration
from tuning.records import TrialRecords
from tuning.results import Trial, ranked
from tuning.study import Study, shown, shown_value


class Board:
    """Shows the records of a study as they change."""

    def __init__(self, study: Study, records: TrialRecords, console: Console) -> None:
        self._study, self._records, self._console = study, records, console
        self._drawn = 0.0

    def draw(self) -> None:
        """The table again, on a terminal, twice a second."""
        if self._console.is_terminal and time.monotonic() - self._drawn > 0.5:
            self._drawn = time.monotonic()
            most = max(3, shutil.get_terminal_size().lines - 4)
            self._console.block(study_table(self._study, self._records, most))

    def started(self, trial: Trial, again: bool) -> None:
        """A trial begins, or goes on."""
        self._note(f"trial {trial.number}{' goes on' if again else ''}: {shown(trial.parameters)}")

    def measured(self, trial: Trial, step: int, steps: int) -> None:
        """A validation of a trial."""
        self._note(f"trial {trial.number}: step {step} of {steps}, {self._values(trial)}")

    def ended(self, trial: Trial) -> None:
        """A trial is over, or stays for later."""
        took = duration(trial.seconds)
        if trial.status == "failed":
            self._console.line(f"trial {trial.number} failed: {trial.error}")
        elif trial.status == "stopped":
            self._note(f"trial {trial.number} stopped early at step {trial.steps}, {self._values(trial)}, {took}")
        elif trial.status == "finished":
            self._note(f"trial {trial.number} finished, {self._values(trial)}, {took}")
        else:
            self._note(f"trial {trial.number} saved at step {trial.steps}")

    def _values(self, trial: Trial) -> str:
        names = [metric.metric for metric in self._study.metrics]
        return ", ".join(f"{name} {_number(trial.value(name))}" for name in names)

    def _note(self, text: str) -> None:
        if not self._console.is_terminal:
            self._console.line(text)


def study_table(study: Study, records: TrialRecords, most: int | None = None) -> list[str]:
    """A heading, a line a trial and a line of counts; of more than ``most`` trials, those that run and the best."""
    trials = list(records.trials.values())
    metrics = [metric.metric for metric in study.metrics]
    rows = [
        (
            str(trial.number),
            *(shown_value(trial.parameters[name]) if name in trial.parameters else "" for name in study.space),
            trial.status,
            str(trial.steps) if trial.steps else "",
            *(_number(trial.value(metric)) for metric in metrics),
            duration(records.running_seconds(trial)) if trial.steps or trial.status == "running" else "",
        )
        for trial in _worth_showing(study, trials, most)
    ]
    headings = ("trial", *_short(list(study.space)), "status", "step", *_short(metrics, "/"), "time")
    counts = [f"{n} {status}" for status in _STATUSES if (n := sum(trial.status == status for trial in trials))]
    hidden = f"; {len(trials) - len(rows)} more not shown" if len(rows) < len(trials) else ""
    return [*_columns([headings, *rows]), f"{', '.join(counts)}; {duration(records.seconds)}{hidden}"]


_STATUSES = ("running", "finished", "stopped", "failed", "waiting")


def _worth_showing(study: Study, trials: list[Trial], most: int | None) -> list[Trial]:
    if most is None or len(trials) <= most:
        return trials
    running = [trial for trial in trials if trial.status == "running"]
    best = ranked(trials, study.metrics[0].metric, study.metrics[0].direction)
    chosen = dict.fromkeys(trial.number for trial in [*running, *best, *reversed(trials)])
    numbers = set(list(chosen)[:most])
    return [trial for trial in trials if trial.number in numbers]


def _short(names: Sequence[str], separator: str = ".") -> list[str]:
    """Each name's last part, or as many parts as tell it from the others."""
    parts = [name.split(separator) for name in names]
    count = 1
    while count < max(map(len, parts)) and len({tuple(part[-count:]) for part in parts}) < len(parts):
        count += 1
    return [separator.join(part[-count:]) for part in parts]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _columns(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
