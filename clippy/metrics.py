"""Count what a model got right, in numpy, so that workers add up counts and divide once.

Averages of averages are wrong as soon as workers hold different numbers of pixels. Every counting
function here returns integers (or a sum and its count) that may be added; only `intersection_over_union`,
`mean_iou`, `average_jaccard` and `worst_group` divide.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

IGNORED_ID = 255
"""Pixels with this id in the ground truth are never counted (void in VOC and ADE20K)."""

Integers = NDArray[Any]


def confusion_matrix(
    predicted: Integers,
    truth: Integers,
    num_classes: int,
    ignore: int = IGNORED_ID,
    num_answers: int | None = None,
) -> NDArray[np.int64]:
    """Count every (true class, predicted class) pair of pixels.

    predicted, truth: integer arrays of one shape. Returns (C, C) int64, rows truth, columns prediction; (C, A)
    where there are `num_answers` to choose from, such as clusters, or ancestors of the classes after them.
    Pixels whose truth is `ignore` are left out, whatever was predicted there.
    Raises ValueError for different shapes, non-integer arrays, or a counted id out of range.
    """
    num_answers = num_classes if num_answers is None else num_answers
    if min(num_classes, num_answers) < 1:
        raise ValueError(f"num_classes and num_answers must be at least 1 (got {num_classes} and {num_answers})")
    predicted, truth = _integers(predicted, "predicted"), _integers(truth, "truth")
    _require_same_shape(predicted, truth, "predicted", "truth")
    counted = truth != ignore
    rows, columns = truth[counted], predicted[counted]
    _require_range(rows, num_classes, "truth")
    _require_range(columns, num_answers, "predicted")
    joint = np.bincount(rows * num_answers + columns, minlength=num_classes * num_answers)
    return joint.reshape(num_classes, num_answers).astype(np.int64)


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
    Source: Jaccard similarity as in the CLIPpy paper (Table 3); that the match is the best of the groups is a
    reading of ours. How to average is left to `average_jaccard`.
    """
    if num_groups < 1:
        raise ValueError(f"num_groups must be at least 1 (got {num_groups})")
    segments, groups = _integers(segments, "segments"), _integers(groups, "groups")
    _require_same_shape(segments, groups, "segments", "groups")
    counted = segments != ignore
    ids, rows = _number(segments[counted])
    columns = groups[counted]
    _require_range(columns, num_groups, "groups")
    joint = np.bincount(rows * num_groups + columns, minlength=len(ids) * num_groups)
    overlap = joint.reshape(len(ids), num_groups)
    return _best_overlaps(overlap, overlap.sum(axis=1), overlap.sum(axis=0), scored=include_ground | (ids != 0))


