"""Image bytes to pixels: refuse what cannot be an image before decompressing it, then decode once."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 100_000_000
"""A header that promises more pixels than this is refused before anything is decompressed."""


class ImageError(ValueError):
    """Bytes that give no usable picture; ``cause`` is one of NOT_AN_IMAGE, TRUNCATED, TOO_LARGE."""

    def __init__(self, cause: str, message: str) -> None:
        self.cause = cause
        super().__init__(message)


NOT_AN_IMAGE = "not_an_image"
TRUNCATED = "truncated_image"
TOO_LARGE = "too_large_image"


def decode_image(data: bytes, size: int, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode, resize the short side to ``size`` and crop the centre, as the paper prepares its images.

    Returns uint8 (size, size, 3), RGB. The orientation stored in the file is applied; grey, palette, CMYK and
    16-bit pictures are converted; transparency is laid over white. Bicubic with antialiasing, as torchvision's
    ``Resize`` on PIL images. Raises ImageError with its cause.
    """
    picture = _open(data, max_pixels)
    try:
        if picture.format == "JPEG":
            # libjpeg scales by 1/2, 1/4 or 1/8 while decoding; twice the target leaves the bicubic its detail.
            picture.draft("RGB", (2 * size, 2 * size))
        picture.load()
        return _square(_to_rgb(ImageOps.exif_transpose(picture)), size)
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # what Pillow raises for broken data
        raise ImageError(TRUNCATED, f"the picture breaks off: {error}") from None


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
    except (OSError, SyntaxError, ValueError, EOFError) as error:
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


def _square(picture: Image.Image, size: int) -> np.ndarray:
    """Resize and centre-crop in one pass, by handing the resampler only the part that stays."""
    side = min(picture.size)
    left, top = (picture.width - side) / 2, (picture.height - side) / 2
    if picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    return np.asarray(picture, dtype=np.uint8)
