"""The best class of each pixel of a large picture, without ever holding the scores of all classes at all pixels.

Equal to `clippy.inference.segment` up to rounding, in bounded memory. Between two rows of patch centres a pixel's
score is a mean of the four patches around it, so a class that is nowhere in that band as good as another one is at
all four corners cannot win there: most of many classes need no up-sampling at all.

Shapes in names: D embedding width, C classes, K candidates among them, R rows of pixels, H and W in pixels, h and w in
patches.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clippy import inference

_BLOCK_SCORES = 2**22
"""Scores up-sampled in one piece where MAX_SCORES allows more: what stays near the processor is fastest."""
_EXTRA_ROWS = 6
"""Rows of scores that exist beside the block while it is made: two rows of patches, taken twice, and their mean."""


@torch.inference_mode()
def label_pixels(patches_hwD: Tensor, classes_CD: Tensor, size: tuple[int, int]) -> Tensor:
    """The class of the highest score of each pixel: products of patches and classes, up-sampled bilinearly.

    patches_hwD, classes_CD: float32 of unit length. size: (H, W). Returns (H, W) int32 on the device of the patches;
    of equal scores the lower class wins. Holds at most `clippy.inference.MAX_SCORES` scores, unless one class on one
    row of pixels needs more.
    """
    h, w = patches_hwD.shape[:2]
    classes_CD = classes_CD.to(patches_hwD.device)
    above_H, down_H = _taps(size[0], h, patches_hwD.device)
    left_W, along_W = _taps(size[1], w, patches_hwD.device)
    right_W = (left_W + 1).clamp(max=w - 1)
    labels_HW = torch.empty(size, dtype=torch.int32, device=patches_hwD.device)
    row = 0
    aboves, counts = above_H.unique_consecutive(return_counts=True)
    for above, num_rows in zip(aboves.tolist(), counts.tolist(), strict=True):
        band_2wD = patches_hwD[[above, min(above + 1, h - 1)]]
        candidates_K = _candidates(band_2wD, classes_CD)
        classes_per_part, rows_per_block = _block(len(candidates_K), size[1])
        for start in range(row, row + num_rows, rows_per_block):
            rows = slice(start, min(start + rows_per_block, row + num_rows))
            best_RW = torch.full((rows.stop - rows.start, size[1]), -torch.inf, device=patches_hwD.device)
            for part_K in candidates_K.split(classes_per_part):
                corners_K2w = torch.einsum("rwd,kd->krw", band_2wD, classes_CD[part_K])
                lines_K2W = torch.lerp(corners_K2w[..., left_W], corners_K2w[..., right_W], along_W)
                scores_KRW = torch.lerp(lines_K2W[:, :1], lines_K2W[:, 1:], down_H[rows, None])
                found_RW, index_RW = scores_KRW.max(dim=0)
                better_RW = found_RW > best_RW
                best_RW = torch.where(better_RW, found_RW, best_RW)
                labels_HW[rows] = torch.where(better_RW, part_K[index_RW].int(), labels_HW[rows])
        row += num_rows
    return labels_HW


def _taps(size: int, num_patches: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """For each pixel of a side, the patch centre before it, and how far it lies towards the next (0 to 1)."""
    position = (torch.arange(size, dtype=torch.float64) + 0.5) * num_patches / size - 0.5
    position = position.clamp(0, num_patches - 1)  # beyond the outermost centres nothing changes
    before = position.long()
    return before.to(device), (position - before).float().to(device)


def _candidates(band_2wD: Tensor, classes_CD: Tensor) -> Tensor:
    """Ids of the classes that may win somewhere in the band, in order."""
    w = band_2wD.shape[1]
    classes_per_part = max(1, inference.MAX_SCORES // (8 * w))
    floor_w = torch.full((w,), -torch.inf, device=band_2wD.device)
    candidates = []
    for start in range(0, len(classes_CD), classes_per_part):
        corners_K2w = torch.einsum("rwd,kd->krw", band_2wD, classes_CD[start : start + classes_per_part])
        low_Kw, high_Kw = corners_K2w.amin(dim=1), corners_K2w.amax(dim=1)
        low_Kw[:, :-1] = torch.minimum(low_Kw[:, :-1], low_Kw[:, 1:].clone())
        high_Kw[:, :-1] = torch.maximum(high_Kw[:, :-1], high_Kw[:, 1:].clone())
        floor_w = torch.maximum(floor_w, low_Kw.amax(dim=0))  # what some class reaches in every pixel of the cell
        candidates.append(start + (high_Kw >= floor_w).any(dim=1).nonzero()[:, 0])
    return torch.cat(candidates)


def _block(num_candidates: int, width: int) -> tuple[int, int]:
    """How many classes, on how many rows of pixels, are up-sampled at once."""
    row_scores = min(inference.MAX_SCORES, _BLOCK_SCORES) // width
    classes_per_part = min(num_candidates, max(1, row_scores // (_EXTRA_ROWS + 1)))
    return classes_per_part, max(1, row_scores // classes_per_part - _EXTRA_ROWS)