def count_in_patches(
    ids: Integers, h: int, w: int, ignore: int = IGNORED_ID
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count the pixels of each id in each of h x w near-equal patches.

    ids: (H, W); with fewer pixels than patches on a side, some patches have none. Returns the ids that occur, rising,
    (S,), and the counts (h * w, S); pixels of `ignore` are left out. What is constant in each patch can be scored from
    these alone. Raises ValueError for another shape.
    """
    ids = _integers(ids, "ids")
    if ids.ndim != 2:
        raise ValueError(f"ids of shape {ids.shape} do not divide into {h} x {w} patches")
    rows, columns = (np.arange(n) * patches // n for n, patches in zip(ids.shape, (h, w), strict=True))
    present, numbers = _number(ids.reshape(-1))
    cells = (rows[:, None] * w + columns).reshape(-1)
    counts = np.bincount(cells * len(present) + numbers, minlength=h * w * len(present)).reshape(h * w, -1)
    kept = present != ignore
    return present[kept], counts[:, kept]


def best_jaccard_of_patches(
    ids: NDArray[np.int64], counts: NDArray[np.int64], groups: Integers, num_groups: int, include_ground: bool = True
) -> tuple[float, int]:
    """`best_jaccard` of groups of whole patches.

    ids, counts: what `count_in_patches` gave for the segments; groups: (h, w) or (h * w,) ids in 0..num_groups-1.
    Returns the same sum and number. Raises ValueError for a group id out of range or another number of patches.
    """
    groups = _integers(groups, "groups").reshape(-1)
    if len(groups) != len(counts):
        raise ValueError(f"{len(groups)} groups for {len(counts)} patches; give one for each")
    _require_range(groups, num_groups, "groups")
    overlap = np.zeros((num_groups, len(ids)), dtype=np.int64)
    np.add.at(overlap, groups, counts)
    return _best_overlaps(overlap.T, counts.sum(axis=0), overlap.sum(axis=1), scored=include_ground | (ids != 0))


def best_jaccard_of_masks(
    segments: Integers, masks: NDArray[np.bool_], ignore: int = IGNORED_ID, include_ground: bool = True
) -> tuple[float, int]:
    """`best_jaccard` of candidates that may overlap or leave pixels out, such as attention heads.

    segments: (H, W) as there. masks: bool (K, H, W), K >= 1. Returns the same sum and number.
    Raises ValueError for other shapes or masks that are not bool.
    Source: DINO's attention masks, of which the best head is kept (DINO paper, Fig. 4).
    """
    segments, masks = _integers(segments, "segments"), np.asarray(masks)
    if masks.dtype != np.bool_ or masks.ndim != 3 or not len(masks) or masks.shape[1:] != segments.shape:
        raise ValueError(
            f"masks must be bool, one or more of the segments' shape {segments.shape} (got {masks.dtype} {masks.shape})"
        )
    counted = segments != ignore
    ids, rows = _number(segments[counted])
    sizes = np.bincount(rows, minlength=len(ids))
    inside = masks[:, counted]
    overlap = np.array([np.bincount(rows[mask], minlength=len(ids)) for mask in inside]).T
    return _best_overlaps(overlap, sizes, inside.sum(axis=1), scored=include_ground | (ids != 0))


def average_jaccard(images: Iterable[tuple[float, int]], per_image: bool = False) -> float:
    """Average what `best_jaccard` gave for each image: over all segments alike, or over the means of the images.

    Images without segments do not count. The result does not hang on the order of the images, to the last bit, so
    workers may hand in theirs in any order. NaN if there is no segment.
    Source: which of the two the CLIPpy paper takes is not known; the code of one of its authors (Intriguing
    Properties of Vision Transformers) averages per image.
    """
    found = [(total, count) for total, count in images if count]
    if per_image:
        found = [(total / count, 1) for total, count in found]
    number = sum(count for _, count in found)
    return math.fsum(total for total, _ in found) / number if number else float("nan")


def accuracy_counts(predicted: Integers, truth: Integers) -> tuple[int, int]:
    """Count correct answers: returns (correct, total), to be added over batches and divided once.

    predicted, truth: integer arrays of one shape. Raises ValueError for different shapes.
    """
    predicted, truth = _integers(predicted, "predicted"), _integers(truth, "truth")
    _require_same_shape(predicted, truth, "predicted", "truth")
    return int((predicted == truth).sum()), int(truth.size)


def topk_counts(scores: NDArray[Any], truth: Integers, ks: Sequence[int]) -> tuple[NDArray[np.int64], int]:
    """Count examples whose true class is among the k of highest score, for each k.

    scores: (B, C) floats; truth: (B,). Among equal scores the lower id comes first. Returns (correct, total):
    (len(ks),) int64 and B. Raises ValueError for shapes that do not fit, an id out of range, a k below 1, or NaN.
    """
    scores, truth = np.asarray(scores), _integers(truth, "truth")
    if scores.ndim != 2 or truth.shape != scores.shape[:1]:
        raise ValueError(f"scores must be (B, C) and truth (B,) (got {scores.shape} and {truth.shape})")
    if np.isnan(scores).any():
        raise ValueError("scores hold NaN, which has no place among the others")
    if min(ks, default=1) < 1:
        raise ValueError(f"ks must be at least 1 (got {list(ks)})")
    _require_range(truth, scores.shape[1], "truth")
    own = np.take_along_axis(scores, truth[:, None], axis=1)
    is_before = np.arange(scores.shape[1]) < truth[:, None]
    rank = ((scores > own) | ((scores == own) & is_before)).sum(axis=1)
    return np.array([(rank < k).sum() for k in ks], dtype=np.int64), len(truth)


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


_FEW_IDS = 2**20


def _number(values: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The values that occur, rising, and which of them each one is: `np.unique`, but without sorting small ids."""
    if not values.size or values.max() - values.min() >= _FEW_IDS:
        present, numbers = np.unique(values, return_inverse=True)
        return present, numbers.reshape(-1)
    lowest = values.min()
    is_there = np.bincount(values - lowest) > 0
    return np.flatnonzero(is_there) + lowest, (np.cumsum(is_there) - 1)[values - lowest]


def _best_overlaps(
    overlap: NDArray[np.int64],
    segment_sizes: NDArray[np.int64],
    group_sizes: NDArray[np.int64],
    scored: NDArray[np.bool_],
) -> tuple[float, int]:
    """Sum the best IoU of each scored segment (a row of `overlap`) with a group (a column), and count them."""
    union = segment_sizes[:, None] + group_sizes[None] - overlap
    # A segment in the picture has a pixel, so no union is empty.
    best = (overlap / union).max(axis=1, initial=0.0)
    return float(best[scored].sum()), int(scored.sum())


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
