"""The best classes of each pixel, without holding the scores of all classes at all pixels where these are too many.

Equal to `clippy.inference.segment` up to rounding, in bounded memory. Between four patch centres a score is bilinear,
there and in every rectangle inside, so a class that is nowhere at the corners of a rectangle as good as some other one
is at all of them cannot win in it, nor come second if there are two such others. Large pictures are halved until what
is left of the classes fits, and most of many classes are never up-sampled at all.

Shapes in names: D embedding width, C classes, K candidates among them, R rows and S columns of a block of pixels, H and
W in pixels, h and w in patches; I and J knots: a block's own edges, and the patch centres inside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from clippy import inference

_BLOCK_SCORES = 2**20
"""Scores up-sampled in one piece where MAX_SCORES allows more: those of more leave the cache."""


@torch.inference_mode()
def label_pixels(patches_hwD: Tensor, classes_CD: Tensor, size: tuple[int, int]) -> Tensor:
    """The class of the highest score of each pixel: products of patches and classes, up-sampled bilinearly.

    patches_hwD, classes_CD: float32 of unit length. size: (H, W). Returns (H, W) int32 on the device of the patches;
    of equal scores the lower class wins. Holds at most `clippy.inference.MAX_SCORES` scores at once, or four of each
    class where those are more.
    """
    classes_CD = classes_CD.to(patches_hwD.device)
    if len(classes_CD) * size[0] * size[1] <= min(inference.MAX_SCORES, _BLOCK_SCORES):
        return _best(upsample(_products(patches_hwD, classes_CD), size))[1].int()
    labels_HW = torch.empty(size, dtype=torch.int32, device=patches_hwD.device)
    for rows, columns, ids_K, scores_KRS in _blocks(patches_hwD, classes_CD, size, ranks=1):
        labels_HW[rows, columns] = ids_K[_best(scores_KRS)[1]]
    return labels_HW


@torch.inference_mode()
def two_best(patches_hwD: Tensor, classes_CD: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The classes of the two highest scores of each pixel, (2, H, W) int32, and by how much the first leads, (H, W).

    Arguments, memory and equal scores as `label_pixels`, of two classes or more.
    """
    labels_2HW = torch.empty((2, *size), dtype=torch.int32, device=patches_hwD.device)
    lead_HW = torch.empty(size, device=patches_hwD.device)
    for rows, columns, ids_K, scores_KRS in _blocks(patches_hwD, classes_CD.to(patches_hwD.device), size, ranks=2):
        highest_RS, first_RS = _best(scores_KRS)
        second_highest_RS, second_RS = _best(scores_KRS.scatter_(0, first_RS[None], -torch.inf))
        labels_2HW[:, rows, columns] = ids_K[torch.stack([first_RS, second_RS])]
        lead_HW[rows, columns] = highest_RS - second_highest_RS
    return labels_2HW, lead_HW


