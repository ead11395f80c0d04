"""Which parameter matters: functional analysis of variance over a study's trials, by Optuna, with what chance may do.

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
RESAMPLES = 20
_TREES = 32
_TAIL = 2
"""Of the resamples, so many at either end are left out of the range."""

Point = Mapping[str, Any]
"""The parameters of one trial."""


@dataclass(frozen=True)
class Share:
    """How much of the variance of a metric one parameter explains alone, as a fraction, and within which range that
    lies when trials are drawn anew from those there are."""

    parameter: str
    share: float
    low: float
    high: float


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
    metric: str,
    points: Sequence[Point],
    values: Sequence[float],
    by_ratio: frozenset[str] = frozenset(),
    resamples: int = RESAMPLES,
) -> Importance:
    """How much each parameter of ``points`` explains of ``values``; ``by_ratio`` are those searched on a log scale.

    Gives a reason instead of numbers where there are too few trials, or nothing varies.
    """
    names = list(dict.fromkeys(name for point in points for name in point))
    shared = [name for name in names if all(name in point for point in points)]
    varied = [name for name in shared if len({shown_value(point[name]) for point in points}) > 1]
    left_out = tuple(name for name in names if name not in shared)
    needed = max(LEAST_TRIALS, LEAST_A_PARAMETER * len(varied))
    why_none = ""
    if not varied:
        why_none = "no parameter varies over all of the trials"
    elif len(points) < needed:
        why_none = (
            f"{len(points)} trials with a value are too few to tell what {len(varied)} parameters do; it takes {needed}"
        )
    elif max(values) == min(values):
        why_none = "all trials came to the same value"
    if why_none:
        return Importance(metric, (), left_out, len(points), why_none)
    trials = _trials(points, values, varied, by_ratio)
    share = _shares(trials)
    drawn = random.Random(0)
    again = [_shares(drawn.choices(trials, k=len(trials))) for _ in range(resamples)]
    shares = [_with_range(name, share[name], [one.get(name, 0.0) for one in again]) for name in varied]
    return Importance(metric, tuple(sorted(shares, key=lambda s: -s.share)), left_out, len(points))


def _with_range(name: str, share: float, again: list[float]) -> Share:
    inner = sorted(again)[_TAIL:-_TAIL] or [share]
    return Share(name, share, min(share, inner[0]), max(share, inner[-1]))


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


def _shares(trials: Sequence[FrozenTrial]) -> dict[str, float]:
    import optuna

    if len({trial.value for trial in trials}) < 2:
        return {}
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # else it tells of the study that is made here
    try:
        study = optuna.create_study()
        study.add_trials(trials)
        evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=_TREES, seed=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.importance.get_param_importances(study, evaluator=evaluator, normalize=False)
    finally:
        optuna.logging.set_verbosity(verbosity)
