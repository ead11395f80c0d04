"""What an import does to an image: see whether it can be decoded, and make it smaller where that is asked."""

from __future__ import annotations

import numpy as np
import simplejpeg

from clippy.images import decode_rgb, read_header, resize_short_side, verify_image

_MAX_JPEG_SIDE = 65_500
"""More pixels libjpeg does not write side by side."""


def check_image(image: bytes, max_short_side: int | None, quality: int, verify: bool) -> tuple[bytes, int, int]:
    """The bytes to keep, and their width and height as shown. Raises clippy.images.ImageError with its cause.

    An image whose short side is longer than ``max_short_side`` becomes a JPEG of that short side, upright and laid
    over white; every other keeps its bytes, and so does a strip that would be too long for a JPEG even then.
    """
    if max_short_side is not None:
        header = read_header(image)
        short, long = sorted((header.width, header.height))
        if short > max_short_side and round(long * max_short_side / short) <= _MAX_JPEG_SIDE:
            picture = np.ascontiguousarray(resize_short_side(decode_rgb(image), max_short_side))
            return simplejpeg.encode_jpeg(picture, quality, "RGB", "420"), picture.shape[1], picture.shape[0]
    header = verify_image(image) if verify else read_header(image)
    return image, header.width, header.height
