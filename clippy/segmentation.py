"""What was found in a picture: an id for each pixel, as a mask and as a drawing with a legend.

Shapes: H and W in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clippy import images
from clippy.draw import Pixels, palette, panel

BACKGROUND = "background"
PALETTE_IDS = 256
"""Ids of a mask with a palette; with more labels it is a 16-bit grey picture."""
DRAWN_PIXELS, DRAWN_PROPORTION = 768, 0.5
"""Longest side of a drawing's tiles, and their width over height at least, which a legend needs."""
LEGEND_ENTRIES = 32
"""Names that a drawing explains, the largest first; the rest are drawn as one."""
_GROUND_COLOUR, _REST_COLOUR = (0, 0, 0), (255, 255, 255)


@dataclass(frozen=True)
class Share:
    """How much of a picture an id covers, from 0 to 1."""

    id: int
    name: str
    share: float


@dataclass(frozen=True)
class Segmentation:
    """A picture (H, W, 3) uint8, the id of each of its pixels (H, W) int32, and the name of each id.

    Id 0 is the background, the ids of labels or groups are 1 and up, in every picture and with or without background.
    """

    pixels: Pixels
    ids: NDArray[np.int32]
    names: tuple[str, ...]

    def shares(self) -> list[Share]:
        """What is there, the largest first."""
        parts = np.array_split(self.ids, max(1, self.ids.size >> 22))  # bincount would make int64 of the whole
        counts = np.sum([np.bincount(part.ravel(), minlength=len(self.names)) for part in parts], axis=0)
        order = np.argsort(-counts, kind="stable")
        return [Share(int(i), self.names[i], float(counts[i] / self.ids.size)) for i in order if counts[i]]

    def mask(self) -> Image.Image:
        """The ids at the picture's own size, with a palette: black is 0; 16-bit grey with more than 255 labels."""
        if len(self.names) > PALETTE_IDS:
            return Image.fromarray(self.ids.astype(np.uint16))
        mask = Image.fromarray(self.ids.astype(np.uint8))
        mask.putpalette(_colours(len(self.names)).tobytes())
        return mask

    def drawing(self) -> Image.Image:
        """The picture beside the same with each pixel tinted by its label, and a legend; made smaller where large.

        Colours are those of the mask, where that has a palette and up to LEGEND_ENTRIES labels are there.
        """
        shares = self.shares()
        named, others = shares[:LEGEND_ENTRIES], shares[LEGEND_ENTRIES:]
        named = sorted(named, key=lambda share: share.id)
        names = [share.name for share in named]
        if len(self.names) <= PALETTE_IDS:
            colours = _colours(len(self.names))[[share.id for share in named]]
        else:
            colours = _colours(len(named) + 1)[1:]
        if others:
            names.append(f"{len(others)} others")
            colours = np.concatenate([colours, np.array([_REST_COLOUR], dtype=np.uint8)])
        entry = np.full(len(self.names), len(named), dtype=np.int32)
        entry[[share.id for share in named]] = range(len(named))
        pixels, ids = self._reduced()
        return panel(*_widened(pixels, entry[ids]), None, names, colours)

    def _reduced(self) -> tuple[Pixels, NDArray[np.int32]]:
        """Picture and ids at a size to look at."""
        height, width = self.ids.shape
        scale = min(1, DRAWN_PIXELS / max(height, width))
        if scale == 1:
            return self.pixels, self.ids
        rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
        row_indices = (np.arange(rows) + 0.5) * height / rows
        column_indices = (np.arange(columns) + 0.5) * width / columns
        ids = self.ids[row_indices.astype(int)[:, None], column_indices.astype(int)]
        return images.resize(self.pixels, rows, columns), ids


def _colours(num_ids: int) -> Pixels:
    """(num_ids, 3) uint8: black for the background, then the palette."""
    return np.concatenate([np.array([_GROUND_COLOUR], dtype=np.uint8), palette(num_ids - 1)])


def _widened(pixels: Pixels, entries: NDArray[Any]) -> tuple[Pixels, NDArray[Any]]:
    """White margins beside a narrow picture, so that the legend has room."""
    missing = max(0, round(pixels.shape[0] * DRAWN_PROPORTION) - pixels.shape[1])
    columns = (missing // 2, missing - missing // 2)
    padded = np.pad(pixels, ((0, 0), columns, (0, 0)), constant_values=255)
    return padded, np.pad(entries, ((0, 0), columns), constant_values=-1)
