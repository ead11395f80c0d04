"""Search by phrases with a model that knows colours: the best are found, whatever the order and the number."""

from __future__ import annotations

import numpy as np
import pytest

from clippy.draw import LINE_HEIGHT, MARGIN, TILE_PIXELS
from clippy.search import Search, contact_sheet
from tests.pipelines.evaluation.colour_model import ColourModel

RED, GREEN, BLUE = (250, 0, 0), (0, 250, 0), (0, 0, 250)
SIDE = 8


def model() -> ColourModel:
    return ColourModel({"dog": RED, "cat": GREEN, "grass": BLUE}, SIDE)


def picture(columns: int, colour: tuple[int, int, int] = RED, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    """So many columns of a colour on the left, the rest grass."""
    pixels = np.full((height, width, 3), BLUE, dtype=np.uint8)
    pixels[:, :columns] = colour
    return pixels


def test_whole_pictures_by_hand() -> None:
    search = Search(model(), ["a dog", "a cat"], top=2)
    for name, columns in (("few", 2), ("many", 6), ("none", 0), ("half", 4)):
        search.look(name, picture(columns))
    dogs, cats = search.hits()
    assert [hit.name for hit in dogs] == ["many", "half"]
    # 48 pixels of dog and 16 of grass; as many of each.
    assert [hit.cosine for hit in dogs] == pytest.approx([48 / (48**2 + 16**2) ** 0.5, 0.5**0.5])
    assert all(hit.box is None for hit in dogs)
    # Equal cosines: the first that were seen.
    assert [(hit.name, hit.cosine) for hit in cats] == [("few", 0), ("many", 0)]


@pytest.mark.parametrize("top", [1, 3, 50])
def test_the_best_are_kept_of_any_number_of_pictures(top: int) -> None:
    order = np.random.default_rng(0).permutation(9).tolist()
    search = Search(model(), ["dog"], top=top)
    for columns in order:
        search.look(str(columns), picture(columns))
        assert len(search.hits()[0]) <= top
    assert [int(hit.name) for hit in search.hits()[0]] == sorted(order, reverse=True)[:top]


def test_groups_are_parts_that_touch() -> None:
    pixels = picture(2)
    pixels[:3, 6:] = RED  # a second dog, apart from the first; the picture is shown to the model as it is
    search = Search(model(), ["dog"], regions="groups")
    search.look("dogs", pixels)
    first, second, grass = search.hits()[0]
    assert {first.box, second.box} == {(0, 0, 2, 8), (6, 0, 8, 3)}
    assert (first.cosine, second.cosine) == pytest.approx((1, 1))
    assert (grass.box, grass.cosine) == ((2, 0, 8, 8), pytest.approx(0))
    assert all(hit.patches_hw is not None and hit.patches_hw.shape == (8, 8) for hit in (first, second, grass))


def test_boxes_are_in_pixels_of_the_picture() -> None:
    search = Search(model(), ["dog"], regions="groups")
    search.look("large", picture(columns=20, height=80, width=80))
    assert search.hits()[0][0].box == (0, 0, 20, 80)


def test_windows_of_one_place_are_one_hit() -> None:
    search = Search(model(), ["dog"], regions="windows", top=50)
    pixels = picture(0, height=8, width=32)
    pixels[4:6, 20:22] = RED  # one of the smallest windows
    search.look("wide", pixels)
    hits = search.hits()[0]
    assert (hits[0].box, hits[0].cosine) == ((20, 4, 22, 6), pytest.approx(1))
    for number, hit in enumerate(hits):
        assert hit.box is not None
        left, top, right, bottom = hit.box
        assert 0 <= left < right <= 32
        assert 0 <= top < bottom <= 8
        for other in hits[:number]:
            assert other.box is not None
            along = min(right, other.box[2]) - max(left, other.box[0])
            down = min(bottom, other.box[3]) - max(top, other.box[1])
            smaller = min((right - left) ** 2, (other.box[2] - other.box[0]) ** 2)
            assert max(0, along) * max(0, down) <= 0.2 * smaller + 1e-6


def test_a_very_long_picture_has_a_bounded_number_of_windows() -> None:
    search = Search(model(), ["dog"], regions="windows", top=10**6)
    search.look("line", picture(1, height=1, width=20_000))
    assert 0 < len(search.hits()[0]) < 1000


def test_contact_sheet_shows_the_hits_and_their_outlines() -> None:
    pictures = {"a/dog.png": picture(4), "a/cat.png": picture(300, GREEN, height=400, width=600)}
    search = Search(model(), ["dog"], regions="groups", top=6)
    for name, pixels in pictures.items():
        search.look(name, pixels)
    hits = search.hits()[0]
    page = contact_sheet("dog", hits, pictures.__getitem__)
    side = TILE_PIXELS + 2 * MARGIN
    assert page.size == (4 * side, MARGIN + 2 * LINE_HEIGHT + side)  # four hits in a row below the title
    shown = np.asarray(page)[2 * MARGIN + LINE_HEIGHT :][:TILE_PIXELS, MARGIN : MARGIN + TILE_PIXELS]
    # The left half is the dog: a dark and a light line around it, its colour within; nothing in the other half.
    half = TILE_PIXELS // 2
    assert shown[half, 0].tolist() == shown[half, half - 1].tolist() == [20, 20, 20]
    assert shown[half, 3].tolist() == shown[half, half - 4].tolist() == [255, 255, 255]
    assert shown[half, half // 2].tolist() == list(RED)
    assert (shown[:, half:] == BLUE).all()


@pytest.mark.parametrize(
    ("phrases", "options", "sentence"),
    [
        ([], {}, "phrases: must hold at least one text"),
        (["dog", " "], {}, "phrases: number 2 of 2 is blank"),
        (["dog", "dog"], {}, "phrases: 'dog' comes more than once"),
        (["dog"], {"top": 0}, r"top: must be at least 1 \(got 0\)"),
        (["dog"], {"size": 0}, "size: must be from 1"),
    ],
)
def test_mistakes_are_refused(phrases: list[str], options: dict[str, int], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Search(model(), phrases, **options)  # type: ignore[arg-type]
