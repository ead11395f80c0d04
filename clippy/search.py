"""Find pictures, or what is in them, by a phrase: of any number of pictures the best are kept.

    search = Search(model, ["a dog on grass"], regions="groups")
    for name in names:
        search.look(name, Path(name))
    print(search.hits()[0])

Shapes in names: P phrases, R regions, D embedding width, h and w in patches.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch import Tensor

from clippy import inference
from clippy.draw import Pixels, sheet, tile
from clippy.load import AnyModel
from clippy.pictures import Picture, read_pixels, show
from clippy.readout import GroupOptions, View
from clippy.regions import Box, box_weights, pool_regions
from clippy.scoring import embed_patches
from clippy.words import check_texts

WINDOW_SIDES = (1.0, 0.5, 0.25)
"""Sides of windows, as shares of a picture's short side; each overlaps the next by half."""
MAX_OVERLAP = 0.2
"""Of two windows of a picture only the better one counts where more than this share of the smaller is in the other."""

MIN_PATCHES = 2
"""A smaller part of a group, such as a corner, is no region, unless a picture has no other."""
SHEET_COLUMNS = 5

Patches = NDArray[np.bool_]
Place = tuple[Box | None, Patches | None]
"""As `Hit` has it."""


@dataclass(frozen=True)
class Hit:
    """A picture or a region of it, and its cosine with the phrase."""

    name: str
    """Of the picture, as it was given."""
    cosine: float
    box: Box | None = None
    """Left, top, right and bottom of the region in pixels of the picture; None for a whole picture."""
    patches_hw: Patches | None = None
    """The patches of a group; None for a window, which is its box."""

    def drawing(self, pixels: Pixels, caption: str) -> Image.Image:
        """The picture, whose ``pixels`` these are, with the region's outline and a caption."""
        size = (pixels.shape[0], pixels.shape[1])
        if self.patches_hw is not None:
            return tile(pixels, caption, inference.enlarge(torch.from_numpy(self.patches_hw), size).numpy())
        if self.box is None:
            return tile(pixels, caption)
        left, top, right, bottom = (round(end) for end in self.box)
        inside = np.zeros(size, dtype=np.bool_)
        inside[top:bottom, left:right] = True
        return tile(pixels, caption, inside)


class Search:
    """Phrases that one picture after the other is compared with; only the best hits of each are held."""

    def __init__(
        self,
        model: AnyModel,
        phrases: Sequence[str],
        regions: Literal["groups", "windows"] | None = None,
        top: int = 10,
        size: int | None = None,
    ) -> None:
        """Without ``regions`` whole pictures are ranked. ``groups`` are patches that belong together and touch, found
        without words; ``windows`` are squares of several sizes on a grid. ``size``: the short side that the model sees.

        Raises ValueError for phrases that say nothing and for options that do not fit.
        """
        check_texts("phrases", phrases)
        if top < 1:
            raise ValueError(f"top: must be at least 1 (got {top})")
        self._view = View(size=size)
        self._view.check_model(model.image_size, model.patch_size, model.takes_one_size)
        self._model, self._regions, self._top = model, regions, top
        self._phrases_PD = inference.embed_classes(model, phrases, ("{}",))
        self._best: list[list[tuple[float, int, int, Hit]]] = [[] for _ in phrases]
        self._pictures = 0

    def look(self, name: str, picture: Picture) -> None:
        """Compare a picture with each phrase. Raises ImageError for no picture."""
        pixels = read_pixels(picture)
        places, embeddings_RD = self._find_places(show(self._model, pixels, self._view), pixels.shape[:2])
        with torch.inference_mode():
            cosine_PR = (self._phrases_PD.to(embeddings_RD.device) @ embeddings_RD.T).cpu().numpy()
        for best, cosine_R in zip(self._best, cosine_PR, strict=True):
            for place in _apart(places, cosine_R, self._top):
                hit = Hit(name, float(cosine_R[place]), *places[place])
                entry = (hit.cosine, -self._pictures, -place, hit)
                if len(best) < self._top:
                    heapq.heappush(best, entry)
                else:
                    heapq.heappushpop(best, entry)
        self._pictures += 1

    def hits(self) -> list[list[Hit]]:
        """The best of each phrase, the best first; of equal cosines the one that was seen first."""
        return [[hit for *_, hit in sorted(best, key=lambda entry: entry[:3], reverse=True)] for best in self._best]

    def _find_places(self, images_13HW: Tensor, size: tuple[int, int]) -> tuple[list[Place], Tensor]:
        """What of a picture is compared, and its embeddings (R, D)."""
        if self._regions is None:
            with inference.evaluation(self._model):
                return [(None, None)], F.normalize(self._model.encode_image(images_13HW).float(), dim=-1)
        patches_hwD = embed_patches(self._model, images_13HW, self._model.patch_size, self._view)[0]
        grid = (patches_hwD.shape[0], patches_hwD.shape[1])
        if self._regions == "windows":
            boxes = list(_windows(size, grid))
            return [(box, None) for box in boxes], pool_regions(patches_hwD, box_weights(boxes, size, grid))
        groups = _groups(patches_hwD)
        weights_Rhw = torch.from_numpy(np.stack(groups)).float()
        return [(_box_of(group_hw, size), group_hw) for group_hw in groups], pool_regions(patches_hwD, weights_Rhw)


