"""Polygons and run lengths against cases drawn by hand, and texts that pycocotools 2.0.11 wrote."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.evaluation.datasets.coco_masks import decode_runs, decode_segmentation, fill_polygon, parse_counts


def drawn(text: str) -> np.ndarray:
    return np.array([[character == "#" for character in row] for row in text.split()])


def test_runs_go_down_the_columns() -> None:
    # Columns of two: (0, 1), (1, 1), (0, 0)
    np.testing.assert_array_equal(decode_runs([1, 3, 2], 2, 3), drawn(".#. ##."))
    np.testing.assert_array_equal(decode_runs([0, 6], 2, 3), drawn("### ###"))


@pytest.mark.parametrize("counts", [[1, 3, 1], [7], [], [8, -2]])
def test_runs_must_fill_the_picture(counts: list[int]) -> None:
    with pytest.raises(ValueError, match="do not add up to 2 x 3"):
        decode_runs(counts, 2, 3)


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("132", [1, 3, 2]),
        ("f0", [22]),  # 22 = 0b10110: its fifth bit would be a sign, so a second character follows
        ("6440N5", [6, 4, 4, 4, 2, 9]),  # 4 = 4 + 0, 2 = 4 - 2, 9 = 4 + 5
        ("PP`00", [512 * 32, 0]),
    ],
)
def test_compressed_runs(text: str, counts: list[int]) -> None:
    assert parse_counts(text) == counts


def test_text_that_is_no_run_lengths() -> None:
    with pytest.raises(ValueError, match="break off"):
        parse_counts("13f")
    with pytest.raises(ValueError, match="character ' '"):
        parse_counts("1 3")


def compressed(counts: list[int]) -> str:
    """The inverse of ``parse_counts``."""
    text = ""
    for i, count in enumerate(counts):
        value = count - (counts[i - 2] if i > 2 else 0)
        while True:
            bits, value = value & 31, value >> 5
            more = not (value == 0 and not bits & 16) and not (value == -1 and bits & 16)
            text += chr(48 + bits + 32 * more)
            if not more:
                break
    return text


@given(st.lists(st.integers(0, 10**7)))
def test_compressed_runs_come_back(counts: list[int]) -> None:
    assert parse_counts(compressed(counts)) == counts


def test_rectangle_has_the_pixels_inside_it() -> None:
    np.testing.assert_array_equal(fill_polygon([1, 0, 3, 0, 3, 2, 1, 2], 3, 4), drawn(".##. .##. ...."))


def test_pixels_count_by_their_centres() -> None:
    # From 0.6 the centre 0.5 is out; to 2.4 the centre 2.5 is out.
    np.testing.assert_array_equal(fill_polygon([0.6, 0.6, 2.4, 0.6, 2.4, 2.4, 0.6, 2.4], 3, 3), drawn("... .#. ..."))
    np.testing.assert_array_equal(fill_polygon([0.4, 0.4, 2.6, 0.4, 2.6, 2.6, 0.4, 2.6], 3, 3), drawn("### ### ###"))


def test_edges_through_centres_count_above_and_left() -> None:
    square = [0.5, 0.5, 2.5, 0.5, 2.5, 2.5, 0.5, 2.5]
    np.testing.assert_array_equal(fill_polygon(square, 3, 3), drawn("##. ##. ..."))


def test_triangle() -> None:
    # The long side from (0, 4) to (4, 0): centres with x + y < 4.
    np.testing.assert_array_equal(fill_polygon([0, 0, 4, 0, 0, 4], 4, 4), drawn("###. ##.. #... ...."))


def test_what_crosses_itself_is_even_odd() -> None:
    # Twice around the same square, and a square in a square of the same outline.
    square = [0, 0, 4, 0, 4, 4, 0, 4]
    np.testing.assert_array_equal(fill_polygon(square * 2, 4, 4), drawn(".... .... .... ...."))
    ring = [*square, 0, 0, 1, 1, 1, 3, 3, 3, 3, 1, 1, 1]
    np.testing.assert_array_equal(fill_polygon(ring, 4, 4), drawn("#### #..# #..# ####"))


def test_what_lies_outside_is_cut_off() -> None:
    np.testing.assert_array_equal(fill_polygon([-5, -5, 2, -5, 2, 1, -5, 1], 2, 3), drawn("##. ..."))
    np.testing.assert_array_equal(fill_polygon([9, 9, 12, 9, 12, 12], 2, 3), drawn("... ..."))
    np.testing.assert_array_equal(fill_polygon([1, 1, 2, 2], 2, 3), drawn("... ..."))


@given(st.lists(st.tuples(st.floats(-5, 15), st.floats(-5, 15)), min_size=3, max_size=8))
def test_fill_agrees_with_a_ray_from_each_centre(points: list[tuple[float, float]]) -> None:
    filled = fill_polygon([value for point in points for value in point], 8, 10)
    for row, column in np.ndindex(8, 10):
        x, y, inside, on_edge = column + 0.5, row + 0.5, False, False
        for (x0, y0), (x1, y1) in zip(points, [*points[1:], points[0]], strict=True):
            if (x0 <= x) != (x1 <= x):
                crossing = y0 + (x - x0) * (y1 - y0) / (x1 - x0)
                on_edge |= abs(crossing - y) < 1e-9  # where rounding decides
                inside ^= crossing < y
        assert on_edge or filled[row, column] == inside


def test_polygons_of_one_object_are_joined() -> None:
    parts = [[0, 0, 2, 0, 2, 1, 0, 1], [1, 0, 3, 0, 3, 2, 1, 2]]
    np.testing.assert_array_equal(decode_segmentation(parts, 2, 3), drawn("### .##"))


def test_both_kinds_of_run_lengths() -> None:
    for counts in ([1, 3, 2], "132"):
        np.testing.assert_array_equal(decode_segmentation({"size": [2, 3], "counts": counts}, 2, 3), drawn(".#. ##."))
    with pytest.raises(ValueError, match="not height and width"):
        decode_segmentation({"size": [3, 2], "counts": [6]}, 2, 3)


def test_text_of_pycocotools() -> None:
    # pycocotools.mask.encode of the picture below, 7 x 5.
    text = "5122ON10O00012ON40M"
    expected = drawn("..... .###. .#.#. .###. ....# ####. .....")
    np.testing.assert_array_equal(decode_segmentation({"size": [7, 5], "counts": text}, 7, 5), expected)
