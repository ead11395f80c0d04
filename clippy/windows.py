"""Sliding windows: class scores of pictures larger than a model was trained on, from overlapping parts of its size."""

from __future__ import annotations

import torch
from torch import Tensor

from clippy.inference import Encoder, class_scores


def windowed_scores(
    model: Encoder, images: Tensor, class_embeddings: Tensor, window: int = 448, stride: int = 224
) -> Tensor:
    """Class scores of each pixel, averaged over all windows that hold it.

    images: uint8 (B, 3, H, W), neither side below ``window``; class_embeddings: (C, D). Windows at the right and lower
    edge are moved inwards so that all are of one size. Returns (B, C, H, W) float32. Raises ValueError for smaller
    images or a stride that would leave gaps. Source: mmseg's slide mode, as GroupViT and TCL evaluate (448 by 224).
    """
    height, width = images.shape[-2:]
    if min(height, width) < window:
        raise ValueError(f"images of {height} x {width} are smaller than the window of {window}; enlarge them first")
    if not 1 <= stride <= window:
        raise ValueError(f"stride must be between 1 and the window of {window} (got {stride})")
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


def _starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin: every ``stride``, the last one at the end."""
    return sorted({*range(0, length - window, stride), length - window})
