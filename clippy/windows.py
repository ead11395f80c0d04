"""Sliding windows: pictures larger than a model was trained on, read out in overlapping parts of its size."""

from __future__ import annotations

import torch
from torch import Tensor

from clippy.inference import Encoder, class_scores, embed_patches


def windowed_scores(
    model: Encoder, images: Tensor, class_embeddings: Tensor, window: int = 448, stride: int = 224
) -> Tensor:
    """Class scores of each pixel, averaged over all windows that hold it.

    images: uint8 (B, 3, H, W), neither side below ``window``; class_embeddings: (C, D). Windows at the right and lower
    edge are moved inwards so that all are of one size. Returns (B, C, H, W) float32. Raises ValueError for smaller
    images or a stride that would leave gaps. Source: mmseg's slide mode, as GroupViT and TCL evaluate (448 by 224).
    """
    height, width = images.shape[-2:]
    _require_cover(height, width, window, stride)
    total, count = None, torch.zeros(height, width, device=images.device)
    for top in _starts(height, window, stride):
        for left in _starts(width, window, stride):
            part = images[..., top : top + window, left : left + window]
            scores = class_scores(model, part, class_embeddings, (window, window))
            if total is None:
                total = scores.new_zeros(*scores.shape[:2], height, width)
            total[..., top : top + window, left : left + window] += scores
            count[top : top + window, left : left + window] += 1
    assert total is not None
    return total / count.to(total.device)


def windowed_patches(
    model: Encoder, images: Tensor, window: int, stride: int, patch_size: int
) -> tuple[Tensor, tuple[int, int]]:
    """Each patch as the mean of its unit vectors in all windows that hold it: (B, N, D) float32, and (h, w).

    Its product with a class is then the mean of the windows' scores. images: uint8 (B, 3, H, W); sides, window and
    stride are whole patches of ``patch_size`` pixels. Otherwise as ``windowed_scores``. Raises ValueError also where
    patches would not meet.
    """
    height, width = images.shape[-2:]
    if any(length % patch_size for length in (height, width, window, stride)):
        raise ValueError(f"images, window and stride must be whole patches of {patch_size} pixels, so that they meet")
    _require_cover(height, width, window, stride)
    rows, columns, side = height // patch_size, width // patch_size, window // patch_size
    total, count = None, torch.zeros(rows, columns, 1, device=images.device)
    for top in _starts(height, window, stride):
        for left in _starts(width, window, stride):
            patches, grid = embed_patches(model, images[..., top : top + window, left : left + window])
            if total is None:
                total = patches.new_zeros(len(patches), rows, columns, patches.shape[-1])
            row, column = top // patch_size, left // patch_size
            total[:, row : row + side, column : column + side] += patches.unflatten(1, grid)
            count[row : row + side, column : column + side] += 1
    assert total is not None
    return (total / count).flatten(1, 2), (rows, columns)


def _require_cover(height: int, width: int, window: int, stride: int) -> None:
    if min(height, width) < window:
        raise ValueError(f"images of {height} x {width} are smaller than the window of {window}; enlarge them first")
    if not 1 <= stride <= window:
        raise ValueError(f"stride must be between 1 and the window of {window} (got {stride})")


def _starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin: every ``stride``, the last one at the end."""
    return sorted({*range(0, length - window, stride), length - window})
