"""Count what a model got right, in numpy, so that workers add up counts and divide once.

Averages of averages are wrong as soon as workers hold different numbers of pixels. Every counting
function here returns integers (or a sum and its count) that may be added; only `intersection_over_union`,
`mean_iou` and `worst_group` divide.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

IGNORED_ID = 255
"""Pixels with this id in the ground truth are never counted (void in VOC and ADE20K)."""

Integers = NDArray[Any]


def confusion_matrix(
    predicted: Integers, truth: Integers, num_classes: int, ignore: int = IGNORED_ID
) -> NDArray[np.int64]:
    """Count every (true class, predicted class) pair of pixels.

    predicted, truth: integer arrays of one shape. Returns (C, C) int64, rows truth, columns prediction.
    Pixels whose truth is `ignore` are left out, whatever was predicted there.
    Raises ValueError for different shapes, non-integer arrays, or a counted id outside 0..C-1.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1 (got {num_classes})")
    predicted, truth = _integers(predicted, "predicted"), _integers(truth, "truth")
    _require_same_shape(predicted, truth, "predicted", "truth")
    counted = truth != ignore
    rows, columns = truth[counted], predicted[counted]
    _require_range(rows, num_classes, "truth")
    _require_range(columns, num_classes, "predicted")
    joint = np.bincount(rows * num_classes + columns, minlength=num_classes**2)
    return joint.reshape(num_classes, num_classes).astype(np.int64)


def intersection_over_union(confusion: Integers) -> NDArray[np.float64]:
    """Compute the intersection over union of each class, TP / (TP + FP + FN).

    confusion: (C, C) counts, rows truth. Returns (C,) float64; NaN for a class that is in neither truth
    nor prediction. A class that is predicted but absent from the truth scores 0.
    """
    confusion = _square(confusion)
    true_positives = np.diagonal(confusion).astype(np.float64)
    union = (confusion.sum(axis=0) + confusion.sum(axis=1)).astype(np.float64) - true_positives
    scores = np.full(len(confusion), np.nan)
    np.divide(true_positives, union, out=scores, where=union > 0)
    return scores


def mean_iou(confusion: Integers, classes: Sequence[int] | None = None) -> float:
    """Average the intersection over union over the classes that have ground truth pixels.

    confusion: (C, C) counts, rows truth. classes: ids to average over (all when None), for example things
    only. A class without ground truth is left out even where it was predicted: those pixels already lower
    the score of the classes they were taken from. Returns a fraction, NaN if no class is left.
    Raises ValueError for a class id outside 0..C-1.
    """
    confusion = _square(confusion)
    chosen = np.arange(len(confusion)) if classes is None else np.unique(np.array(classes, dtype=np.int64))
    _require_range(chosen, len(confusion), "classes")
    present = chosen[confusion.sum(axis=1)[chosen] > 0]
    if present.size == 0:
        return float("nan")
    return float(intersection_over_union(confusion)[present].mean())


def best_jaccard(
    segments: Integers,
    groups: Integers,
    num_groups: int,
    ignore: int = IGNORED_ID,
    include_ground: bool = True,
) -> tuple[float, int]:
    """Match each annotated segment of one image with the group that overlaps it best.

    segments: (H, W) segment ids, 0 being the ground. groups: (H, W) ids in 0..num_groups-1.
    Returns (sum of the best IoU of each segment, number of segments): add both over images, divide once.
    Pixels whose segment is `ignore` count neither in the segments nor in the groups; with
    include_ground=False the ground is not scored, but still enlarges the groups that spill onto it.
    Best-of-many is high even by chance: quote it beside the floors of a random partition, a position grid
    and the whole image. Raises ValueError for different shapes or a group id out of range.
    Source: Jaccard similarity as in the CLIPpy paper (Table 3); that the match is the best of the groups, and
    that every segment weighs the same, are readings of ours.
    """
    if num_groups < 1:
        raise ValueError(f"num_groups must be at least 1 (got {num_groups})")
    segments, groups = _integers(segments, "segments"), _integers(groups, "groups")
    _require_same_shape(segments, groups, "segments", "groups")
    counted = segments != ignore
    ids, rows = np.unique(segments[counted], return_inverse=True)
    columns = groups[counted]
    _require_range(columns, num_groups, "groups")
    joint = np.bincount(rows.reshape(-1) * num_groups + columns, minlength=len(ids) * num_groups)
    overlap = joint.reshape(len(ids), num_groups)
    union = overlap.sum(axis=1, keepdims=True) + overlap.sum(axis=0, keepdims=True) - overlap
    # A segment in `ids` has a pixel, so no union is empty.
    best = (overlap / union).max(axis=1, initial=0.0)
    scored = np.ones(len(ids), dtype=bool) if include_ground else ids != 0
    return float(best[scored].sum()), int(scored.sum())


