"""Tell pictures or pixels of classes that a model was given words for from those of others, by how sure it is.

A score is high for known classes. Scores are counted level by level, in integers that workers add up; then AUROC,
FPR at 95 % TPR and OSCR come from the counts alone, examples of one level being tied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Values = NDArray[Any]


def maximum_logit(logits: Tensor, dim: int = 1) -> Tensor:
    """Highest logit over the classes in `dim`. Source: Vaze et al., ICLR 2022."""
    return logits.amax(dim)


def maximum_probability(logits: Tensor, scale: float = 1.0, dim: int = 1) -> Tensor:
    """Highest softmax probability over the classes in `dim`; cosines want the model's `scale`.

    Source: Hendrycks and Gimpel, ICLR 2017.
    """
    logits = logits * scale
    return (logits.amax(dim) - logits.logsumexp(dim)).exp()


def energy(logits: Tensor, scale: float = 1.0, dim: int = 1) -> Tensor:
    """Logarithm of the sum of exponentials over the classes in `dim`, in units of the logits; high for known ones.

    Source: the negative free energy at temperature 1 / `scale` of Liu et al., NeurIPS 2020.
    """
    return (logits * scale).logsumexp(dim) / scale


@dataclass(frozen=True)
class OpenSetCounts:
    """Examples by level of their score, lowest first; each (L,) int64."""

    correct: NDArray[np.int64]
    """Of a known class, and named as such."""
    wrong: NDArray[np.int64]
    """Of a known class, but named as another."""
    unknown: NDArray[np.int64]
    """Of none of the known classes."""

    def __add__(self, other: OpenSetCounts) -> OpenSetCounts:
        """Counts over the same bins. Raises ValueError for another number of them."""
        if len(self.correct) != len(other.correct):
            raise ValueError(f"{len(self.correct)} and {len(other.correct)} levels cannot be added; use the same bins")
        return OpenSetCounts(self.correct + other.correct, self.wrong + other.wrong, self.unknown + other.unknown)


def count_exactly(scores: Values, known: Values, correct: Values) -> OpenSetCounts:
    """Count with one level for each distinct score: exact, but for all examples at once.

    scores: floats of any shape; known: bool of that shape, whether the class is one of the model's; correct: bool,
    whether it was named right, read where `known`. Raises ValueError for shapes that differ, or NaN.
    """
    scores = _scores(scores, known, correct)
    levels, places = np.unique(scores, return_inverse=True)
    return _count(places.reshape(-1), len(levels), known, correct)


def count_binned(
    scores: Values, known: Values, correct: Values, low: float, high: float, bins: int = 4096
) -> OpenSetCounts:
    """Count in equal bins from `low` to `high`: little memory for any number of pixels, and counts can be added.

    Arguments as `count_exactly`. Scores beyond either end fall into its bin. AUROC is off by at most half the chance
    that a known and an unknown example share a bin. Raises ValueError as there, or for an empty range or no bins.
    """
    if not low < high or bins < 1:
        raise ValueError(f"bins need low < high and at least one (got {low}..{high}, {bins} bins)")
    scores = _scores(scores, known, correct)
    places = np.clip((scores - low) * (bins / (high - low)), 0, bins - 1).astype(np.int64)
    return _count(places.reshape(-1), bins, known, correct)


def auroc(counts: OpenSetCounts) -> float:
    """Chance that a known example scores above an unknown one, a tie counting half; NaN if either is missing."""
    known = counts.correct + counts.wrong
    lower = np.cumsum(counts.unknown) - counts.unknown
    pairs = float(known.sum()) * float(counts.unknown.sum())
    return float(known @ (lower + counts.unknown / 2)) / pairs if pairs else float("nan")


def false_positive_rate(counts: OpenSetCounts, recall: float = 0.95) -> float:
    """Share of unknown examples taken for known, at the highest threshold that keeps `recall` of the known ones.

    NaN if either is missing. Raises ValueError unless 0 < recall <= 1.
    """
    if not 0 < recall <= 1:
        raise ValueError(f"recall must be above 0 and at most 1 (got {recall})")
    kept, taken = _share_from_above(counts.correct + counts.wrong), _share_from_above(counts.unknown)
    if np.isnan(kept).any() or np.isnan(taken).any():
        return float("nan")
    return float(taken[np.argmax(kept >= recall)])


def oscr(counts: OpenSetCounts) -> float:
    """Area under the share of known examples kept and named right, over the share of unknown ones taken for known.

    Among tied examples the curve is a straight line. NaN if either kind is missing.
    Source: open-set classification rate of Dhamija et al., NeurIPS 2018.
    """
    known = int(counts.correct.sum() + counts.wrong.sum())
    taken = _share_from_above(counts.unknown)
    if not known or np.isnan(taken).any():
        return float("nan")
    right = np.append(0, np.cumsum(counts.correct[::-1])) / known
    return float(np.trapezoid(right, taken))


def _share_from_above(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Share of examples at or above each level, highest first, after a 0 for a threshold above all; NaN for none."""
    passed = np.append(0, np.cumsum(counts[::-1]))
    return passed / passed[-1] if passed[-1] else np.full(len(passed), np.nan)


def _count(places: NDArray[np.int64], levels: int, known: Values, correct: Values) -> OpenSetCounts:
    known, correct = np.asarray(known).reshape(-1), np.asarray(correct).reshape(-1)
    kinds = (known & correct, known & ~correct, ~known)
    return OpenSetCounts(*(np.bincount(places[kind], minlength=levels).astype(np.int64) for kind in kinds))


def _scores(scores: Values, known: Values, correct: Values) -> NDArray[np.float64]:
    scores, known, correct = np.asarray(scores, dtype=np.float64), np.asarray(known), np.asarray(correct)
    if not scores.shape == known.shape == correct.shape or known.dtype != np.bool_ or correct.dtype != np.bool_:
        raise ValueError(
            f"scores, known and correct must have one shape, the last two being bool (got {scores.shape}, "
            f"{known.dtype} {known.shape} and {correct.dtype} {correct.shape})"
        )
    if np.isnan(scores).any():
        raise ValueError("scores hold NaN, which is neither above nor below the others")
    return scores
