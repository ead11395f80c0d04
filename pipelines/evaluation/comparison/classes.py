"""What results say of single classes: each class's number, and which classes are taken for which."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.comparison.find import FoundResult
from pipelines.evaluation.comparison.numbers import percent
from pipelines.evaluation.paper import released_per_class
from pipelines.evaluation.result import Result

CONFUSED_PAIRS = 10
"""Pairs of classes that are shown of one result."""
COUNT = "count"
_UNITS = {"iou": "pixels", "accuracy": "pictures"}


@dataclass(frozen=True)
class ClassLine:
    """A class's number in percent for each model by its letter, and what the released code had."""

    name: str
    percents: dict[str, float]
    released: float | None


@dataclass(frozen=True)
class ConfusedPair:
    """How often one class was taken for another."""

    true: str
    predicted: str
    count: int
    share: float
    """Of all that is of the true class, in percent."""


def class_number(result: Result) -> str:
    """What is measured of each class: ``iou`` or ``accuracy``."""
    numbers = (name for values in result.per_class.values() for name in values if name != COUNT)
    return next(numbers, "")


def class_unit(result: Result) -> str:
    """What is counted of each class: pixels or pictures."""
    return _UNITS.get(class_number(result), "counts")


def class_lines(benchmark: str, results: Mapping[str, FoundResult]) -> list[ClassLine]:
    """Classes from the best to the worst by the mean over results, without those that have no number anywhere."""
    percents: dict[str, dict[str, float]] = defaultdict(dict)
    for label, found in results.items():
        number = class_number(found.result)
        for name, values in found.result.per_class.items():
            if math.isfinite(values.get(number, math.nan)):
                percents[name][label] = percent(values[number])
    released = released_per_class(benchmark)
    lines = [ClassLine(name, values, released.get(name)) for name, values in percents.items()]
    return sorted(lines, key=lambda line: -sum(line.percents.values()) / len(line.percents))


def confused_pairs(result: Result, most: int) -> list[ConfusedPair]:
    """The pairs with the largest share of the true class, at most ``most``; what was right is no pair."""
    names = list(result.per_class)
    totals: dict[int, int] = defaultdict(int)
    for true, _, count in result.confusion:
        totals[true] += count
    wrong = [
        ConfusedPair(_name(names, true), _name(names, predicted), count, percent(count / totals[true]))
        for true, predicted, count in result.confusion
        if true != predicted and count
    ]
    return sorted(wrong, key=lambda pair: (-pair.share, -pair.count))[:most]


def confusion_shares(result: Result) -> NDArray[np.float64]:
    """(C, C) percent of each true class (row) that was taken for each class (column); a row of NaN for an absent one.

    Pairs whose numbers are not of a class are left out.
    """
    classes = len(result.per_class)
    counts = np.zeros((classes, classes))
    for true, predicted, count in result.confusion:
        if 0 <= true < classes and 0 <= predicted < classes:
            counts[true, predicted] += count
    totals = counts.sum(axis=1, keepdims=True)
    return percent(1) * np.divide(counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)


def _name(names: list[str], number: int) -> str:
    return names[number] if 0 <= number < len(names) else f"class {number}"
