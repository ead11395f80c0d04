"""Crops are parts of the picture, spread as asked, and fixed by the sample alone."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from clippy.crops import RandomResizedCrop, numbers_of

CROP = RandomResizedCrop(scale=(0.3, 0.9), ratio=(3 / 4, 4 / 3))


@given(st.integers(1, 4000), st.integers(1, 4000), st.integers())
def test_a_box_lies_in_the_picture(width: int, height: int, key: int) -> None:
    left, top, box_width, box_height = CROP.box(width, height, numbers_of(40, key))
    assert 0 <= left <= left + box_width <= width
    assert 0 <= top <= top + box_height <= height
    assert box_width > 0
    assert box_height > 0


def test_areas_and_shapes_are_spread_as_asked() -> None:
    boxes = np.array([CROP.box(1000, 900, numbers_of(40, key)) for key in range(2000)])
    areas = boxes[:, 2] * boxes[:, 3] / 900_000
    ratios = boxes[:, 2] / boxes[:, 3]
    assert 0.29 < areas.min() < 0.32
    assert 0.86 < areas.max() < 0.91
    assert 3 / 4 - 0.01 <= ratios.min() < 0.78
    assert 1.28 < ratios.max() <= 4 / 3 + 0.01
    places = boxes[:, :2] / ([1001, 901] - boxes[:, 2:])
    assert abs(np.corrcoef(places.T)[0, 1]) < 0.1
    assert np.allclose(places.mean(0), 0.5, atol=0.05)


def test_a_box_that_cannot_fit_becomes_the_centre() -> None:
    assert RandomResizedCrop((1.0, 1.0), (1.0, 1.0)).box(300, 100, numbers_of(40, 1)) == (100, 0, 100, 100)


def test_numbers_are_fixed_for_ever() -> None:
    assert numbers_of(2, 0, 3, "key") == numbers_of(4, 0, 3, "key")[:2]
    assert numbers_of(1, "a", "b") != numbers_of(1, "ab")
    assert [round(number, 6) for number in numbers_of(3, 17, 2, "000123")] == [0.270852, 0.781317, 0.683531]
