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
    # First and last column and row that there are to fill, and columns and rows of the ends of edges.
    corners = np.ceil(points).clip(0, (width, height)).astype(np.int64)
    left, top = corners.min(axis=0, initial=max(width, height))
    right, bottom = corners.max(axis=0, initial=0)
    mask = np.zeros((height, width), dtype=np.bool_)
    if left >= right or top >= bottom:
        return mask
    crossed = np.zeros((bottom - top + 1, right - left), dtype=np.bool_)
    ends = np.roll(np.arange(len(points)), -1)
    for start, end in enumerate(ends):
        (x0, y0), (x1, y1) = points[start], points[end]
        first, last = sorted((corners[start, 0], corners[end, 0]))
        if first < last:  # else the edge is upright, or passes between centres
            columns = np.arange(first, last)
            rows = np.ceil(y0 + (columns - x0) * ((y1 - y0) / (x1 - x0))).clip(top, bottom).astype(np.int64)
            crossed[rows - top, columns - left] ^= True
    # Going down a column, each edge that is crossed leads in or out.
    mask[top:bottom, left:right] = np.logical_xor.accumulate(crossed, axis=0)[:-1]
    return mask
