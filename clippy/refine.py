"""Pixel-adaptive mask refinement (PAMR, arXiv 2005.08104): scores flow between neighbouring pixels of like colour.

Shapes: B batch, C classes, H W pixels, K neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

DILATIONS = (1, 2, 4, 8, 12, 24)
"""Distances of the neighbours, in pixels: the authors'."""
_SHARPNESS = 0.1
"""Share of the local deviation at which a difference of colour counts as one: the authors'."""


def refine(scores: Tensor, images: Tensor, iterations: int = 10, dilations: Sequence[int] = DILATIONS) -> Tensor:
    """Average each pixel's scores over its neighbours, weighted by how like their colours are, some times over.

    scores: (B, C, H, W); images: uint8 (B, 3, H, W). Returns (B, C, H, W) float32; scores that sum to 1 still do.
    Raises ValueError for sizes that differ.
    """
    if scores.shape[-2:] != images.shape[-2:]:
        raise ValueError(f"scores of {tuple(scores.shape[-2:])} do not cover images of {tuple(images.shape[-2:])}")
    colours = images.float()
    weights_BKHW = _affinity(colours, dilations)
    refined = scores.float()
    for _ in range(iterations):
        total = torch.zeros_like(refined)
        for index, moved in enumerate(_neighbours(refined, dilations)):
            total += weights_BKHW[:, index : index + 1] * moved
        refined = total
    return refined


def _affinity(colours_B3HW: Tensor, dilations: Sequence[int]) -> Tensor:
    """(B, K, H, W): weights of the neighbours, summing to 1."""
    stacked = torch.stack(list(_neighbours(colours_B3HW, dilations)), dim=1)
    deviation = torch.cat([stacked, colours_B3HW[:, None]], dim=1).std(dim=1, keepdim=True)
    distance = (stacked - colours_B3HW[:, None]).abs() / (_SHARPNESS * deviation + 1e-8)
    return (-distance.mean(dim=2)).softmax(dim=1)


def _neighbours(values: Tensor, dilations: Sequence[int]) -> list[Tensor]:
    """The eight neighbours at each distance, edges repeated: each (B, C, H, W)."""
    height, width = values.shape[-2:]
    found = []
    for distance in dilations:
        padded = F.pad(values, [distance] * 4, mode="replicate")
        for row in (0, distance, 2 * distance):
            for column in (0, distance, 2 * distance):
                if row != distance or column != distance:
                    found.append(padded[..., row : row + height, column : column + width])
    return found
