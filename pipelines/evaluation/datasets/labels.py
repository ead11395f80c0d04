"""Bytes of pictures and of label PNGs to arrays: numbers as they were stored, then numbers of classes."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from clippy.vocabulary import class_list
from pipelines.columns import DataError
from pipelines.evaluation.dataset import VOID

_UNKNOWN = VOID - 1
"""In a map, a stored number that stands for nothing."""


@dataclass(frozen=True, eq=False)
class IdMap:
    """What the numbers stored in a mask stand for: ``table[number]`` is a class, VOID or nothing."""

    table: NDArray[np.int32]
    rule: str
    """The numbers that there may be, in words."""

    def __call__(self, stored: NDArray[np.integer], name: str) -> NDArray[np.int32]:
        """Classes (H, W) of stored numbers (H, W). Raises DataError naming the file and a number of no meaning."""
        if stored.dtype == np.uint8:  # the table has all 256 of them
            mapped = self.table[stored]
            if not mapped.size or mapped.min() > _UNKNOWN:
                return mapped
            wrong = stored[mapped == _UNKNOWN]
        else:
            inside = (stored >= 0) & (stored < len(self.table))
            mapped = self.table[np.where(inside, stored, 0)]
            known = inside & (mapped > _UNKNOWN)
            if known.all():
                return mapped
            wrong = stored[~known]
        raise DataError(f"{name}: has the value {wrong[0]}; its values are {self.rule}")


def id_map(classes: Mapping[int, int], rule: str) -> IdMap:
    """The map of stored numbers to classes or VOID."""
    table = np.full(max(256, max(classes) + 1), _UNKNOWN, dtype=np.int32)
    table[list(classes)] = list(classes.values())
    return IdMap(table, rule)


def class_ids(name: str) -> dict[int, int]:
    """Classes by what the benchmark's files call them, from the class list of that name."""
    classes = class_list(name)
    return {stored: i for i, stored in enumerate(classes.ids or range(len(classes)))}


def own_ids(num_classes: int, void: int | None = 255) -> IdMap:
    """The map of masks that store the classes' own numbers, and ``void`` for what is not counted."""
    numbers = {i: i for i in range(num_classes)}
    if void is None:
        return id_map(numbers, f"0 to {num_classes - 1}")
    return id_map(numbers | {void: VOID}, f"0 to {num_classes - 1}, and {void} for void")


def decode_picture(data: bytes, name: str) -> NDArray[np.uint8]:
    """A picture as it is to be shown, uint8 (H, W, 3). Raises DataError naming it."""
    from clippy.images import ImageError, decode_rgb  # brings torch, which the catalogue's names do without

    try:
        pixels = decode_rgb(data)
    except ImageError as error:
        raise DataError(f"{name}: {error}") from None
    return np.require(pixels, requirements=["C", "W"])  # torch takes no reversed and no read-only arrays


def decode_numbers(data: bytes, name: str, pixels: NDArray[np.uint8], picture: str) -> NDArray[np.integer]:
    """The numbers in a label PNG, (H, W): palette indices, or grey values of 1, 8 or 16 bits, as they were stored.

    Raises DataError for another kind of picture and for one that has not the size of ``pixels``, its ``picture``.
    """
    image = _open(data, name, pixels, picture)
    if image.mode not in ("P", "L", "1") and not image.mode.startswith("I"):
        raise DataError(f"{name}: is a PNG of mode {image.mode}; a mask holds class numbers, as grey or palette PNG")
    if data[25] == 0 and data[24] in (2, 4):  # colour type and bits in the PNG's header
        # Readers stretch such values to 255, so that 1 of 15 becomes 17; writers of labels do not expect it.
        raise DataError(f"{name}: is a grey PNG of {data[24]} bits, whose values are ambiguous; store it with 8 bits")
    numbers = np.asarray(_loaded(image, name))
    return numbers.astype(np.uint8) if numbers.dtype == np.bool_ else numbers


def decode_rgb_numbers(data: bytes, name: str, pixels: NDArray[np.uint8], picture: str) -> NDArray[np.int32]:
    """Numbers R + 256 G + 65536 B of an RGB PNG, int32 (H, W), as COCO stores panoptic segments. Raises DataError."""
    image = _open(data, name, pixels, picture)
    if image.mode != "RGB":
        raise DataError(f"{name}: is a PNG of mode {image.mode}; panoptic segments are stored as RGB")
    red, green, blue = np.moveaxis(np.asarray(_loaded(image, name)).astype(np.int32), -1, 0)
    return red + 256 * green + 65536 * blue


def check_size(width: int, height: int, name: str, pixels: NDArray[np.uint8], picture: str) -> None:
    """Raise DataError, naming both, for annotations that were not made for the picture as it is shown."""
    shown_height, shown_width = pixels.shape[:2]
    if (width, height) == (shown_width, shown_height):
        return
    turned = (height, width) == (shown_width, shown_height)
    hint = "; pictures are shown as their EXIF orientation says, and masks must be drawn so" if turned else ""
    raise DataError(f"{name}: is {width} x {height}, while {picture} is {shown_width} x {shown_height}{hint}")


def _open(data: bytes, name: str, pixels: NDArray[np.uint8], picture: str) -> Image.Image:
    """The PNG with only its header read; no more pixels are ever decompressed than the picture has."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        raise DataError(f"{name}: is no PNG") from None
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(f"{name}: cannot be read: {error}") from None
    if image.format != "PNG":
        raise DataError(f"{name}: is {image.format}, not PNG; numbers of classes need a format that keeps them")
    check_size(image.width, image.height, name, pixels, picture)
    return image


def _loaded(image: Image.Image, name: str) -> Image.Image:
    try:
        image.load()
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # what Pillow raises for broken data
        raise DataError(f"{name}: the PNG breaks off: {error}") from None
    return image
