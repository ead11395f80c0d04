"""Any bytes become the right pixels or a cause; bombs are refused before they are decompressed."""

from __future__ import annotations

import contextlib
import io
import struct
import time
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clippy.images import NOT_AN_IMAGE, TOO_LARGE, TRUNCATED, ImageError, decode_image

GRADIENT = np.dstack(np.meshgrid(np.arange(0, 240, 2), np.arange(0, 180, 2))).astype(np.uint8)  # (90, 120, 2)
RGB = np.dstack([GRADIENT, np.full(GRADIENT.shape[:2], 90, np.uint8)])


def encode(picture: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def expected(size: int = 32) -> np.ndarray:
    """The picture above, by Pillow's own steps: crop the centre, then resize."""
    square = Image.fromarray(RGB).crop((15, 0, 105, 90))
    return np.asarray(square.resize((size, size), Image.Resampling.BICUBIC))


@pytest.mark.parametrize(
    ("data", "tolerance"),
    [
        (encode(Image.fromarray(RGB), "PNG"), 0),
        (encode(Image.fromarray(RGB), "WEBP", lossless=True), 0),
        (encode(Image.fromarray(RGB), "JPEG", quality=98), 4),
        (encode(Image.fromarray(RGB), "JPEG", quality=98, progressive=True), 4),
        (encode(Image.fromarray(RGB).convert("CMYK"), "JPEG", quality=98), 6),
        (encode(Image.fromarray(RGB).convert("P", palette=Image.Palette.ADAPTIVE, colors=256), "PNG"), 16),
        (encode(Image.fromarray(RGB).convert("RGBA"), "PNG"), 0),
    ],
    ids=["png", "webp", "jpeg", "progressive", "cmyk", "palette", "alpha"],
)
def test_formats_give_the_same_picture(data: bytes, tolerance: int) -> None:
    pixels = decode_image(data, 32)
    assert pixels.shape == (32, 32, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - expected()).max() <= tolerance


def test_stored_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side
    turned = encode(Image.fromarray(np.rot90(RGB).copy()), "PNG", exif=exif)
    assert np.abs(decode_image(turned, 32).astype(int) - expected()).max() <= 1


def test_sixteen_bits_keep_their_range() -> None:
    ramp = (np.arange(64, dtype=np.uint16)[None].repeat(64, 0) * 1024).astype(np.uint16)
    pixels = decode_image(encode(Image.fromarray(ramp), "PNG"), 64)
    assert np.array_equal(pixels[0, :, 0], np.arange(64) * 4)


def test_transparency_becomes_white() -> None:
    clear = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    assert (decode_image(encode(clear, "PNG"), 8) == 255).all()


def test_large_jpeg_scales_while_decoding_and_still_looks_the_same() -> None:
    big = Image.fromarray(RGB).resize((1200, 900), Image.Resampling.BICUBIC)
    pixels = decode_image(encode(big, "JPEG", quality=95), 64)
    reference = big.crop((150, 0, 1050, 900)).resize((64, 64), Image.Resampling.BICUBIC)
    assert np.abs(pixels.astype(int) - np.asarray(reference)).mean() < 2


def cause(data: bytes, **options: int) -> str:
    with pytest.raises(ImageError) as error:
        decode_image(data, 32, **options)
    return error.value.cause


def test_broken_bytes_have_a_cause() -> None:
    jpeg = encode(Image.fromarray(RGB), "JPEG")
    assert cause(b"<html>404</html>") == NOT_AN_IMAGE
    assert cause(b"") == NOT_AN_IMAGE
    assert cause(jpeg[: len(jpeg) // 2]) == TRUNCATED
    png = encode(Image.fromarray(RGB), "PNG")
    assert cause(png[: len(png) // 2]) == TRUNCATED


def bomb(side: int) -> bytes:
    """A PNG whose header promises side x side pixels, in a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [10_001, 20_000, 100_000])
def test_bombs_are_refused_by_their_header(side: int) -> None:
    started = time.perf_counter()
    assert cause(bomb(side)) == TOO_LARGE
    assert time.perf_counter() - started < 0.5


def test_limit_is_a_parameter() -> None:
    assert cause(encode(Image.fromarray(RGB), "PNG"), max_pixels=1000) == TOO_LARGE


@given(st.binary(max_size=200), st.integers(0, 2000))
def test_damage_never_raises_anything_else(noise: bytes, place: int) -> None:
    jpeg = bytearray(encode(Image.fromarray(RGB), "JPEG"))
    jpeg[place : place + len(noise)] = noise
    with contextlib.suppress(ImageError):
        assert decode_image(bytes(jpeg), 16).shape == (16, 16, 3)
