"""How values are spread: quantiles, and a histogram whose bins a person would have chosen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_MOST_BINS = 12


@dataclass(frozen=True)
class Distribution:
    """Quantiles of some values and their histogram: ``counts[i]`` of them lie in ``[edges[i], edges[i + 1])``.

    The last bin takes its right edge in.
    """

    count: int
    min: float
    p05: float
    median: float
    p95: float
    max: float
    edges: tuple[float, ...]
    counts: tuple[int, ...]


def distribution(
    values: Sequence[float] | np.ndarray, edges: Sequence[float] | None = None, binary: bool = False
) -> Distribution | None:
    """The distribution of ``values``, None if there are none; ``edges`` that leave values out are widened to hold them.

    Without ``edges`` the values are counts, and the edges round numbers of them, or of KiB, MiB, ... where they are
    ``binary``: bins double in width where the values span more than a factor of 16, and are equal elsewhere.
    """
    array = np.asarray(values, dtype=np.float64)
    if not len(array):
        return None
    low, high = float(array.min()), float(array.max())
    bins = _around(list(edges), low, high) if edges is not None else _nice_edges(low, high, binary)
    counts, _ = np.histogram(array, bins)
    p05, median, p95 = (float(value) for value in np.quantile(array, (0.05, 0.5, 0.95)))
    return Distribution(len(array), low, p05, median, p95, high, tuple(bins), tuple(counts.tolist()))


def _around(edges: list[float], low: float, high: float) -> list[float]:
    """``edges`` without the empty ends, widened where values lie outside."""
    if low < edges[0]:
        edges.insert(0, low)
    if high > edges[-1]:
        edges.append(high)
    first = max(i for i, edge in enumerate(edges[:-1]) if edge <= low)
    last = next(i for i, edge in enumerate(edges) if i > first and (edge > high or i == len(edges) - 1))
    return edges[first : last + 1]


def _nice_edges(low: float, high: float, binary: bool) -> list[float]:
    """Edges for values that are all at least 0."""
    if high > 16 * max(low, 1):
        factor = 2
        edge = 2 ** math.floor(math.log2(low)) if low >= 1 else 1
        while edge * factor ** (_MOST_BINS - 1) <= high:
            factor *= 2
        edges = [] if low >= 1 else [0.0]
        while edge <= high:
            edges.append(float(edge))
            edge *= factor
        return [*edges, float(edge)]
    unit = 1024.0 ** math.floor(math.log(max(high, 1), 1024) + 1e-9) if binary else 1.0
    width = max((high - low) / unit / (_MOST_BINS - 2), 1 if unit == 1 else 0.1)
    power = 10.0 ** math.floor(math.log10(width))
    step = next(power * nice for nice in (1, 2, 5, 10) if power * nice >= width * (1 - 1e-9))
    first = math.floor(low / unit / step + 1e-9)
    last = math.floor(high / unit / step + 1e-9) + 1
    return [round(index * step, 9) * unit for index in range(first, last + 1)]
