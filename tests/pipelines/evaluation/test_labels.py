"""Label PNGs as they are really written, and what must not be read in silence."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from pipelines.columns import DataError
from pipelines.evaluation.dataset import VOID
from pipelines.evaluation.datasets.labels import (
    decode_numbers,
    decode_picture,
    decode_rgb_numbers,
    id_map,
    own_ids,
)
from tests.pipelines.evaluation.layouts import encode, encode_grey, encode_palette, encode_rgb_numbers, picture

NUMBERS = np.array([[0, 1, 2], [20, 255, 7]], dtype=np.uint8)


def png(image: Image.Image, **options: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", **options)
    return stream.getvalue()


def numbers(data: bytes, height: int = 2, width: int = 3) -> np.ndarray:
    return decode_numbers(data, "m.png", picture(height, width), "p.jpg")


def test_palette_png_is_read_as_indices_whatever_its_colours() -> None:
    np.testing.assert_array_equal(numbers(encode_palette(NUMBERS)), NUMBERS)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_small_palettes_are_read_as_indices(bits: int) -> None:
    small = NUMBERS % 2**bits
    image = Image.fromarray(small)
    image.putpalette(range(3 * 2**bits))
    data = png(image, bits=bits)
    assert data[24] == bits
    np.testing.assert_array_equal(numbers(data), small)


def test_sixteen_bits_are_kept() -> None:
    wide = np.array([[24001, 65535, 7], [0, 256, 33019]], dtype=np.uint16)
    np.testing.assert_array_equal(numbers(encode_grey(wide)), wide)


def test_one_bit_is_zero_and_one() -> None:
    mask = np.array([[True, False, True], [False, False, True]])
    np.testing.assert_array_equal(numbers(png(Image.fromarray(mask))), mask.astype(int))


def test_panoptic_colours_are_one_number() -> None:
    ids = np.array([[0, 1, 255], [256, 65536, 1 + 2 * 256 + 3 * 65536]])
    data = encode_rgb_numbers(ids)
    assert Image.open(io.BytesIO(data)).getpixel((2, 1)) == (1, 2, 3)
    np.testing.assert_array_equal(decode_rgb_numbers(data, "m.png", picture(2, 3), "p.jpg"), ids)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (encode(np.zeros((2, 3, 3), np.uint8), "PNG"), "m.png: is a PNG of mode RGB; a mask holds class numbers"),
        (encode(picture(2, 3)), "m.png: is JPEG, not PNG"),
        (b"hello", "m.png: is no PNG"),
        (b"", "m.png: is no PNG"),
    ],
)
def test_what_holds_no_numbers_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        numbers(data)


def test_what_breaks_off_is_refused() -> None:
    data = encode_grey(np.random.default_rng(0).integers(0, 21, (200, 300)))
    with pytest.raises(DataError, match=r"m\.png: the PNG breaks off"):
        numbers(data[: len(data) // 2], 200, 300)


def test_grey_png_of_few_bits_is_refused() -> None:
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"\x00\x01\x20" * 2  # a filter byte and three values of four bits: 0, 1, 2
    header = struct.pack(">IIBBBBB", 3, 2, 4, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert np.asarray(Image.open(io.BytesIO(data)))[0, 1] == 17  # what would have been read
    with pytest.raises(DataError, match=r"m\.png: is a grey PNG of 4 bits, .* store it with 8"):
        numbers(data)


def test_other_sizes_are_refused_with_both_files() -> None:
    with pytest.raises(DataError, match=r"m\.png: is 3 x 2, while p\.jpg is 4 x 2$"):
        numbers(encode_palette(NUMBERS), width=4)
    with pytest.raises(DataError, match=r"m\.png: is 3 x 2, while p\.jpg is 2 x 3; pictures are shown as their EXIF"):
        numbers(encode_palette(NUMBERS), height=3, width=2)


def test_numbers_become_classes_or_an_error() -> None:
    ids = own_ids(21)
    np.testing.assert_array_equal(ids(NUMBERS, "m.png"), [[0, 1, 2], [20, VOID, 7]])
    assert ids(NUMBERS, "m.png").dtype == np.int32
    with pytest.raises(DataError, match=r"m\.png: has the value 21; its values are 0 to 20, and 255 for void"):
        ids(np.array([[3, 21]], dtype=np.uint8), "m.png")
    wide = np.array([[20, 255, 300]], dtype=np.uint16)
    with pytest.raises(DataError, match="has the value 300"):
        ids(wide, "m.png")
    np.testing.assert_array_equal(ids(wide[:, :2], "m.png"), [[20, VOID]])
    with pytest.raises(DataError, match="has the value -3"):
        ids(np.array([[-3]], dtype=np.int32), "m.png")


def test_maps_may_go_beyond_a_byte() -> None:
    ids = id_map({1000: 3, 7: VOID}, "7 or 1000")
    np.testing.assert_array_equal(ids(np.array([[1000, 7]], dtype=np.uint16), "m.png"), [[3, VOID]])
    with pytest.raises(DataError, match="has the value 8"):
        ids(np.array([[1000, 8]], dtype=np.uint16), "m.png")


def test_pictures_are_turned_and_may_be_given_to_torch() -> None:
    stored = np.zeros((40, 80, 3), np.uint8)
    stored[:, :40] = 255  # left, which orientation 6 turns to the top
    shown = decode_picture(encode(stored, orientation=6), "p.jpg")
    assert shown.shape == (80, 40, 3)
    assert shown[:30].min() > 200 > 50 > shown[50:].max()
    assert shown.flags.c_contiguous
    assert shown.flags.writeable
    assert decode_picture(encode(stored, "PNG"), "p.png").flags.writeable
    with pytest.raises(DataError, match=r"p\.jpg: the bytes are no image"):
        decode_picture(b"hello", "p.jpg")
