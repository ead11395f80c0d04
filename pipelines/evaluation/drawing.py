"""What a model said of a picture, drawn beside the truth at a size to look at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clippy import images
from clippy.draw import palette, panel

LONGEST_SIDE = 384
LEGEND_ENTRIES = 16
"""Names that a drawing explains, the largest first; the rest are drawn as one."""
_REST = (255, 255, 255)


def draw_ids(
    pixels: NDArray[np.uint8], predicted: NDArray[np.int32], truth: NDArray[np.int32] | None, names: Sequence[str]
) -> Image.Image:
    """Picture, predicted ids and true ids side by side with a legend; negative ids leave the picture as it is."""
    pixels, predicted = _reduced(pixels, predicted)
    shown = [predicted]
    if truth is not None:
        truth = _reduced(pixels, truth)[1]
        shown.append(truth)
    ids, counts = np.unique(np.concatenate(shown, axis=None), return_counts=True)
    largest = [int(ids[i]) for i in np.argsort(-counts, kind="stable") if ids[i] >= 0]
    entry = np.full(max(len(names), 1), LEGEND_ENTRIES)
    kept = sorted(largest[:LEGEND_ENTRIES])
    entry[kept] = range(len(kept))
    colours = np.zeros((LEGEND_ENTRIES + 1, 3), dtype=np.uint8)
    colours[: len(kept)] = palette(len(names))[kept]
    colours[LEGEND_ENTRIES] = _REST
    legend = [names[i] for i in kept] + [""] * (LEGEND_ENTRIES - len(kept)) + ["others"]
    tiles = [np.where(part >= 0, entry[np.maximum(part, 0)], -1) for part in shown]
    return panel(pixels, tiles[0], tiles[1] if truth is not None else None, legend, colours)


def draw_picture(pixels: NDArray[np.uint8]) -> Image.Image:
    """The picture alone, no longer than LONGEST_SIDE."""
    return Image.fromarray(_reduced(pixels, np.zeros(pixels.shape[:2], dtype=np.int32))[0])


def _reduced(pixels: NDArray[np.uint8], ids: NDArray[np.int32]) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Both no larger than LONGEST_SIDE, the ids without mixing."""
    height, width = ids.shape
    scale = min(1.0, LONGEST_SIDE / max(height, width))
    rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
    if pixels.shape[:2] != (rows, columns):
        pixels = images.resize(pixels, rows, columns)
    row_indices = ((np.arange(rows) + 0.5) * height / rows).astype(int)
    column_indices = ((np.arange(columns) + 0.5) * width / columns).astype(int)
    return pixels, ids[row_indices[:, None], column_indices]