def accuracy_counts(predicted: Integers, truth: Integers) -> tuple[int, int]:
    """Count correct answers: returns (correct, total), to be added over batches and divided once.

    predicted, truth: integer arrays of one shape. Raises ValueError for different shapes.
    """
    predicted, truth = _integers(predicted, "predicted"), _integers(truth, "truth")
    _require_same_shape(predicted, truth, "predicted", "truth")
    return int((predicted == truth).sum()), int(truth.size)


def group_counts(
    predicted: Integers, truth: Integers, groups: Integers, num_groups: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count correct answers apart for each group of examples (a bird on its usual ground, or not).

    predicted, truth, groups: (B,) integers. Returns (correct, total), each (num_groups,) int64.
    Raises ValueError for different shapes or a group id out of range.
    """
    predicted, truth = _integers(predicted, "predicted"), _integers(truth, "truth")
    groups = _integers(groups, "groups")
    _require_same_shape(predicted, truth, "predicted", "truth")
    _require_same_shape(groups, truth, "groups", "truth")
    _require_range(groups, num_groups, "groups")
    total = np.bincount(groups.reshape(-1), minlength=num_groups)
    correct = np.bincount(groups[predicted == truth].reshape(-1), minlength=num_groups)
    return correct.astype(np.int64), total.astype(np.int64)


def worst_group(correct: Integers, total: Integers, names: Sequence[str]) -> dict[str, float]:
    """Turn counts into the accuracy of each group and of the worst one.

    correct, total: (G,) counts; names: G distinct names, none of them "worst". Returns fractions by name,
    plus "worst": the least over groups that have examples. An empty group is NaN, as is "worst" if all
    are empty. Raises ValueError for lengths that differ or names that clash.
    Source: Waterbirds, CLIPpy paper section 4.4.
    """
    if not len(correct) == len(total) == len(names):
        raise ValueError(f"{len(correct)} correct, {len(total)} total and {len(names)} names must agree")
    if len({*names, "worst"}) != len(names) + 1:
        raise ValueError(f"group names must be distinct and none may be 'worst' (got {list(names)})")
    scores = {
        name: int(right) / int(seen) if seen else float("nan")
        for name, right, seen in zip(names, correct, total, strict=True)
    }
    seen_scores = [score for score in scores.values() if not np.isnan(score)]
    return {**scores, "worst": min(seen_scores, default=float("nan"))}


def _integers(values: Integers, name: str) -> NDArray[np.int64]:
    """Widen an integer array to int64, because uint8 ids overflow once multiplied; floats are refused."""
    values = np.asarray(values)
    if not (np.issubdtype(values.dtype, np.integer) or values.dtype == np.bool_):
        raise ValueError(f"{name} must hold integers (got {values.dtype})")
    return values.astype(np.int64)


def _square(confusion: Integers) -> NDArray[np.int64]:
    confusion = _integers(confusion, "confusion")
    if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1]:
        raise ValueError(f"confusion must be square (got shape {confusion.shape})")
    return confusion


def _require_same_shape(left: Integers, right: Integers, left_name: str, right_name: str) -> None:
    if left.shape != right.shape:
        raise ValueError(f"{left_name} and {right_name} differ in shape: {left.shape} against {right.shape}")


def _require_range(ids: Integers, limit: int, name: str) -> None:
    if ids.size and (ids.min() < 0 or ids.max() >= limit):
        raise ValueError(f"{name} holds ids {ids.min()}..{ids.max()}, but only 0..{limit - 1} are allowed")
