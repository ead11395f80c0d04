"""Axes: where a value lies between 0 and 1, and which labels stand there."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tuning.study import shown_value


class Scale(Protocol):
    """An axis from 0 to 1."""

    def at(self, value: Any) -> float:
        """Where ``value`` lies."""

    def ticks(self) -> list[tuple[float, str]]:
        """Places and labels."""


@dataclass(frozen=True)
class Words:
    """Values that have no distance, evenly spread in their order, the first at the upper end."""

    words: tuple[str, ...]

    def at(self, value: Any) -> float:
        """The middle of the word's share."""
        return 1 - (self.words.index(shown_value(value)) + 0.5) / len(self.words)

    def ticks(self) -> list[tuple[float, str]]:
        """All of them."""
        return [(self.at(word), word) for word in self.words]


@dataclass(frozen=True)
class Numbers:
    """Numbers between two ends, by their distance or by their ratio."""

    low: float
    high: float
    by_ratio: bool = False
    most_ticks: int = 6

    def at(self, value: Any) -> float:
        """The middle where both ends are one."""
        low, high, place = (math.log(v) if self.by_ratio else float(v) for v in (self.low, self.high, value))
        return (place - low) / (high - low) if high > low else 0.5

    def ticks(self) -> list[tuple[float, str]]:
        """Round numbers inside, or the ends where there are none."""
        from matplotlib.ticker import LogLocator, MaxNLocator

        if self.low == self.high:
            return [(0.5, shown_value(self.low))]
        by_distance = MaxNLocator(self.most_ticks, steps=[1, 2, 2.5, 5, 10], min_n_ticks=2)
        locator = LogLocator(subs=(1, 2, 5), numticks=2 * self.most_ticks) if self.by_ratio else by_distance
        inside = [float(v) for v in locator.tick_values(self.low, self.high) if -1e-9 <= self.at(v) <= 1 + 1e-9]
        return [(self.at(v), shown_value(v)) for v in (inside if len(inside) > 1 else (self.low, self.high))]


def words_scale(values: Iterable[Any], order: Sequence[Any] = ()) -> Words:
    """All values that occur, those of ``order`` first."""
    return Words(tuple(dict.fromkeys(map(shown_value, (*order, *values)))))


def numbers_scale(values: Iterable[float], by_ratio: bool = False, room: float = 0.0) -> Numbers:
    """From the least to the greatest value, with ``room`` as a share of that on both sides."""
    values = list(values)
    low, high = min(values), max(values)
    more = room * ((high - low) or abs(high) or 1.0)
    return Numbers(low - more, high + more, by_ratio)


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Each dotted or slashed name as the end of it that no other name has."""
    parts = {name: name.replace("/", ".").split(".") for name in names}
    short = {}
    for name, own in parts.items():
        others = [other for other in parts if other != name]
        length = next(
            (n for n in range(1, len(own) + 1) if all(parts[other][-n:] != own[-n:] for other in others)), len(own)
        )
        short[name] = ".".join(own[-length:]) if length < len(own) else name
    return short
