"""Histograms: every value in one bin, and edges that a person would have chosen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.distribution import distribution

VALUES = st.lists(st.integers(0, 10**12) | st.integers(0, 300), min_size=1, max_size=50)
EDGES = (0, 64, 128, 224, 512, 4096)


@given(VALUES, st.sampled_from([None, EDGES]), st.sampled_from([1, 1024]))
def test_every_value_is_counted_where_it_lies(values: list[int], edges: tuple[float, ...] | None, unit: float) -> None:
    found = distribution(values, edges, unit)
    assert found is not None
    assert sum(found.counts) == found.count == len(values)
    assert len(found.edges) == len(found.counts) + 1 <= 16
    assert all(np.diff(found.edges) > 0)
    assert found.edges[0] <= min(values)
    assert max(values) <= found.edges[-1]
    assert found.min <= found.p05 <= found.median <= found.p95 <= found.max
    assert found.counts[0] or found.edges[0] == 0  # no empty ends
    assert found.counts[-1]


@pytest.mark.parametrize(
    ("values", "edges"),
    [
        ([5, 5, 5], (5, 6)),
        ([4, 7, 11], (4, 5, 6, 7, 8, 9, 10, 11, 12)),
        ([100, 180], (100, 110, 120, 130, 140, 150, 160, 170, 180, 190)),
        ([1, 30, 100], (1, 2, 4, 8, 16, 32, 64, 128)),
        ([0, 100], (0, 1, 2, 4, 8, 16, 32, 64, 128)),
    ],
)
def test_edges_are_round(values: list[int], edges: tuple[float, ...]) -> None:
    found = distribution(values)
    assert found is not None
    assert found.edges == edges


def test_edges_are_round_numbers_of_the_unit() -> None:
    found = distribution([3000, 900_000], unit=1024)
    assert found is not None
    assert [edge / 1024 for edge in found.edges] == [2.0**i for i in range(1, 11)]


def test_nothing_has_no_distribution() -> None:
    assert distribution([]) is None