@torch.inference_mode()
def best_and_total(
    patches_hwD: Tensor, classes_CD: Tensor, size: tuple[int, int], scale: Tensor
) -> tuple[Tensor, Tensor]:
    """The highest scaled score of each pixel, and the logarithm of the sum of all their exponentials: each (H, W).

    scale: the inverse temperature. Other arguments as `label_pixels`; holds as many scores at once, or one class's.
    """
    best_HW, total_HW = torch.full((2, *size), -torch.inf, device=patches_hwD.device)
    for part_CD in classes_CD.to(patches_hwD.device).split(max(1, inference.MAX_SCORES // (size[0] * size[1]))):
        scores_CHW = upsample(scale * _products(patches_hwD, part_CD), size)
        best_HW = torch.maximum(best_HW, scores_CHW.amax(dim=0))
        total_HW = torch.logaddexp(total_HW, scores_CHW.logsumexp(dim=0))
    return best_HW, total_HW


@torch.inference_mode()
def best_probability(
    patches_hwD: Tensor, classes_CD: Tensor, size: tuple[int, int], scale: Tensor, among_CD: Tensor | None = None
) -> Tensor:
    """How probable the class of `label_pixels` is: (H, W) float32, the softmax over classes of scaled pixel scores.

    among_CD: all that the softmax is over, where the classes are a part of them. Other arguments and memory as
    `best_and_total`.
    """
    best_HW, total_HW = best_and_total(patches_hwD, classes_CD, size, scale)
    if among_CD is not None:
        total_HW = best_and_total(patches_hwD, among_CD, size, scale)[1]
    return (best_HW - total_HW).exp()


def upsample(scores_Chw: Tensor, size: tuple[int, int]) -> Tensor:
    """(C, H, W): bilinear, as all scores are."""
    return F.interpolate(scores_Chw[None], size=size, mode="bilinear", align_corners=False)[0]


@dataclass(frozen=True)
class _Side:
    """Consecutive pixels of one side of a picture, and how they hang on the patches there."""

    start: int
    """The first pixel."""
    weights: Tensor
    """(pixels, patches): of linear interpolation."""
    before: list[int]
    """By pixel, the last of these patches whose centre is not behind it."""

    @classmethod
    def whole(cls, size: int, patches: int, device: torch.device) -> Self:
        """All pixels of the side."""
        weights = F.interpolate(torch.eye(patches)[None], size, mode="linear", align_corners=False)[0].T
        position = (torch.arange(size, dtype=torch.float64) + 0.5) * patches / size - 0.5
        return cls(0, weights.contiguous().to(device), position.clamp(0, patches - 1).long().tolist())

    def __len__(self) -> int:
        return len(self.before)

    @property
    def pixels(self) -> slice:
        """Of the whole side."""
        return slice(self.start, self.start + len(self))

    @property
    def num_knots(self) -> int:
        """The pixels at both ends and the patch centres between."""
        return self.before[-1] - self.before[0] + 2

    def knots(self) -> Tensor:
        """(I, patches): weights, those of the ends first and last."""
        centres = torch.eye(self.weights.shape[1], device=self.weights.device)[self.before[0] + 1 : self.before[-1] + 1]
        return torch.cat([self.weights[:1], centres, self.weights[-1:]])

    def halves(self) -> list[tuple[Self, slice]]:
        """Of two pixels or more; each with the patches that it hangs on."""
        middle, found = len(self) // 2, []
        for pixels in (slice(0, middle), slice(middle, len(self))):
            before = self.before[pixels]
            patches = slice(before[0], before[-1] + 2)
            half = replace(
                self,
                start=self.start + pixels.start,
                weights=self.weights[pixels, patches],
                before=[patch - before[0] for patch in before],
            )
            found.append((half, patches))
        return found


def _blocks(
    patches_hwD: Tensor, classes_CD: Tensor, size: tuple[int, int], ranks: int
) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
    """The picture in blocks: rows, columns, the classes that may be among the best there, and their scores (K, R, S).

    ``ranks`` is how many of the best are wanted.
    """
    down, along = (_Side.whole(size[i], patches_hwD.shape[i], patches_hwD.device) for i in range(2))
    limit = min(inference.MAX_SCORES, _BLOCK_SCORES)
    all_C = torch.arange(len(classes_CD), device=classes_CD.device)

    def of_patches(down: _Side, along: _Side, patches_hwD: Tensor) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
        if len(down) == len(along) == 1 or down.num_knots * along.num_knots * len(classes_CD) <= limit:
            yield from of_scores(down, along, all_C, _products(patches_hwD, classes_CD))
        else:
            for half_down, half_along, patches in _halves(down, along):
                yield from of_patches(half_down, half_along, patches_hwD[patches])

    def of_scores(
        down: _Side, along: _Side, ids_K: Tensor, scores_Khw: Tensor
    ) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
        hopeful_K = _hopeful(_interpolate(down.knots(), along.knots(), scores_Khw), ranks)
        ids_K, scores_Khw = ids_K[hopeful_K], scores_Khw[hopeful_K]
        held = max(len(down), scores_Khw.shape[1]) * len(along) * len(ids_K)
        if len(down) == len(along) == 1 or held <= limit:
            yield down.pixels, along.pixels, ids_K, _interpolate(down.weights, along.weights, scores_Khw)
        else:
            for half_down, half_along, (rows, columns) in _halves(down, along):
                yield from of_scores(half_down, half_along, ids_K, scores_Khw[:, rows, columns])

    yield from of_patches(down, along, patches_hwD)


def _halves(down: _Side, along: _Side) -> Iterator[tuple[_Side, _Side, tuple[slice, slice]]]:
    """A block cut across its longer side, each part with the patches that it hangs on."""
    whole = slice(None)
    if len(down) > len(along):
        yield from ((half, along, (patches, whole)) for half, patches in down.halves())
    else:
        yield from ((down, half, (whole, patches)) for half, patches in along.halves())


def _products(patches_hwD: Tensor, classes_CD: Tensor) -> Tensor:
    """(C, h, w) scores."""
    return (classes_CD @ patches_hwD.flatten(0, 1).T).unflatten(1, patches_hwD.shape[:2])


def _interpolate(down_Rh: Tensor, along_Sw: Tensor, values_Khw: Tensor) -> Tensor:
    """(K, R, S), by products of matrices: einsum takes eight times as long, and F.interpolate six times."""
    return down_Rh @ (values_Khw @ along_Sw.T)


def _best(scores_KRS: Tensor) -> tuple[Tensor, Tensor]:
    """The highest score of each place and the lowest number that has it, (R, S) float32 and int64; the last of NaNs.

    As ``max`` over the first dimension, but that and ``argmax`` take three times as long and more on a CPU.
    """
    highest_RS, last = scores_KRS.amax(dim=0), len(scores_KRS) - 1
    has_it_KRS = torch.eq(scores_KRS, highest_RS, out=torch.empty_like(scores_KRS))  # as bool it takes five times
    after_K11 = torch.arange(last, -1, -1, dtype=scores_KRS.dtype, device=scores_KRS.device)[:, None, None]
    return highest_RS, last - has_it_KRS.mul_(after_K11).amax(dim=0).long()


def _hopeful(scores_KIJ: Tensor, ranks: int) -> Tensor:
    """(K,) bool: whether a class may be among the best so many somewhere in the cells between these knots."""

    def of_cells(reduce: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        above_and_below = reduce(scores_KIJ[:, :-1], scores_KIJ[:, 1:])
        return reduce(above_and_below[..., :-1], above_and_below[..., 1:])

    highest, lowest = of_cells(torch.maximum), of_cells(torch.minimum)
    sure_IJ = lowest.topk(ranks, dim=0).values[-1]  # what so many classes have everywhere in the cell
    return ~(highest < sure_IJ).flatten(1).all(dim=1)  # that way round, NaNs are kept
