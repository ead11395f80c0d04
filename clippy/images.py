"""Image bytes to pixels at the least cost that gives the right ones; refuses what cannot be an image by its header.

JPEG goes through libjpeg-turbo (simplejpeg), which halves a picture once or more while decoding where that leaves
enough detail; everything else, and any JPEG that is out of the ordinary, through Pillow. Resizing is torch's
antialiased bicubic on bytes, which equals Pillow's to a rounding and takes a fraction of its time.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import simplejpeg
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torch.nn.functional import interpolate

MAX_PIXELS = 100_000_000
"""A header that promises more pixels than this is refused before anything is decompressed."""

_DETAIL = 1.7
"""A JPEG is scaled while decoding only if it stays so many times larger than the target: see the tests' bounds."""

Box = tuple[int, int, int, int]
"""Left, top, width and height of a part of a picture, in its pixels."""


class ImageError(ValueError):
    """Bytes that give no usable picture; ``cause`` is one of NOT_AN_IMAGE, TRUNCATED, TOO_LARGE."""

    def __init__(self, cause: str, message: str) -> None:
        self.cause = cause
        super().__init__(message)


NOT_AN_IMAGE = "not_an_image"
TRUNCATED = "truncated_image"
TOO_LARGE = "too_large_image"


@dataclass(frozen=True)
class Header:
    """What a picture says of itself before anything is decompressed; width and height as it is to be shown."""

    width: int
    height: int
    format: str
    """Pillow's name: JPEG, PNG, WEBP, ..."""


def read_header(data: bytes, max_pixels: int = MAX_PIXELS) -> Header:
    """Size and format from the header alone. Raises ImageError with its cause."""
    picture = _open(data, max_pixels)
    # Not picture.getexif(): of a PNG that has none, it decompresses the whole picture.
    turned = _orientation(picture.info.get("exif", b"")) >= 5
    width, height = picture.size
    return Header(*((height, width) if turned else (width, height)), format=picture.format or "")


def verify_image(data: bytes, max_pixels: int = MAX_PIXELS) -> Header:
    """The header of a picture that can be decompressed to its end. Raises ImageError with its cause."""
    header = read_header(data, max_pixels)
    _decode(data, lambda width, height: 8, max_pixels)
    return header


