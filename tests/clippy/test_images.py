"""Any bytes become the right pixels or a cause; bombs are refused before they are decompressed."""

from __future__ import annotations

import contextlib
import io
import struct
import time
import zlib
from importlib.resources import files

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageOps

from clippy.images import (
    NOT_AN_IMAGE,
    TOO_LARGE,
    TRUNCATED,
    Header,
    ImageError,
    decode_image,
    decode_rgb,
    read_header,
    verify_image,
)

GRADIENT = np.dstack(np.meshgrid(np.arange(0, 240, 2), np.arange(0, 180, 2))).astype(np.uint8)  # (90, 120, 2)
RGB = np.dstack([GRADIENT, np.full(GRADIENT.shape[:2], 90, np.uint8)])


def encode(picture: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def reference(picture: Image.Image, size: int) -> np.ndarray:
    """What torchvision's Resize and CenterCrop make of a whole Pillow image, in Pillow's own calls."""
    width, height = picture.size
    shape = (size, int(size * height / width)) if width < height else (int(size * width / height), size)
    left, top = round((shape[0] - size) / 2), round((shape[1] - size) / 2)
    resized = picture.resize(shape, Image.Resampling.BICUBIC)
    return np.asarray(resized.crop((left, top, left + size, top + size)))


def expected(size: int = 32) -> np.ndarray:
    """The picture above as it should come out."""
    return reference(Image.fromarray(RGB), size)


def difference(pixels: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.abs(pixels.astype(int) - other.astype(int))


def photograph(name: str) -> Image.Image:
    """One of the photographs that scikit-learn and matplotlib, which MLflow brings, ship with."""
    package, path = {
        "china": ("sklearn", "datasets/images/china.jpg"),
        "flower": ("sklearn", "datasets/images/flower.jpg"),
        "grace_hopper": ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
    }[name]
    with (files(package) / path).open("rb") as stream:
        return Image.open(stream).convert("RGB")


def zone_plate(side: int) -> np.ndarray:
    """float (side, side): rings whose frequency grows with the radius, to half a cycle a pixel at the edge."""
    y, x = np.mgrid[:side, :side] - side / 2 + 0.5
    return 127.5 + 120 * np.cos(np.pi / side * (x * x + y * y))


@pytest.mark.parametrize(
    ("data", "tolerance"),
    [
        (encode(Image.fromarray(RGB), "PNG"), 1),
        (encode(Image.fromarray(RGB), "WEBP", lossless=True), 1),
        (encode(Image.fromarray(RGB), "JPEG", quality=98), 4),
        (encode(Image.fromarray(RGB), "JPEG", quality=98, progressive=True), 4),
        (encode(Image.fromarray(RGB).convert("CMYK"), "JPEG", quality=98), 6),
        (encode(Image.fromarray(RGB).convert("P", palette=Image.Palette.ADAPTIVE, colors=256), "PNG"), 16),
        (encode(Image.fromarray(RGB).convert("RGBA"), "PNG"), 1),
    ],
    ids=["png", "webp", "jpeg", "progressive", "cmyk", "palette", "alpha"],
)
def test_formats_give_the_same_picture(data: bytes, tolerance: int) -> None:
    pixels = decode_image(data, 32)
    assert pixels.shape == (32, 32, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - expected()).max() <= tolerance


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_stored_orientation_is_applied(orientation: int, kind: str) -> None:
    shown = photograph("grace_hopper").resize((300, 420))
    # Pillow's transpositions that make the stored picture of each orientation from the one to be shown.
    turn = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}.get(orientation)
    stored = shown if turn is None else shown.transpose(Image.Transpose(turn))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = encode(stored, kind, exif=exif, quality=98)
    whole = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert difference(np.asarray(whole.convert("RGB")), np.asarray(shown)).mean() < 3  # the file is what it should be
    for size in (32, 224):
        assert difference(decode_image(data, size), reference(whole.convert("RGB"), size)).mean() < 2
    assert (read_header(data).width, read_header(data).height) == shown.size


@pytest.mark.filterwarnings("error")
def test_exif_that_is_broken_or_elsewhere_is_passed_over() -> None:
    plain = encode(Image.fromarray(RGB), "JPEG", quality=98)
    block = b"Exif\x00\x00" + b"MM\x00\x2a\xff\xff"
    data = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + plain[2:]
    assert np.array_equal(decode_image(data, 32), decode_image(plain, 32))


def test_exif_behind_a_long_profile_and_padding_turns_the_picture() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    plain = encode(Image.fromarray(RGB), "JPEG", quality=98)
    block, profile = b"Exif\x00\x00" + exif.tobytes().removeprefix(b"Exif\x00\x00"), bytes(60_000)
    segments = [(b"\xff\xe2", profile), (b"\xff\xe2", profile), (b"\xff\xff\xff\xe1", block)]
    added = b"".join(marker + struct.pack(">H", len(content) + 2) + content for marker, content in segments)
    turned = np.rot90(decode_rgb(plain), k=-1)
    assert np.array_equal(decode_rgb(plain[:2] + added + plain[2:]), turned)
    cut = plain[:2] + added[:61_000]
    with pytest.raises(ImageError):
        decode_rgb(cut)


def test_sixteen_bits_keep_their_range() -> None:
    ramp = (np.arange(64, dtype=np.uint16)[None].repeat(64, 0) * 1024).astype(np.uint16)
    pixels = decode_image(encode(Image.fromarray(ramp), "PNG"), 64)
    assert np.array_equal(pixels[0, :, 0], np.arange(64) * 4)


def test_transparency_becomes_white() -> None:
    clear = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    assert (decode_image(encode(clear, "PNG"), 8) == 255).all()


@pytest.mark.parametrize("subsampling", [0, 2])
@pytest.mark.parametrize("size", [32, 64, 100, 112, 160, 224, 288, 336, 448])
@pytest.mark.parametrize("name", ["china", "flower", "grace_hopper"])
def test_photographs_equal_pillow_on_the_whole_picture(name: str, size: int, subsampling: int) -> None:
    data = encode(photograph(name), "JPEG", quality=90, subsampling=subsampling)
    assert difference(decode_image(data, size), reference(Image.open(io.BytesIO(data)), size)).mean() <= 1.5


@pytest.mark.parametrize("size", [64, 112, 160, 224, 300, 336])
def test_no_aliasing_on_a_zone_plate(size: int) -> None:
    side = 1024
    plate = np.repeat(zone_plate(side).round().astype(np.uint8)[..., None], 3, axis=2)
    pixels = decode_image(encode(Image.fromarray(plate), "JPEG", quality=95, subsampling=0), size)[..., 0]
    y, x = (np.mgrid[:size, :size] + 0.5) * side / size - side / 2
    too_fine = np.hypot(x, y) / side > 1.35 * 0.5 * size / side  # rings that this size cannot show must fade to grey
    alias = np.sqrt(np.mean((pixels[too_fine] - 127.5) ** 2))
    nearest = plate[side // size // 2 :: side // size, side // size // 2 :: side // size, 0]
    assert alias < 8  # Pillow's own, of the whole picture, is 1 to 5
    assert np.std(nearest) > 60  # without a filter the rings would be all there


@pytest.mark.parametrize("shape", [(60, 4000), (4000, 60), (1, 500), (33, 31), (1, 1)])
def test_every_shape_gives_a_square(shape: tuple[int, int]) -> None:
    picture = photograph("china").resize(shape[::-1])
    for kind in ("JPEG", "PNG"):
        assert decode_image(encode(picture, kind), 48).shape == (48, 48, 3)


def test_a_panorama_shows_its_middle() -> None:
    wide = np.zeros((40, 1000, 3), np.uint8)
    wide[:, 480:520] = 200
    assert (decode_image(encode(Image.fromarray(wide), "PNG"), 40) == 200).mean() > 0.9


def test_a_chosen_box_is_what_is_shown() -> None:
    picture = photograph("china")
    left, top, width, height = 96, 64, 320, 256
    part = picture.crop((left, top, left + width, top + height))
    for kind, size in (("PNG", 128), ("JPEG", 128), ("JPEG", 64), ("JPEG", 256)):
        data = encode(picture, kind, quality=98)
        pixels = decode_image(data, size, lambda w, h: (left, top, width, height))
        assert difference(pixels, np.asarray(part.resize((size, size), Image.Resampling.BICUBIC))).mean() < 2.5


def test_a_header_is_read_without_the_rest() -> None:
    data = encode(photograph("flower"), "PNG")
    assert read_header(data[:20_000]) == Header(640, 427, "PNG")
    with pytest.raises(ImageError) as error:
        verify_image(data[: len(data) // 2])
    assert error.value.cause == TRUNCATED


def test_verifying_reads_to_the_end() -> None:
    data = encode(photograph("flower"), "JPEG")
    assert verify_image(data) == Header(640, 427, "JPEG")
    with pytest.raises(ImageError) as error:
        verify_image(data[:-2000])
    assert error.value.cause == TRUNCATED


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


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["AVIF", "GIF", "PNG", "TIFF", "WEBP"])
def test_damage_to_other_formats_never_raises_anything_else(kind: str) -> None:
    whole = encode(Image.fromarray(RGB).resize((24, 16)), kind)
    for place in range(0, min(len(whole), 600), 3):
        damaged = whole[:place] + b"\xff\x00\xff\x01" + whole[place + 4 :]
        for read in (read_header, verify_image, decode_rgb):
            with contextlib.suppress(ImageError):
                read(damaged)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("mode", "kind"), [("CMYK", "JPEG"), ("RGB", "WEBP"), ("RGB", "PNG")])
def test_exif_that_cannot_be_written_again_still_turns_the_picture(mode: str, kind: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.XResolution] = 72.0
    block = exif.tobytes()
    entry = block.index(struct.pack(">HH", ExifTags.Base.XResolution, 5))
    block = block[: entry + 2] + struct.pack(">H", 7) + block[entry + 4 :]  # bytes where a fraction belongs
    picture = Image.fromarray(RGB).convert(mode)
    turned, plain = encode(picture, kind, exif=block), encode(picture, kind)
    assert np.array_equal(decode_rgb(turned), np.rot90(decode_rgb(plain), k=-1))
    broken = encode(picture, kind, exif=b"Exif\x00\x00MM\x00\x2a\xff\xff")
    assert np.array_equal(decode_rgb(broken), decode_rgb(plain))
