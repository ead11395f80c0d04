"""Who is ahead: trials by a metric, settings over their seeds, and the trials that none beats in everything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from tuning.results import Trial
from tuning.study import Objective

SEED = "seed"
STATUS = {"stopped": "stopped early"}
"""What a status is called, where not by its own name."""


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation of a metric; of one value there is no deviation."""

    mean: float
    deviation: float | None
    count: int


@dataclass(frozen=True)
class Setting:
    """Trials that are equal but for their seed."""

    parameters: dict[str, Any]
    """Without the seed."""
    trials: tuple[Trial, ...]

    @property
    def finished(self) -> tuple[Trial, ...]:
        """Those that ran to their end: what others came to after fewer steps has no place in a mean."""
        return tuple(trial for trial in self.trials if trial.status == "finished")

    def spread(self, objective: Objective) -> Spread | None:
        """Over the seeds that finished; None without any."""
        return spread([trial.value(objective.metric) for trial in self.finished])


def order(objective: Objective, value: float) -> float:
    """Sorts values of a metric, the best first."""
    return -value if objective.direction == "max" else value


def spread(values: Sequence[float | None]) -> Spread | None:
    """Mean and deviation of those values that are there; None without any."""
    known = [value for value in values if value is not None]
    return Spread(fmean(known), stdev(known) if len(known) > 1 else None, len(known)) if known else None


def settings(trials: Sequence[Trial], objective: Objective) -> list[Setting]:
    """Trials by what they have in common but for the seed, the best mean first, those without any last."""
    groups: dict[tuple[tuple[str, str], ...], list[Trial]] = {}
    for trial in trials:
        alike = tuple(sorted((name, repr(value)) for name, value in trial.parameters.items() if name != SEED))
        groups.setdefault(alike, []).append(trial)
    found = [Setting(_without_seed(group[0].parameters), tuple(group)) for group in groups.values()]

    def key(setting: Setting) -> tuple[bool, float]:
        known = setting.spread(objective)
        return known is None, order(objective, known.mean) if known else 0.0

    return sorted(found, key=key)


def _without_seed(parameters: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if name != SEED}


def pareto_front(trials: Sequence[Trial], objectives: Sequence[Objective]) -> list[Trial]:
    """The trials that no other equals in all objectives and beats in one, the best of the first objective first.

    ``trials`` have finished or were stopped early; one that lacks a value is not on the front.
    """
    points: list[tuple[tuple[float, ...], Trial]] = []
    for trial in trials:
        values = [trial.value(objective.metric) for objective in objectives]
        keys = tuple(order(o, value) for o, value in zip(objectives, values, strict=True) if value is not None)
        if len(keys) == len(objectives):
            points.append((keys, trial))

    def beaten(keys: tuple[float, ...]) -> bool:
        return any(other != keys and all(a <= b for a, b in zip(other, keys, strict=True)) for other, _ in points)

    front = [(keys, trial) for keys, trial in points if not beaten(keys)]
    return [trial for _, trial in sorted(front, key=lambda item: (item[0], item[1].number))]


def counts(trials: Sequence[Trial]) -> str:
    """'12 trials: 3 finished, 9 stopped early'."""
    by_status = Counter[str](trial.status for trial in trials)
    order = ("finished", "stopped", "running", "waiting", "failed")
    said = ", ".join(f"{by_status[s]} {STATUS.get(s, s)}" for s in order if by_status[s])
    return f"{len(trials)} trial{'' if len(trials) == 1 else 's'}: {said}"
