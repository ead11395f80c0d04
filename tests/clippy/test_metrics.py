"""Scores against values worked out by hand and against slow, obvious references."""

import math
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from clippy.metrics import (
    accuracy_counts,
    average_jaccard,
    best_jaccard,
    best_jaccard_of_masks,
    best_jaccard_of_patches,
    confusion_matrix,
    count_in_patches,
    group_counts,
    intersection_over_union,
    mean_iou,
    topk_counts,
    worst_group,
)
from clippy.torchvision_cpu import ensure_torchvision

SHAPE = (5, 6)
THREE_IDS = arrays(np.uint8, SHAPE, elements=st.integers(0, 2))
THREE_IDS_AND_VOID = arrays(np.uint8, SHAPE, elements=st.sampled_from([0, 1, 2, 255]))

TRUTH = np.array([[0, 0, 0, 1], [0, 1, 1, 255]], dtype=np.uint8)
PREDICTED = np.array([[0, 0, 1, 1], [2, 1, 0, 3]], dtype=np.uint8)
# By hand: class 0 has TP 2, FN 2, FP 1; class 1 TP 2, FN 1, FP 1; class 2 only one FP; class 3 only on void.
CONFUSION = np.array([[2, 1, 1, 0], [1, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])


def test_confusion_by_hand() -> None:
    assert np.array_equal(confusion_matrix(PREDICTED, TRUTH, 4), CONFUSION)
    assert confusion_matrix(PREDICTED, TRUTH, 4).dtype == np.int64


def test_iou_by_hand() -> None:
    np.testing.assert_allclose(intersection_over_union(CONFUSION), [2 / 5, 2 / 4, 0, np.nan])


def test_mean_iou_leaves_out_classes_without_ground_truth() -> None:
    assert mean_iou(CONFUSION) == pytest.approx((2 / 5 + 2 / 4) / 2)
    assert mean_iou(CONFUSION, [1, 2, 3]) == pytest.approx(2 / 4)
    assert mean_iou(CONFUSION, [0, 0, 1]) == mean_iou(CONFUSION, [0, 1])
    assert math.isnan(mean_iou(CONFUSION, [2, 3]))
    assert math.isnan(mean_iou(CONFUSION, []))


def test_confusion_keeps_ids_that_overflow_a_byte() -> None:
    confusion = confusion_matrix(np.array([149], np.uint8), np.array([140], np.uint8), 150)
    assert confusion[140, 149] == 1
    assert confusion.sum() == 1


@given(THREE_IDS, THREE_IDS_AND_VOID)
@settings(max_examples=50, deadline=None)
def test_confusion_equals_double_loop_and_merges(predicted: np.ndarray, truth: np.ndarray) -> None:
    slow = np.zeros((3, 3), dtype=np.int64)
    for guess, true in zip(predicted.flat, truth.flat, strict=True):
        if true != 255:
            slow[true, guess] += 1
    halves = [confusion_matrix(predicted[rows], truth[rows], 3) for rows in (slice(2), slice(2, None))]
    assert np.array_equal(confusion_matrix(predicted, truth, 3), slow)
    assert np.array_equal(halves[0] + halves[1], slow)


@given(THREE_IDS)
@settings(max_examples=30, deadline=None)
def test_perfect_prediction_scores_one(truth: np.ndarray) -> None:
    assert mean_iou(confusion_matrix(truth, truth, 3)) == 1.0
    total, count = best_jaccard(truth, truth, 3)
    assert total == count == len(np.unique(truth))


@pytest.mark.parametrize(
    ("predicted", "truth", "message"),
    [
        (np.zeros((2, 2), int), np.zeros((2, 3), int), "differ in shape"),
        (np.array([3]), np.array([0]), r"predicted holds ids 3\.\.3"),
        (np.array([0]), np.array([-1]), r"truth holds ids -1\.\.-1"),
        (np.array([0.0]), np.array([0]), "must hold integers"),
    ],
)
def test_confusion_refuses(predicted: np.ndarray, truth: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        confusion_matrix(predicted, truth, 3)


def test_confusion_with_more_answers_than_classes() -> None:
    confusion = confusion_matrix(np.array([4, 0, 4, 2]), np.array([0, 1, 1, 255]), 2, num_answers=5)
    assert confusion.tolist() == [[0, 0, 0, 0, 1], [1, 0, 0, 0, 1]]
    with pytest.raises(ValueError, match=r"predicted holds ids 4\.\.4, but only 0\.\.3"):
        confusion_matrix(np.array([4]), np.array([0]), 2, num_answers=4)


def test_iou_equals_torchmetrics() -> None:
    ensure_torchvision()
    from torchmetrics.functional.classification import multiclass_jaccard_index

    draw = np.random.default_rng(0)
    truth = draw.choice([0, 1, 2, 3, 4, 255], size=(3, 40, 50))
    predicted = np.where(draw.random(truth.shape) < 0.6, truth % 250, draw.integers(0, 5, truth.shape))
    confusion = confusion_matrix(predicted, truth, 6)  # class 5 is in neither
    given_arrays = torch.from_numpy(predicted), torch.from_numpy(truth)
    theirs = multiclass_jaccard_index(*given_arrays, num_classes=6, average="none", ignore_index=255)
    np.testing.assert_allclose(intersection_over_union(confusion)[:5], theirs[:5], rtol=1e-6)
    mean = multiclass_jaccard_index(*given_arrays, num_classes=6, average="macro", ignore_index=255)
    assert mean_iou(confusion) == pytest.approx(float(mean), rel=1e-6)


def test_metrics_refuse_what_is_no_confusion() -> None:
    with pytest.raises(ValueError, match="square"):
        intersection_over_union(np.zeros((2, 3), int))
    with pytest.raises(ValueError, match=r"only 0\.\.3 are allowed"):
        mean_iou(CONFUSION, [4])
    with pytest.raises(ValueError, match="num_classes"):
        confusion_matrix(np.zeros(1, int), np.zeros(1, int), 0)


def test_best_jaccard_by_hand() -> None:
    segments = np.array([[0, 0, 7, 7], [0, 0, 7, 255]])
    groups = np.array([[1, 1, 1, 2], [1, 0, 2, 2]])
    # Void aside: group 1 covers 3 of ground and 1 of segment 7; group 2 covers 2 of segment 7 and no other.
    assert best_jaccard(segments, groups, 3) == (pytest.approx(3 / 5 + 2 / 3), 2)
    assert best_jaccard(segments, groups, 3, include_ground=False) == (pytest.approx(2 / 3), 1)


def test_best_jaccard_of_one_group_is_the_share_of_the_image() -> None:
    segments = np.array([[0, 0, 0, 5]])
    assert best_jaccard(segments, np.zeros_like(segments), 1) == (pytest.approx(3 / 4 + 1 / 4), 2)


def test_best_jaccard_of_void_only_counts_nothing() -> None:
    assert best_jaccard(np.full((2, 2), 255), np.zeros((2, 2), int), 4) == (0.0, 0)


@given(THREE_IDS_AND_VOID, THREE_IDS, st.booleans())
@settings(max_examples=50, deadline=None)
def test_best_jaccard_equals_double_loop(segments: np.ndarray, groups: np.ndarray, ground: bool) -> None:
    counted = segments != 255
    best = []
    for segment in set(segments[counted].tolist()) - (set() if ground else {0}):
        scores = []
        for group in range(4):
            left, right = (segments == segment) & counted, (groups == group) & counted
            scores.append((left & right).sum() / (left | right).sum())
        best.append(max(scores))
    total, count = best_jaccard(segments, groups, 4, include_ground=ground)
    assert (total, count) == (pytest.approx(sum(best)), len(best))


@given(THREE_IDS_AND_VOID, THREE_IDS, st.booleans())
@settings(max_examples=50, deadline=None)
def test_masks_that_are_a_partition_score_as_groups(segments: np.ndarray, groups: np.ndarray, ground: bool) -> None:
    masks = groups == np.arange(4)[:, None, None]
    expected = best_jaccard(segments, groups, 4, include_ground=ground)
    assert best_jaccard_of_masks(segments, masks, include_ground=ground) == expected


@given(THREE_IDS_AND_VOID, arrays(np.bool_, (3, *SHAPE)))
@settings(max_examples=50, deadline=None)
def test_best_jaccard_of_masks_equals_double_loop(segments: np.ndarray, masks: np.ndarray) -> None:
    counted = segments != 255
    found = set(segments[counted].tolist())
    best = [
        max(((segments == i) & mask & counted).sum() / (((segments == i) | mask) & counted).sum() for mask in masks)
        for i in found
    ]
    assert best_jaccard_of_masks(segments, masks) == (pytest.approx(sum(best)), len(best))


def test_best_jaccard_of_masks_by_hand() -> None:
    segments = np.array([[0, 0, 7, 7], [0, 0, 7, -1]])
    heads = np.array([[[0, 1, 1, 1], [0, 0, 1, 1]], [[0, 0, 1, 0], [0, 0, 0, 0]]], dtype=bool)
    # Void aside: head 0 covers segment 7 and one pixel more, and one of the ground's four; head 1 a third of segment 7.
    assert best_jaccard_of_masks(segments, heads, ignore=-1) == (pytest.approx(3 / 4 + 1 / 7), 2)
    assert best_jaccard_of_masks(segments, heads, ignore=-1, include_ground=False) == (3 / 4, 1)
    assert best_jaccard_of_masks(np.full((2, 4), -1), heads, ignore=-1) == (0.0, 0)
    for wrong in (heads[0], heads[:0], heads.astype(int), heads[:, :1]):
        with pytest.raises(ValueError, match="masks must be bool"):
            best_jaccard_of_masks(segments, wrong, ignore=-1)


def test_average_jaccard_per_segment_and_per_image() -> None:
    images = [(1.0, 1), (0.5, 3), (0.0, 0)]
    assert average_jaccard(images) == 1.5 / 4
    assert average_jaccard(images, per_image=True) == pytest.approx((1 + 0.5 / 3) / 2)
    assert math.isnan(average_jaccard([(0.0, 0)]))
    assert math.isnan(average_jaccard([], per_image=True))


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 9)), min_size=1), st.randoms(), st.booleans())
@settings(max_examples=50, deadline=None)
def test_average_jaccard_does_not_hang_on_the_order(
    images: list[tuple[float, int]], random: Random, per_image: bool
) -> None:
    shuffled = random.sample(images, len(images))
    assert average_jaccard(shuffled, per_image) == average_jaccard(images, per_image)


