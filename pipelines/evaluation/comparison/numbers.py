"""Numbers as they are compared: in percent, with the sign and size of a difference and whether it is for the better."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

_LOWER_IS_BETTER = re.compile("gap|fpr|error|loss", re.IGNORECASE)
_ROUNDING = 0.05
"""Points that one decimal does not show."""


@dataclass(frozen=True)
class Difference:
    """Points above (or below) another number; ``better`` is None where one decimal does not tell them apart."""

    points: float
    better: bool | None

    def said(self, other: str = "") -> str:
        """'+1.8 better than A', '−0.7 worse', '±0.0 as A'."""
        if self.better is None:
            return f"±0.0 as {other}" if other else "±0.0 same"
        than = f" than {other}" if other else ""
        return f"{self.points:+.1f} {'better' if self.better else 'worse'}{than}".replace("-", "−", 1)


@dataclass(frozen=True)
class Cell:
    """A number of ours in percent, NaN where it is not defined, against the paper's and against the first result's."""

    percent: float
    to_paper: Difference | None = None
    to_first: Difference | None = None


def percent(fraction: float) -> float:
    """A number of a ``Result`` in the paper's unit: the one place where it becomes percent."""
    return 100 * fraction


def percent_text(value: float | None) -> str:
    """'50.8'; '–' for what is not there or not defined."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.1f}".replace("-", "−")


def lower_is_better(number: str) -> bool:
    """Whether a number of this name is the better the smaller it is: a gap, a rate of false positives, an error."""
    return _LOWER_IS_BETTER.match(number) is not None


def difference(value: float, other: float | None, number: str) -> Difference | None:
    """How far ``value`` lies from ``other``, both in percent; None if one of them is not there or not defined."""
    if other is None or not math.isfinite(value - other):
        return None
    points = value - other
    if abs(points) < _ROUNDING:
        return Difference(points, None)
    return Difference(points, (points > 0) != lower_is_better(number))
