"""Matching groups with classes: by hand, against all permutations, and against STEGO's definition."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from clippy.matching import match_groups, matched_confusion
from clippy.metrics import confusion_matrix, intersection_over_union, mean_iou


def test_match_by_hand() -> None:
    # Group 0 is mostly class 1, and group 1 prefers class 1 too, but loses less by taking class 0.
    confusion = np.array([[1, 4], [9, 5]])
    assert match_groups(confusion).tolist() == [1, 0]
    # Class 0: 4 right, 1 in the other group, 5 of class 1 in its own. Class 1: 9 right.
    matched = matched_confusion(confusion)
    assert matched.tolist() == [[4, 1, 0], [5, 9, 0], [0, 0, 0]]
    assert mean_iou(matched) == pytest.approx((4 / 10 + 9 / 15) / 2)


def test_surplus_groups_are_wrong_and_surplus_classes_are_missed() -> None:
    more_groups = np.array([[6, 0, 2], [0, 7, 1]])
    assert match_groups(more_groups).tolist() == [0, 1, -1]
    assert matched_confusion(more_groups).tolist() == [[6, 0, 2], [0, 7, 1], [0, 0, 0]]
    assert mean_iou(matched_confusion(more_groups)) == pytest.approx((6 / 8 + 7 / 8) / 2)
    one_group = np.array([[2], [5]])
    assert match_groups(one_group).tolist() == [1]
    assert mean_iou(matched_confusion(one_group)) == pytest.approx((0 + 5 / 7) / 2)


@given(arrays(np.int64, (3, 3), elements=st.integers(0, 20)))
@settings(max_examples=50, deadline=None)
def test_match_is_the_best_of_all_permutations(confusion: np.ndarray) -> None:
    best = max(sum(confusion[row, column] for row, column in enumerate(order)) for order in permutations(range(3)))
    matched = matched_confusion(confusion)
    assert np.trace(matched) == best
    assert matched.sum() == confusion.sum()
    assert np.array_equal(matched.sum(axis=1)[:3], confusion.sum(axis=1))


def test_equals_stegos_definition() -> None:
    # Its IoU: true positives over row plus column less themselves, averaged over classes where that is not 0 / 0.
    draw = np.random.default_rng(1)
    truth, groups = draw.integers(0, 27, 5000), draw.integers(0, 27, 5000)
    groups = np.where(draw.random(5000) < 0.5, (truth * 5 + 3) % 27, groups)
    matched = matched_confusion(confusion_matrix(groups, truth, 27))[:27, :27]
    hits = np.diagonal(matched)
    steg = hits / (matched.sum(axis=0) + matched.sum(axis=1) - hits)
    assert mean_iou(matched_confusion(confusion_matrix(groups, truth, 27))) == pytest.approx(steg.mean())


def test_names_of_groups_do_not_matter() -> None:
    draw = np.random.default_rng(2)
    truth = draw.integers(0, 5, 300)
    confusion = confusion_matrix(np.array([3, 0, 4, 1, 2])[truth], truth, 5)
    np.testing.assert_array_equal(intersection_over_union(matched_confusion(confusion))[:5], 1)


def test_refuses_what_is_no_table() -> None:
    with pytest.raises(ValueError, match=r"\(classes, groups\)"):
        match_groups(np.zeros(3, int))
