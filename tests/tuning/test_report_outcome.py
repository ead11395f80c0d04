"""Who is ahead: seeds, the front, axes and names; numbers by hand or as definitions say."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tuning.made_up import MIOU, TOP1, trial
from tuning.report.outcome import pareto_front, settings
from tuning.report.scales import numbers_scale, short_names, words_scale
from tuning.results import Trial
from tuning.study import Objective

UP, DOWN = Objective(metric="up"), Objective(metric="down", direction="min")


def test_mean_and_spread_are_over_the_seeds_that_finished() -> None:
    poolings = {"max": [0.4, 0.5, 0.6], "cls": [0.1, 0.3], "mean": [0.2]}
    pairs = [(pooling, seed, value) for pooling, values in poolings.items() for seed, value in enumerate(values)]
    trials = [trial(i, {"model.image.pooling": p, "seed": s}, v) for i, (p, s, v) in enumerate(pairs)]
    trials.append(trial(6, {"model.image.pooling": "cls", "seed": 2}, 0.9, status="stopped"))
    trials.append(trial(7, {"model.image.pooling": "top_k", "seed": 0}, status="failed"))
    found = settings(trials, Objective(metric=MIOU))
    assert [setting.parameters["model.image.pooling"] for setting in found] == ["max", "cls", "mean", "top_k"]
    best, cls, mean, failed = (setting.spread(Objective(metric=MIOU)) for setting in found)
    assert best is not None
    assert (best.mean, best.deviation, best.count) == (pytest.approx(0.5), pytest.approx(0.1), 3)
    assert cls is not None
    assert (cls.mean, cls.deviation, cls.count) == (pytest.approx(0.2), pytest.approx(math.sqrt(0.02)), 2)
    assert mean is not None
    assert (mean.mean, mean.deviation) == (0.2, None)
    assert failed is None
    assert [len(setting.trials) for setting in found] == [3, 3, 1, 1]
    lower = settings(trials, Objective(metric=MIOU, direction="min"))
    assert [setting.parameters["model.image.pooling"] for setting in lower][:3] == ["cls", "mean", "max"]


def test_the_front_by_hand() -> None:
    points = [(0.5, 3.0), (0.4, 1.0), (0.3, 0.5), (0.3, 0.6), (0.5, 4.0), (0.2, 0.4), (0.1, 0.9)]
    trials = [of(i, up=x, down=y) for i, (x, y) in enumerate(points)]
    assert [one.number for one in pareto_front([*trials, of(9, up=1.0)], [UP, DOWN])] == [0, 1, 2, 5]


def of(number: int, **values: float) -> Trial:
    return Trial(number, {}, "", "finished", history=[{"step": 1.0, **values}])


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_the_front_beats_all_others_and_not_itself(points: list[tuple[int, int]]) -> None:
    trials = [of(i, up=x, down=y) for i, (x, y) in enumerate(points)]
    front = {one.number for one in pareto_front(trials, [UP, DOWN])}

    def beats(i: int, j: int) -> bool:
        (x, y), (a, b) = points[i], points[j]
        return x >= a and y <= b and (x, y) != (a, b)

    assert front
    assert not any(beats(i, j) for i in range(len(points)) for j in front)
    assert all(any(beats(i, j) for i in front) for j in set(range(len(points))) - front)


@given(st.lists(st.floats(1e-6, 1e6), min_size=1), st.booleans(), st.sampled_from([0.0, 0.1]))
def test_axes_hold_all_values_in_order(values: list[float], by_ratio: bool, room: float) -> None:
    scale = numbers_scale(values, by_ratio, 0.0 if by_ratio else room)
    places = [scale.at(value) for value in sorted(values)]
    assert places == sorted(places)
    assert all(-1e-9 <= place <= 1 + 1e-9 for place in places)
    ticks = scale.ticks()
    assert ticks
    assert all(-1e-6 <= place <= 1 + 1e-6 for place, _ in ticks)


def test_words_keep_the_order_that_they_are_told() -> None:
    assert words_scale(["cls", "mean"], ["max", "mean"]).words == ("max", "mean", "cls")
    assert words_scale([8, 16]).at(16) == 0.25


def test_names_are_as_short_as_they_can_be_told_apart() -> None:
    names = ["model.image.pooling", "model.text.pooling", "seed", "optim.learning_rate", MIOU, TOP1]
    assert list(short_names(names).values()) == [
        *("image.pooling", "text.pooling", "seed", "learning_rate"),
        *("mIoU", "top-1"),
    ]