def test_topk_by_hand() -> None:
    scores = np.array([[0.1, 0.7, 0.2], [0.5, 0.5, 0.1], [0.5, 0.5, 0.5]])
    # Ranks from 0: second of three; tied with a lower id, so second; tied with nobody before it.
    correct, total = topk_counts(scores, np.array([2, 1, 0]), ks=(1, 2, 3))
    assert (correct.tolist(), total) == ([1, 3, 3], 3)
    assert topk_counts(np.zeros((0, 3)), np.zeros(0, int), (1,))[1] == 0


@given(arrays(np.float32, (6, 5), elements=st.sampled_from([0.0, 0.25, 0.5, -1.0])))
@settings(max_examples=50, deadline=None)
def test_topk_equals_stable_sorting(scores: np.ndarray) -> None:
    truth = np.array([0, 1, 2, 3, 4, 2])
    order = np.argsort(-scores, axis=1, kind="stable")
    correct, _ = topk_counts(scores, truth, ks=(1, 3, 5))
    assert correct.tolist() == [(order[:, :k] == truth[:, None]).any(axis=1).sum() for k in (1, 3, 5)]
    assert correct[0] == accuracy_counts(scores.argmax(axis=1), truth)[0]


@pytest.mark.parametrize(
    ("scores", "truth", "ks", "message"),
    [
        (np.zeros((2, 3)), np.zeros(3, int), (1,), r"truth \(B,\)"),
        (np.zeros((1, 3)), np.array([3]), (1,), "truth holds ids"),
        (np.zeros((1, 3)), np.array([0]), (0,), "at least 1"),
        (np.array([[np.nan, 0.0]]), np.array([0]), (1,), "NaN"),
    ],
)
def test_topk_refuses(scores: np.ndarray, truth: np.ndarray, ks: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        topk_counts(scores, truth, ks)


def test_best_jaccard_refuses() -> None:
    with pytest.raises(ValueError, match="groups holds ids"):
        best_jaccard(np.zeros((1, 2), int), np.array([[0, 2]]), 2)
    with pytest.raises(ValueError, match="differ in shape"):
        best_jaccard(np.zeros((1, 2), int), np.zeros((2, 1), int), 2)


def test_accuracy_counts() -> None:
    assert accuracy_counts(np.array([0, 1, 2, 2]), np.array([0, 1, 1, 2])) == (3, 4)
    assert accuracy_counts(np.array([], int), np.array([], int)) == (0, 0)


def test_worst_group_by_hand() -> None:
    correct, total = group_counts(
        np.array([0, 0, 1, 1, 1]), np.array([0, 1, 1, 1, 0]), np.array([0, 1, 1, 1, 0]), num_groups=3
    )
    assert correct.tolist() == [1, 2, 0]
    assert total.tolist() == [2, 3, 0]
    scores = worst_group(correct, total, ["land", "water", "sky"])
    assert scores["land"] == scores["worst"] == 0.5
    assert scores["water"] == pytest.approx(2 / 3)
    assert math.isnan(scores["sky"])


def test_worst_group_of_nothing_is_nan() -> None:
    assert math.isnan(worst_group(np.array([0]), np.array([0]), ["land"])["worst"])


@pytest.mark.parametrize("names", [["land"], ["land", "land"], ["land", "worst"]])
def test_worst_group_refuses_names(names: list[str]) -> None:
    with pytest.raises(ValueError, match="names"):
        worst_group(np.array([1, 1]), np.array([1, 1]), names)


def test_counts_in_patches_by_hand() -> None:
    ids = np.array([[3, 3, 1], [3, 9, 255], [1, 1, 255]])
    present, counts = count_in_patches(ids, 2, 1)
    assert present.tolist() == [1, 3, 9]
    assert counts.tolist() == [[1, 3, 1], [2, 0, 0]]
    assert count_in_patches(ids, 4, 1)[1].tolist() == [[1, 2, 0], [0, 1, 1], [2, 0, 0], [0, 0, 0]]
    with pytest.raises(ValueError, match="do not divide into 4 x 1"):
        count_in_patches(ids[0], 4, 1)


@given(seed=st.integers(0, 2**16), ground=st.booleans())
@settings(max_examples=30, deadline=None)
def test_groups_of_patches_score_as_their_pixels_do(seed: int, ground: bool) -> None:
    random = np.random.default_rng(seed)
    segments = random.choice([0, 1, 2, 2**30, 255], size=(7, 9))  # void, and an id too large for a table
    groups = random.integers(3, size=(3, 4))
    rows, columns = np.arange(7) * 3 // 7, np.arange(9) * 4 // 9
    of_pixels = best_jaccard(segments, groups[rows[:, None], columns], 3, include_ground=ground)
    assert best_jaccard_of_patches(*count_in_patches(segments, 3, 4), groups, 3, ground) == of_pixels
