"""What matters is found, noise is told to be no more than chance, and too few trials give no number."""

from __future__ import annotations

import random

import pytest

from tuning.report.importance import LEAST_TRIALS, importance

POOLINGS = {"max": 0.4, "mean": 0.1, "cls": 0.05}


def points(count: int) -> list[dict[str, object]]:
    drawn = random.Random(3)
    return [
        {"pooling": drawn.choice(list(POOLINGS)), "rate": 10 ** drawn.uniform(-4, -2), "seed": drawn.choice([0, 1])}
        for _ in range(count)
    ]


def test_the_parameter_that_matters_is_found() -> None:
    drawn, trials = random.Random(0), points(15)
    values = [POOLINGS[str(point["pooling"])] + drawn.gauss(0, 0.01) for point in trials]
    first, *others = importance("mIoU", trials, values, frozenset({"rate"})).shares
    assert first.parameter == "pooling"
    assert first.matters
    assert first.share > 0.8
    assert sum(share.share for share in others) < 0.1
    assert not any(share.matters for share in others)


def test_noise_is_no_more_than_chance() -> None:
    drawn, trials = random.Random(0), points(15)
    found = importance("mIoU", trials, [drawn.random() for _ in trials], frozenset({"rate"}))
    assert max(share.share for share in found.shares) > 0.3  # which would look like a finding
    assert not any(share.matters for share in found.shares)


@pytest.mark.parametrize(
    ("trials", "values", "why"),
    [
        (points(LEAST_TRIALS - 1), [0.1 * i for i in range(9)], "9 trials with a value are too few"),
        (points(LEAST_TRIALS), [0.5] * 10, "all trials came to the same value"),
        ([{"pooling": "max"}] * 12, [0.1 * i for i in range(12)], "no parameter varies"),
        ([{"a": i} if i % 2 else {"b": i} for i in range(12)], [0.1 * i for i in range(12)], "no parameter varies"),
    ],
)
def test_there_is_a_reason_where_there_is_no_number(
    trials: list[dict[str, object]], values: list[float], why: str
) -> None:
    found = importance("mIoU", trials, values)
    assert not found.shares
    assert why in found.why_none


def test_a_parameter_that_not_all_trials_have_is_left_out_and_named() -> None:
    trials = [{**point, **({"top_k": i} if i % 2 else {})} for i, point in enumerate(points(12))]
    found = importance("mIoU", trials, [float(i) for i in range(12)])
    assert found.left_out == ("top_k",)
    assert "top_k" not in {share.parameter for share in found.shares}
