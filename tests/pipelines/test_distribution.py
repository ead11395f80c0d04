"""Histograms: every value in one bin, and edges that a person would have chosen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.inspection.distribution import distribution

VALUES = st.lists(st.integers(0, 10**12) | st.integers(0, 300), min_size=1, max_size=50)
EDGES = (0, 64, 128, 224, 512, 4096)


@given(VALUES, st.sampled_from([None, EDGES]), st.booleans())
def test_every_value_is_counted_where_it_lies(values: list[int], edges: tuple[float, ...] | None, binary: bool) -> None:
    found = distribution(values, edges, binary)
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


@pytest.mark.parametrize(
    ("values", "unit", "edges"),
    [
        ([3000, 900_000], 1024, [2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]),
        ([9.7 * 2**20, 12.8 * 2**20], 2**20, [9.5, 10, 10.5, 11, 11.5, 12, 12.5, 13]),
        ([4.9 * 2**20], 2**20, [4.9, 5]),
        ([700, 790], 1, [700, 710, 720, 730, 740, 750, 760, 770, 780, 790, 800]),
    ],
)
def test_edges_of_bytes_are_round_in_their_unit(values: list[float], unit: int, edges: list[float]) -> None:
    found = distribution(values, binary=True)
    assert found is not None
    assert [edge / unit for edge in found.edges] == pytest.approx(edges)


def test_nothing_has_no_distribution() -> None:
    assert distribution([]) is None
