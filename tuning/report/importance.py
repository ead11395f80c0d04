"""Which parameter matters: functional analysis of variance over a study's trials, by Optuna, beside what chance gives.

Source: Hutter, Hoos, Leyton-Brown, An Efficient Approach for Assessing Hyperparameter Importance, ICML 2014.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tuning.study import shown_value

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

LEAST_TRIALS, LEAST_A_PARAMETER = 10, 3
"""Trials below which no number is given: in all, and for each parameter."""
SHUFFLES = 20
"""How often values are shuffled to see what chance gives; the most of 20 is exceeded by chance one time in 21."""
_TREES = 32

Point = Mapping[str, Any]
"""The parameters of one trial."""


@dataclass(frozen=True)
class Share:
    """How much of the variance of a metric one parameter explains alone, as a fraction."""

    parameter: str
    share: float
    chance: float
    """The most that it explained of values shuffled among the trials: a forest finds reasons for noise too."""

    @property
    def matters(self) -> bool:
        """Whether it explains more than chance."""
        return self.share > self.chance


@dataclass(frozen=True)
class Importance:
    """Shares, the largest first; what is missing to 1 are parameters that act together."""

    metric: str
    shares: tuple[Share, ...]
    left_out: tuple[str, ...]
    """Parameters that not all trials have."""
    trials: int
    why_none: str = ""
    """Why there are no shares."""


def importance(
    metric: str, points: Sequence[Point], values: Sequence[float], by_ratio: frozenset[str] = frozenset()
) -> Importance:
    """How much each parameter of ``points`` explains of ``values``; ``by_ratio`` are those searched on a log scale.

    Gives a reason instead of numbers where there are too few trials, or nothing varies.
    """
    names = list(dict.fromkeys(name for point in points for name in point))
    shared = [name for name in names if all(name in point for point in points)]
    varied = [name for name in shared if len({repr(point[name]) for point in points}) > 1]
    left_out = tuple(name for name in names if name not in shared)
    why_none = _why_none(varied, values)
    if why_none:
        return Importance(metric, (), left_out, len(points), why_none)
    found = _shares(points, values, varied, by_ratio)
    shuffled, chance = list(values), dict.fromkeys(varied, 0.0)
    drawn = random.Random(0)
    for _ in range(SHUFFLES):
        drawn.shuffle(shuffled)
        for name, share in _shares(points, shuffled, varied, by_ratio).items():
            chance[name] = max(chance[name], share)
    shares = [Share(name, found[name], chance[name]) for name in varied]
    return Importance(metric, tuple(sorted(shares, key=lambda s: -s.share)), left_out, len(points))


def _why_none(varied: Sequence[str], values: Sequence[float]) -> str:
    needed = max(LEAST_TRIALS, LEAST_A_PARAMETER * len(varied))
    if not varied:
        return "no parameter varies over all of the trials"
    if len(values) < needed:
        what = "a parameter does" if len(varied) == 1 else f"{len(varied)} parameters do"
        return f"{len(values)} trials with a value are too few to tell what {what}; it takes {needed}"
    return "all trials came to the same value" if max(values) == min(values) else ""


def _shares(
    points: Sequence[Point], values: Sequence[float], names: Sequence[str], by_ratio: frozenset[str]
) -> dict[str, float]:
    import optuna

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # else it tells of the study that is made here
    try:
        study = optuna.create_study()
        study.add_trials(_trials(points, values, names, by_ratio))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=_TREES, seed=0)
            found = optuna.importance.get_param_importances(study, evaluator=evaluator, normalize=False)
    finally:
        optuna.logging.set_verbosity(verbosity)
    return {name: float(share) for name, share in found.items()}


def _trials(
    points: Sequence[Point], values: Sequence[float], names: Sequence[str], by_ratio: frozenset[str]
) -> list[FrozenTrial]:
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
    from optuna.trial import create_trial

    columns: dict[str, list[Any]] = {}
    distributions: dict[str, BaseDistribution] = {}
    for name in names:
        column = [point[name] for point in points]
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in column):
            # Leaves are weighed by their width, so what is searched on a log scale goes in as its logarithm.
            column = [math.log10(value) if name in by_ratio else float(value) for value in column]
            distributions[name] = FloatDistribution(min(column), max(column))
        else:
            column = list(map(shown_value, column))
            distributions[name] = CategoricalDistribution(list(dict.fromkeys(column)))
        columns[name] = column
    return [
        create_trial(params={name: columns[name][i] for name in names}, distributions=distributions, value=value)
        for i, value in enumerate(values)
    ]