def decode_image(
    data: bytes, size: int, choose_box: Callable[[int, int], Box] | None = None, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Decode and bring to ``size``: short side resized and centre cropped as the paper prepares its images.

    ``choose_box`` gives, from width and height, a part to be resized to the square instead, as
    ``clippy.crops.RandomResizedCrop`` does. Returns uint8 (size, size, 3), RGB. The orientation stored in the file is
    applied; grey, palette, CMYK and 16-bit pictures are converted; transparency is laid over white. Equal to
    torchvision's ``Resize`` and ``CenterCrop`` on the whole Pillow image to within 2 of 255 on average. Raises
    ImageError with its cause.
    """

    def divisor(width: int, height: int) -> float:
        side = min(choose_box(width, height)[2:]) if choose_box else min(width, height)
        return side / (_DETAIL * size)

    picture, width, height, factor = _decode(data, divisor, max_pixels)
    if choose_box is None:
        return _resize_and_crop(picture, width / factor, height / factor, size)
    left, top, part_width, part_height = choose_box(width, height)
    left, top, right, bottom = (round(edge / factor) for edge in (left, top, left + part_width, top + part_height))
    part = picture[top:bottom, left:right]
    return _resize(part, part.shape[1], part.shape[0], size, size)


def decode_rgb(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode whole, orientation applied: uint8 (height, width, 3), RGB. Raises ImageError with its cause."""
    return _decode(data, lambda width, height: 1, max_pixels)[0]


def resize_short_side(picture: np.ndarray, size: int) -> np.ndarray:
    """The whole uint8 (H, W, 3) picture with its short side brought to ``size``, antialiased bicubic."""
    height, width = picture.shape[:2]
    short = min(height, width)
    return _resize(picture, width, height, max(1, round(width * size / short)), max(1, round(height * size / short)))


def resize(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """The whole uint8 (H, W, 3) picture brought to ``height`` x ``width``, antialiased bicubic."""
    return _resize(picture, picture.shape[1], picture.shape[0], width, height)


def resize_and_crop(picture: np.ndarray, size: int) -> np.ndarray:
    """``decode_image`` of a picture that is decoded: uint8 (H, W, 3) to (size, size, 3)."""
    return _resize_and_crop(picture, picture.shape[1], picture.shape[0], size)


def to_rgb(picture: Image.Image) -> np.ndarray:
    """Any picture of Pillow's as uint8 (height, width, 3), orientation applied. Raises what Pillow does."""
    picture.load()  # first: a TIFF is turned by Pillow as it is loaded
    return np.ascontiguousarray(_turned(np.asarray(_to_rgb(picture)), _stored_orientation(picture)))


def _decode(data: bytes, divisor: Callable[[int, int], float], max_pixels: int) -> tuple[np.ndarray, int, int, int]:
    """Pixels, the width and height of the whole picture, and the factor 1, 2, 4 or 8 that they were divided by.

    ``divisor`` says, from width and height, by how much at most.
    """
    if data[:3] == b"\xff\xd8\xff":
        decoded = _decode_jpeg(data, divisor, max_pixels)
        if decoded is not None:
            return decoded
    picture = _open(data, max_pixels)
    try:
        pixels = to_rgb(picture)
    except MemoryError:
        raise
    except Exception as error:  # each of Pillow's decoders raises something else for broken data
        raise ImageError(TRUNCATED, f"the picture breaks off: {error}") from None
    return pixels, pixels.shape[1], pixels.shape[0], 1


def _decode_jpeg(
    data: bytes, divisor: Callable[[int, int], float], max_pixels: int
) -> tuple[np.ndarray, int, int, int] | None:
    """As ``_decode``, or None for a JPEG that this decoder cannot or, at the first irregularity, will not read."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if height * width > max_pixels or colours in ("CMYK", "YCCK"):
            return None  # Pillow's path refuses the one and converts the other
        orientation = _orientation(_jpeg_exif(data))
        shown = (height, width) if orientation >= 5 else (width, height)
        factor = _whole_divisor(divisor(*shown))
        pixels = simplejpeg.decode_jpeg(
            data, "RGB", min_height=-(-height // factor), min_width=-(-width // factor), min_factor=factor
        )
    except ValueError:  # also what lets Pillow judge: some writers leave stray bytes that harm nothing
        return None
    if pixels.shape[0] == height:
        factor = 1
    return _turned(pixels, orientation), *shown, factor


def jpeg_divisor(short_side: float, size: int) -> int:
    """How many times smaller than it is a JPEG is decoded for ``size``, in width and in height."""
    return _whole_divisor(short_side / (_DETAIL * size))


def _whole_divisor(limit: float) -> int:
    """The largest that the decoder knows and that leaves enough detail."""
    return next(divisor for divisor in (8, 4, 2, 1) if divisor <= max(limit, 1))


def _jpeg_exif(data: bytes) -> bytes:
    """The Exif block of a JPEG, found by going from segment to segment; empty where there is none."""
    start = 2
    while data[start : start + 1] == b"\xff" and (marker := data[start + 1 : start + 2]) != b"\xda":  # pixels follow
        if marker == b"\xff":  # a byte of padding
            start += 1
            continue
        stop = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        if marker == b"\xe1" and data.startswith(b"Exif\x00\x00", start + 4):
            return data[start + 4 : stop]
        start = max(stop, start + 4)
    return b""


def _orientation(block: bytes) -> int:
    """The orientation that an Exif block stores, 1 to 8; 1 where it stores none."""
    if not block:
        return 1

    def load() -> Image.Exif:
        exif = Image.Exif()
        exif.load(block)
        return exif

    return _orientation_in(load)


def _stored_orientation(picture: Image.Image) -> int:
    """As ``_orientation``, from wherever the format keeps it."""
    return _orientation_in(picture.getexif)


def _orientation_in(load: Callable[[], Image.Exif]) -> int:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = load().get(ExifTags.Base.Orientation, 1)
    except Exception:  # whatever Pillow's parser meets: a broken Exif block is no broken picture
        return 1
    return found if found in range(1, 9) else 1


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """The stored picture as it is to be shown."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def _resize_and_crop(picture: np.ndarray, width: float, height: float, size: int) -> np.ndarray:
    """torchvision's Resize(size) and CenterCrop(size); ``width`` and ``height`` may end within the last pixel."""
    picture, width, height = _trim(picture, width, height)
    short = min(width, height)
    new_width = size if width == short else int(size * width / height)
    new_height = size if height == short else int(size * height / width)
    left, top = round((new_width - size) / 2), round((new_height - size) / 2)
    if picture.shape[:2] != (new_height, new_width):
        picture = _resize(picture, width, height, new_width, new_height)
    return picture[top : top + size, left : left + size]


def _trim(picture: np.ndarray, width: float, height: float) -> tuple[np.ndarray, float, float]:
    """Cut the ends off a panorama, which the centre crop never shows, so that it costs no more than another picture."""
    margin_x, margin_y = max(0, int(width - 3 * height) // 2), max(0, int(height - 3 * width) // 2)
    rows, columns = picture.shape[:2]
    picture = picture[margin_y : rows - margin_y, margin_x : columns - margin_x]
    return picture, width - 2 * margin_x, height - 2 * margin_y


def _resize(picture: np.ndarray, width: float, height: float, new_width: int, new_height: int) -> np.ndarray:
    """Antialiased bicubic. A picture halved by its decoder may be up to a pixel larger than what it shows."""
    if not picture.flags.writeable or min(picture.strides) < 0:
        picture = picture.copy()
    pixels = torch.from_numpy(picture)[None].permute(0, 3, 1, 2)  # channels last to torch, which then packs nothing
    if (picture.shape[1], picture.shape[0]) == (width, height):
        resized = interpolate(pixels, size=(new_height, new_width), mode="bicubic", antialias=True)
    else:  # the grid must follow what the picture shows, not the pixels it takes
        resized = interpolate(
            pixels, scale_factor=(new_height / height, new_width / width), mode="bicubic", antialias=True
        )[:, :, :new_height, :new_width]
    return resized[0].permute(1, 2, 0).numpy()


def _open(data: bytes, max_pixels: int) -> Image.Image:
    """Read the header alone, and refuse a picture that would not fit."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data))
    except Image.DecompressionBombError:
        raise ImageError(TOO_LARGE, f"more than {max_pixels} pixels") from None
    except UnidentifiedImageError:
        raise ImageError(NOT_AN_IMAGE, "the bytes are no image that can be read here") from None
    except MemoryError:
        raise
    except Exception as error:  # each of Pillow's readers raises something else for broken data
        raise ImageError(TRUNCATED, f"the header breaks off: {error}") from None
    if picture.width * picture.height > max_pixels:
        raise ImageError(TOO_LARGE, f"{picture.width} x {picture.height} is more than {max_pixels} pixels")
    return picture


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I;16") or picture.mode == "I":
        # Pillow's own conversion clips 16 bits at 255; keep the upper eight.
        return Image.fromarray((np.asarray(picture, dtype=np.uint32) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        layers = picture.convert("RGBA")
        ground = Image.new("RGBA", layers.size, (255, 255, 255, 255))
        return Image.alpha_composite(ground, layers).convert("RGB")
    return picture.convert("RGB")
