"""Open-set scores against closed forms, and measures against scikit-learn and values worked out by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import roc_auc_score, roc_curve

from clippy.open_set import (
    OpenSetCounts,
    auroc,
    count_binned,
    count_exactly,
    energy,
    false_positive_rate,
    maximum_logit,
    maximum_probability,
    oscr,
)

LEVELS = st.sampled_from([0.0, 0.125, 0.25, 0.5, 0.75, 1.0])


def test_scores_in_closed_form() -> None:
    logits = torch.tensor([[0.0, math.log(3)], [1.0, 1.0]])
    torch.testing.assert_close(maximum_logit(logits), torch.tensor([math.log(3), 1.0]))
    torch.testing.assert_close(maximum_probability(logits), torch.tensor([3 / 4, 1 / 2]))
    torch.testing.assert_close(maximum_probability(logits, scale=2.0), torch.tensor([9 / 10, 1 / 2]))
    torch.testing.assert_close(energy(logits), torch.tensor([math.log(4), 1 + math.log(2)]))
    torch.testing.assert_close(energy(logits, scale=2.0), torch.tensor([math.log(10) / 2, 1 + math.log(2) / 2]))


@pytest.mark.parametrize("score", [maximum_logit, maximum_probability, energy])
def test_scores_per_pixel_are_those_of_each_pixel(score: object) -> None:
    assert callable(score)
    logits = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(0))
    pixels = score(logits)
    assert pixels.shape == (2, 3, 4)
    torch.testing.assert_close(pixels[1, 2, 3], score(logits[1:, :, 2, 3])[0])


def test_scores_do_not_overflow() -> None:
    logits = torch.tensor([[1.0, 0.5]])
    torch.testing.assert_close(maximum_probability(logits, scale=1e4), torch.ones(1))
    torch.testing.assert_close(energy(logits, scale=1e4), torch.ones(1))


# Known: 0.9 right, 0.6 wrong, 0.6 right, 0.2 right. Unknown: 0.8, 0.6, 0.1, 0.1.
SCORES = np.array([0.9, 0.6, 0.6, 0.2, 0.8, 0.6, 0.1, 0.1])
KNOWN = np.array([True] * 4 + [False] * 4)
CORRECT = np.array([True, False, True, True, False, True, False, False])


def test_measures_by_hand() -> None:
    counts = count_exactly(SCORES, KNOWN, CORRECT)
    # Pairs won of 16: 0.9 wins 4; each 0.6 wins 2 and ties 1; 0.2 wins 2.
    assert auroc(counts) == (4 + 2 * 2.5 + 2) / 16
    # All four known are kept at 0.2, which takes two unknown; three quarters at 0.6, with the same two.
    assert false_positive_rate(counts) == 2 / 4
    assert false_positive_rate(counts, recall=0.25) == 0
    assert false_positive_rate(counts, recall=0.75) == 2 / 4
    # From above (unknown taken, known right): (0, 1/4), (1/4, 1/4), tied (2/4, 2/4), (2/4, 3/4), (1, 3/4).
    assert oscr(counts) == 1 / 4 * 1 / 4 + 1 / 4 * 3 / 8 + 2 / 4 * 3 / 4


def test_perfect_and_useless_scores() -> None:
    known, right = np.array([True, True, False, False]), np.array([True, True, False, False])
    perfect = count_exactly(np.array([2.0, 3.0, 0.0, 1.0]), known, right)
    assert (auroc(perfect), false_positive_rate(perfect), oscr(perfect)) == (1, 0, 1)
    useless = count_exactly(np.zeros(4), known, right)
    assert (auroc(useless), false_positive_rate(useless), oscr(useless)) == (0.5, 1, 0.5)


def test_oscr_is_the_accuracy_where_unknown_ones_lie_below_all() -> None:
    scores, known = np.array([5.0, 4.0, 3.0, 2.0, 0.0]), np.array([True] * 4 + [False])
    assert oscr(count_exactly(scores, known, np.array([True, False, True, True, False]))) == 3 / 4


@given(arrays(np.float64, 40, elements=LEVELS), arrays(np.bool_, 40), arrays(np.bool_, 40))
@settings(max_examples=60, deadline=None)
def test_measures_equal_scikit_learn_with_ties(scores: np.ndarray, known: np.ndarray, correct: np.ndarray) -> None:
    counts = count_exactly(scores, known, correct)
    if known.all() or not known.any():
        assert math.isnan(auroc(counts))
        assert math.isnan(false_positive_rate(counts))
        assert math.isnan(oscr(counts))
        return
    assert auroc(counts) == pytest.approx(roc_auc_score(known, scores))
    taken, kept, _ = roc_curve(known, scores, drop_intermediate=False)
    assert false_positive_rate(counts) == taken[kept >= 0.95].min()
    # Were all named right, the curve would be the ROC's.
    assert oscr(count_exactly(scores, known, np.ones_like(known))) == pytest.approx(auroc(counts))
    assert oscr(counts) <= auroc(counts) + 1e-12


@given(arrays(np.float64, 40, elements=LEVELS), arrays(np.bool_, 40), arrays(np.bool_, 40))
@settings(max_examples=60, deadline=None)
def test_bins_add_up_and_are_exact_for_scores_apart(scores: np.ndarray, known: np.ndarray, correct: np.ndarray) -> None:
    whole = count_binned(scores, known, correct, 0, 1, bins=64)
    parts = [
        count_binned(scores[part], known[part], correct[part], 0, 1, bins=64) for part in (slice(13), slice(13, 40))
    ]
    added = parts[0] + parts[1]
    for kind in ("correct", "wrong", "unknown"):
        np.testing.assert_array_equal(getattr(added, kind), getattr(whole, kind))
    exact = count_exactly(scores, known, correct)
    for measure in (auroc, false_positive_rate, oscr):
        assert measure(whole) == pytest.approx(measure(exact), nan_ok=True)


def test_bins_are_close_for_many_scores() -> None:
    draw = np.random.default_rng(0)
    known = draw.random(20_000) < 0.7
    scores, correct = draw.normal(known * 1.0, 1.0), draw.random(20_000) < 0.8
    exact, binned = count_exactly(scores, known, correct), count_binned(scores, known, correct, -6, 7)
    same_bin = (binned.correct + binned.wrong) @ binned.unknown / (known.sum() * (~known).sum())
    assert abs(auroc(binned) - auroc(exact)) <= same_bin / 2
    for measure in (false_positive_rate, oscr):
        assert measure(binned) == pytest.approx(measure(exact), abs=2e-3)


def test_scores_beyond_the_bins_count_at_the_ends() -> None:
    scores, known = np.array([-5.0, 9.0, 1.0, np.inf]), np.array([True, True, False, False])
    counts = count_binned(scores, known, known, 0, 1, bins=2)
    assert (counts.correct.tolist(), counts.wrong.tolist(), counts.unknown.tolist()) == ([1, 1], [0, 0], [0, 2])


def test_no_sums_overflow() -> None:
    many = np.array([10**10, 10**10], dtype=np.int64)
    counts = OpenSetCounts(many, many, many)
    assert auroc(counts) == 0.5
    assert oscr(counts) == pytest.approx(0.25)


def test_refuses_what_cannot_be_counted() -> None:
    with pytest.raises(ValueError, match="NaN"):
        count_exactly(np.array([np.nan]), np.array([True]), np.array([True]))
    with pytest.raises(ValueError, match="one shape"):
        count_exactly(np.zeros(2), np.array([True]), np.array([True, False]))
    with pytest.raises(ValueError, match="being bool"):
        count_exactly(np.zeros(1), np.array([1]), np.array([True]))
    with pytest.raises(ValueError, match="low < high"):
        count_binned(np.zeros(1), np.array([True]), np.array([True]), 1, 1)
    with pytest.raises(ValueError, match="use the same bins"):
        OpenSetCounts(*[np.zeros(2, int)] * 3) + OpenSetCounts(*[np.zeros(3, int)] * 3)
    with pytest.raises(ValueError, match="recall"):
        false_positive_rate(count_exactly(SCORES, KNOWN, CORRECT), recall=0)
