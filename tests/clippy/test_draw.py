"""Pictures are checked by their pixels: colours, sizes, and which classes the legend names."""

import numpy as np
import pytest
from PIL import Image

from clippy.draw import overlay, palette, panel, sheet, tile

GREY = np.full((64, 64, 3), 100, dtype=np.uint8)
NAMES = ["grass", "dax", "wug"]


def colours_in(picture: Image.Image) -> set[tuple[int, ...]]:
    return set(map(tuple, np.asarray(picture).reshape(-1, 3).tolist()))


def test_palette_is_distinct_and_fixed() -> None:
    colours = palette(200)
    assert colours.shape == (200, 3)
    assert colours.dtype == np.uint8
    assert len(np.unique(colours, axis=0)) == 200
    assert np.array_equal(palette(7), colours[:7])
    assert palette(0).shape == (0, 3)
    gaps = np.abs(colours[:20, None].astype(int) - colours[None, :20]).sum(axis=2)
    assert gaps[~np.eye(20, dtype=bool)].min() >= 60


def test_overlay_by_hand() -> None:
    labels = np.array([[0, 1], [255, -1]])
    image = np.full((2, 2, 3), 100, dtype=np.uint8)
    colours = np.array([[200, 0, 0], [0, 0, 100]], dtype=np.uint8)
    expected = [[[150, 50, 50], [50, 50, 100]], [[100, 100, 100], [100, 100, 100]]]
    assert overlay(image, labels, colours, opacity=0.5).tolist() == expected
    assert np.array_equal(overlay(image, labels, colours, opacity=0), image)
    assert overlay(image, labels, colours, opacity=1)[0].tolist() == colours.tolist()
    assert (image == 100).all()


def test_overlay_takes_its_hue_from_the_class_alone() -> None:
    image = np.array([[[0, 100, 0], [0, 100, 0]]], dtype=np.uint8)
    tinted = overlay(image, np.array([[0, 255]]), np.array([[200, 0, 0]], dtype=np.uint8), opacity=0.5)
    assert tinted.tolist() == [[[129, 29, 29], [0, 100, 0]]]  # 0.587 * 100 is the grey of that green


@pytest.mark.parametrize(
    ("image", "labels", "opacity", "message"),
    [
        (GREY.astype(float), np.zeros((64, 64), int), 0.5, "uint8"),
        (GREY, np.zeros((8, 8), int), 0.5, "do not cover"),
        (GREY, np.zeros((64, 64), int), 1.5, "opacity"),
    ],
)
def test_overlay_refuses(image: np.ndarray, labels: np.ndarray, opacity: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        overlay(image, labels, palette(3), opacity)


def test_panel_shows_tiles_and_only_the_classes_present() -> None:
    prediction = np.zeros((64, 64), dtype=np.int64)
    prediction[16:48, 16:48] = 2
    truth = np.full((64, 64), 255)
    colours = palette(3)
    picture = panel(GREY, prediction, truth, NAMES, colours)
    pixels = np.asarray(picture)
    assert picture.width == 3 * 256 + 4 * 8
    middle = 8 + 22 + 128
    assert pixels[middle, 8 + 128].tolist() == [100, 100, 100]
    assert np.array_equal(pixels[middle, 2 * 8 + 256 + 128], overlay(GREY, prediction, colours)[32, 32])
    assert pixels[middle, 3 * 8 + 512 + 128].tolist() == [100, 100, 100]
    assert {tuple(colours[0].tolist()), tuple(colours[2].tolist())} <= colours_in(picture)
    assert tuple(colours[1].tolist()) not in colours_in(picture)


def test_panel_without_truth_has_two_tiles_and_scales() -> None:
    labels = np.zeros((64, 64), dtype=np.uint8)
    assert panel(GREY, labels, None, NAMES, palette(3), scale=1).width == 2 * 64 + 3 * 8
    wide = np.zeros((300, 400, 3), dtype=np.uint8)
    assert panel(wide, wide[..., 0], None, NAMES, palette(3)).width == 2 * 400 + 3 * 8


def test_panel_wraps_and_shortens_the_legend() -> None:
    many = np.arange(64 * 64).reshape(64, 64) % 40
    names = [f"a rather long class name number {index} " * 4 for index in range(40)]
    few = panel(GREY, many * 0, None, names, palette(40))
    full = panel(GREY, many, None, names, palette(40))
    assert full.width == few.width
    assert full.height == few.height + 39 * 22
    assert set(map(tuple, palette(40).tolist())) <= colours_in(full)


def test_panel_refuses() -> None:
    labels = np.zeros((64, 64), dtype=np.int64)
    with pytest.raises(ValueError, match="colours"):
        panel(GREY, labels, None, NAMES, palette(2))
    with pytest.raises(ValueError, match="scale"):
        panel(GREY, labels, None, NAMES, palette(3), scale=0)


def test_sheet_keeps_every_panel_whole() -> None:
    red, green = Image.new("RGB", (30, 10), (255, 0, 0)), Image.new("RGB", (20, 40), (0, 255, 0))
    page = sheet([red, green, green], columns=2)
    assert page.size == (50, 80)
    pixels = np.asarray(page)
    assert (pixels == [255, 0, 0]).all(axis=2).sum() == 300
    assert (pixels == [0, 255, 0]).all(axis=2).sum() == 2 * 800
    assert sheet([red], columns=3).size == (30, 10)
    with pytest.raises(ValueError, match="sheet"):
        sheet([], columns=1)


def test_tile_fits_any_picture_and_refuses_a_region_of_another() -> None:
    for height, width in ((3, 5), (700, 100), (1, 2000)):
        assert tile(np.zeros((height, width, 3), dtype=np.uint8), "a " * 100).size == (272, 294)
    with pytest.raises(ValueError, match=r"region \(3, 4\) does not cover an image of \(3, 5\)"):
        tile(np.zeros((3, 5, 3), dtype=np.uint8), "", np.ones((3, 4), dtype=np.bool_))