def contact_sheet(phrase: str, hits: Sequence[Hit], read: Callable[[str], Picture]) -> Image.Image:
    """The hits of a phrase in reading order, each with its place and cosine; ``read`` gets a picture by its name."""
    tiles = [
        hit.drawing(read_pixels(read(hit.name)), f"{place}. {hit.cosine:.3f} {hit.name.rpartition('/')[2]}")
        for place, hit in enumerate(hits, 1)
    ]
    return sheet(tiles, SHEET_COLUMNS, title=phrase)


def _groups(patches_hwD: Tensor) -> list[Patches]:
    """Masks (h, w) of the connected parts of a picture's groups."""
    grid = (patches_hwD.shape[0], patches_hwD.shape[1])
    components = GroupOptions().groups // 2
    ids_hw = inference.group(patches_hwD.flatten(0, 1)[None], grid, components, centred=True, both_signs=True)[0]
    parts = []
    for group in ids_hw.unique().tolist():
        part_hw, number = ndimage.label((ids_hw == group).cpu().numpy())
        parts += [part_hw == i for i in range(1, number + 1)]
    return [part_hw for part_hw in parts if part_hw.sum() >= MIN_PATCHES] or parts


def _windows(size: tuple[int, int], grid: tuple[int, int]) -> Iterator[Box]:
    """Squares of each side, evenly over the picture to its edges, in no narrower steps than patches."""
    for share in WINDOW_SIDES:
        side = share * min(size)
        tops, lefts = (
            np.linspace(0, length - side, min(round(2 * (length / side - 1)), patches) + 1).tolist()
            for length, patches in zip(size, grid, strict=True)
        )
        yield from ((left, top, left + side, top + side) for top in tops for left in lefts)


def _box_of(group_hw: Patches, size: tuple[int, int]) -> Box:
    """The box around a group in pixels of the picture."""
    rows, columns = np.flatnonzero(group_hw.any(axis=1)), np.flatnonzero(group_hw.any(axis=0))
    down, along = size[0] / group_hw.shape[0], size[1] / group_hw.shape[1]
    ends = (columns[0] * along, rows[0] * down, (columns[-1] + 1) * along, (rows[-1] + 1) * down)
    return float(ends[0]), float(ends[1]), float(ends[2]), float(ends[3])


def _apart(places: Sequence[Place], cosine_R: NDArray[np.float32], number: int) -> list[int]:
    """The best so many, the best first, without windows that show mostly the same; groups have no patch in common."""
    kept: list[int] = []
    for place in np.argsort(-cosine_R, kind="stable").tolist():
        box, group_hw = places[place]
        if box is None or group_hw is not None or not any(_overlap(box, places[k][0]) > MAX_OVERLAP for k in kept):
            kept.append(place)
        if len(kept) == number:
            break
    return kept


def _overlap(one: Box, other: Box | None) -> float:
    """Share of the smaller box that lies in the other."""
    assert other is not None
    left, top, right, bottom = (*map(max, one[:2], other[:2]), *map(min, one[2:], other[2:]))
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return max(0.0, right - left) * max(0.0, bottom - top) / smaller
