"""The best classes of each pixel, without holding the scores of all classes at all pixels where these are too many.

Equal to `clippy.inference.segment` up to rounding, in bounded memory. Between four patch centres a score is bilinear,
there and in every rectangle inside, so a class that is nowhere at the corners of a rectangle as good as some other one
is at all of them cannot win in it, nor come second if there are two such others. In large pictures rectangles with many
classes left are quartered, and most of many classes are never up-sampled at all.

Shapes in names: D embedding width, C classes, K candidates among them, P pixels of a rectangle, R its rows, S its
columns, H and W in pixels, h and w in patches.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from clippy import inference

_RECTANGLE_SCORES = 2**20
"""Scores up-sampled in one piece where MAX_SCORES allows more: fewer quarter too often, more leave the cache."""


class _Run(NamedTuple):
    """Pixels of one side that lie between the same two patch centres."""

    before: int
    after: int
    start: int
    stop: int


@torch.inference_mode()
def label_pixels(patches_hwD: Tensor, classes_CD: Tensor, size: tuple[int, int]) -> Tensor:
    """The class of the highest score of each pixel: products of patches and classes, up-sampled bilinearly.

    patches_hwD, classes_CD: float32 of unit length. size: (H, W). Returns (H, W) int32 on the device of the patches;
    of equal scores the lower class wins. Holds at most `clippy.inference.MAX_SCORES` scores at once, or four of each
    class where those are more.
    """
    classes_CD = classes_CD.to(patches_hwD.device)
    if len(classes_CD) * size[0] * size[1] <= inference.MAX_SCORES:
        scores_CHW = upsample(torch.einsum("hwd,cd->chw", patches_hwD, classes_CD), size)
        return scores_CHW.max(dim=0).indices.int()  # argmax does the same in seven times the time on a CPU
    labels_HW = torch.empty(size, dtype=torch.int32, device=patches_hwD.device)
    for rows, columns, down_R, along_S, corners_C4 in _rectangles(patches_hwD, classes_CD, size):
        _label_rectangle(labels_HW[rows, columns], down_R, along_S, _all(corners_C4), corners_C4)
    return labels_HW


@torch.inference_mode()
def two_best(patches_hwD: Tensor, classes_CD: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The classes of the two highest scores of each pixel, (2, H, W) int32, and by how much the first leads, (H, W).

    Arguments and memory as `label_pixels`, of two classes or more. Of equal scores either may come first.
    """
    classes_CD = classes_CD.to(patches_hwD.device)
    if len(classes_CD) * size[0] * size[1] <= inference.MAX_SCORES:
        best_2HW, labels_2HW = upsample(torch.einsum("hwd,cd->chw", patches_hwD, classes_CD), size).topk(2, dim=0)
        return labels_2HW.int(), best_2HW[0] - best_2HW[1]
    labels_2HW = torch.empty((2, *size), dtype=torch.int32, device=patches_hwD.device)
    lead_HW = torch.empty(size, device=patches_hwD.device)
    for rows, columns, down_R, along_S, corners_C4 in _rectangles(patches_hwD, classes_CD, size):
        labels_2RS, lead_RS = labels_2HW[:, rows, columns], lead_HW[rows, columns]
        _rank_rectangle(labels_2RS, lead_RS, down_R, along_S, _all(corners_C4), corners_C4)
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
        scores_CHW = upsample(scale * torch.einsum("hwd,cd->chw", patches_hwD, part_CD), size)
        best_HW = torch.maximum(best_HW, scores_CHW.amax(dim=0))
        total_HW = torch.logaddexp(total_HW, scores_CHW.logsumexp(dim=0))
    return best_HW, total_HW


@torch.inference_mode()
def best_probability(patches_hwD: Tensor, classes_CD: Tensor, size: tuple[int, int], scale: Tensor) -> Tensor:
    """How probable the class of `label_pixels` is: (H, W) float32, the softmax over classes of scaled pixel scores.

    Arguments and memory as `best_and_total`.
    """
    best_HW, total_HW = best_and_total(patches_hwD, classes_CD, size, scale)
    return (best_HW - total_HW).exp()


def upsample(scores_Chw: Tensor, size: tuple[int, int]) -> Tensor:
    """(C, H, W): bilinear, as all scores are."""
    return F.interpolate(scores_Chw[None], size=size, mode="bilinear", align_corners=False)[0]


def _all(corners_C4: Tensor) -> Tensor:
    return torch.arange(len(corners_C4), device=corners_C4.device)


