"""COCO's encodings of an object's pixels: polygons and run lengths. Needs no pycocotools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def decode_segmentation(segmentation: Any, height: int, width: int) -> NDArray[np.bool_]:
    """Pixels (H, W) of a COCO ``segmentation``: polygons, or run lengths as numbers or as text.

    Raises ValueError for anything else.
    """
    if isinstance(segmentation, list):
        mask = np.zeros((height, width), dtype=np.bool_)
        for polygon in segmentation:
            mask |= fill_polygon(polygon, height, width)
        return mask
    counts, size = segmentation["counts"], segmentation["size"]
    if list(size) != [height, width]:
        raise ValueError(f"run lengths of {size}, which is not height and width {[height, width]}")
    return decode_runs(parse_counts(counts) if isinstance(counts, str) else counts, height, width)


def decode_runs(counts: Sequence[int], height: int, width: int) -> NDArray[np.bool_]:
    """Pixels (H, W) from lengths of runs outside and inside in turn, down one column after another."""
    if min(counts, default=0) < 0 or sum(counts) != height * width:
        raise ValueError(f"run lengths that do not add up to {height} x {width} pixels")
    inside = np.arange(len(counts)) % 2 == 1
    return np.repeat(inside, counts).reshape(width, height).T


def parse_counts(text: str) -> list[int]:
    """Run lengths from COCO's compressed text.

    Each character carries five bits from the lowest on, and a sixth that says whether more follow; from the fourth
    number on, each is the difference from the one two before it.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"compressed run lengths with the character {character!r}")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:  # the sign
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("compressed run lengths that break off")
    return counts


def fill_polygon(polygon: Sequence[float], height: int, width: int) -> NDArray[np.bool_]:
    """Pixels (H, W) whose centres lie in a polygon x0, y0, x1, y1, ... by the even-odd rule.

    A centre on an upper or left edge is inside, one on a lower or right edge is not.
    """
    points = np.asarray(polygon, dtype=np.float64).reshape(-1, 2) - 0.5  # so that centres have whole coordinates
    ends = np.roll(points, -1, axis=0)
    crossings = np.zeros((height + 1, width), dtype=np.int32)
    for (x0, y0), (x1, y1) in zip(points, ends, strict=True):
        left, right = np.ceil(np.clip(sorted((x0, x1)), 0, width)).astype(np.int64)
        columns = np.arange(left, right)
        if columns.size:  # else the edge is upright, or passes between centres
            rows = y0 + (columns - x0) * ((y1 - y0) / (x1 - x0))
            crossings[np.ceil(rows.clip(0, height)).astype(np.int64), columns] += 1
    # Going down a column, each edge that is crossed leads in or out.
    return crossings[:-1].cumsum(axis=0) % 2 == 1