def _rectangles(
    patches_hwD: Tensor, classes_CD: Tensor, size: tuple[int, int]
) -> Iterator[tuple[slice, slice, Tensor, Tensor, Tensor]]:
    """Those between patch centres: rows, columns, how far each lies from one centre to the next, scores at corners."""
    down_H, rows = _between_centres(size[0], patches_hwD.shape[0])
    along_W, columns = _between_centres(size[1], patches_hwD.shape[1])
    down_H, along_W = down_H.to(patches_hwD.device), along_W.to(patches_hwD.device)
    for row in rows:
        for column in columns:
            corners_22D = patches_hwD[[row.before, row.after]][:, [column.before, column.after]]
            down, along = slice(row.start, row.stop), slice(column.start, column.stop)
            yield down, along, down_H[down], along_W[along], classes_CD @ corners_22D.flatten(0, 1).T


def _label_rectangle(labels_RS: Tensor, down_R: Tensor, along_S: Tensor, ids_K: Tensor, corners_K4: Tensor) -> None:
    """Fill in the labels of a rectangle between four patch centres, of which the candidates' scores are known."""
    ends_K4 = corners_K4 @ _weights(down_R[[0, -1]], along_S[[0, -1]])
    hopeful_K = ends_K4.amax(dim=1) >= ends_K4.amin(dim=1).amax()  # the best that some class has everywhere
    ids_K, corners_K4 = ids_K[hopeful_K], corners_K4[hopeful_K]
    if len(ids_K) == 1:
        labels_RS[:] = ids_K
    elif len(ids_K) * labels_RS.numel() <= min(inference.MAX_SCORES, _RECTANGLE_SCORES) or labels_RS.numel() == 1:
        scores_PK = _weights(down_R, along_S).T @ corners_K4.T
        labels_RS[:] = ids_K[scores_PK.argmax(dim=1)].view(labels_RS.shape)
    else:
        for rows in _halves(len(down_R)):
            for columns in _halves(len(along_S)):
                _label_rectangle(labels_RS[rows, columns], down_R[rows], along_S[columns], ids_K, corners_K4)


def _rank_rectangle(
    labels_2RS: Tensor, lead_RS: Tensor, down_R: Tensor, along_S: Tensor, ids_K: Tensor, corners_K4: Tensor
) -> None:
    """As `_label_rectangle`, for the two best classes."""
    ends_K4 = corners_K4 @ _weights(down_R[[0, -1]], along_S[[0, -1]])
    hopeful_K = ends_K4.amax(dim=1) >= ends_K4.amin(dim=1).topk(2).values[1]
    ids_K, corners_K4 = ids_K[hopeful_K], corners_K4[hopeful_K]
    if len(ids_K) * lead_RS.numel() <= min(inference.MAX_SCORES, _RECTANGLE_SCORES) or lead_RS.numel() == 1:
        (best_P2, places_P2) = (corners_K4 @ _weights(down_R, along_S)).T.topk(2, dim=1)
        labels_2RS[:] = ids_K[places_P2].T.unflatten(1, lead_RS.shape)
        lead_RS[:] = (best_P2[:, 0] - best_P2[:, 1]).view(lead_RS.shape)
    else:
        for rows in _halves(len(down_R)):
            for columns in _halves(len(along_S)):
                part = labels_2RS[:, rows, columns], lead_RS[rows, columns]
                _rank_rectangle(*part, down_R[rows], along_S[columns], ids_K, corners_K4)


def _weights(down_R: Tensor, along_S: Tensor) -> Tensor:
    """(4, R * S): what the four corners, in reading order, weigh in each pixel."""
    down_2R, along_2S = torch.stack([1 - down_R, down_R]), torch.stack([1 - along_S, along_S])
    return torch.einsum("ir,js->ijrs", down_2R, along_2S).reshape(4, -1)


def _halves(length: int) -> Iterator[slice]:
    if length > 1:
        yield slice(0, length // 2)
    yield slice(length // 2, length)


def _between_centres(size: int, num_patches: int) -> tuple[Tensor, list[_Run]]:
    """For each pixel of a side, how far it lies from the patch centre before to the one after it (0 to 1); the runs."""
    position = (torch.arange(size, dtype=torch.float64) + 0.5) * num_patches / size - 0.5
    position = position.clamp(0, num_patches - 1)  # beyond the outermost centres nothing changes
    before = position.long()
    runs, start = [], 0
    for patch, length in zip(*(part.tolist() for part in before.unique_consecutive(return_counts=True)), strict=True):
        runs.append(_Run(patch, min(patch + 1, num_patches - 1), start, start + length))
        start += length
    return (position - before).float(), runs
