"""Pixel-adaptive mask refinement (PAMR, arXiv 2005.08104): scores flow between neighbouring pixels of like colour.

Shapes: B batch, C classes, H W pixels, K neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from clippy import images, inference
from clippy.upsampling import upsample

DILATIONS = (1, 2, 4, 8, 12, 24)
"""Distances of the neighbours, in pixels: the authors'."""
ITERATIONS = 10
REFINED_PIXELS = 2**18
"""Most pixels of a picture that is refined: weights of 48 neighbours are held for each."""
_SHARPNESS = 0.1
"""Share of the local deviation at which a difference of colour counts as one: the authors'."""


def refine(
    scores: Tensor, pictures: Tensor, iterations: int = ITERATIONS, dilations: Sequence[int] = DILATIONS
) -> Tensor:
    """Average each pixel's scores over its neighbours, weighted by how like their colours are, some times over.

    scores: (B, C, H, W); pictures: uint8 (B, 3, H, W). Returns (B, C, H, W) float32; scores that sum to 1 still do.
    Raises ValueError for sizes that differ.
    """
    if scores.shape[-2:] != pictures.shape[-2:]:
        raise ValueError(f"scores of {tuple(scores.shape[-2:])} do not cover images of {tuple(pictures.shape[-2:])}")
    return _spread(scores.float(), _affinity(pictures.float(), dilations), iterations, dilations)


@torch.inference_mode()
def label_refined(
    patches_hwD: Tensor,
    classes_CD: Tensor,
    pixels: NDArray[np.uint8],
    scale: Tensor | None = None,
    among_CD: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The class of the highest refined score of each pixel of a picture, and that score: int32 and float32 (H, W).

    pixels: uint8 (H, W, 3). With ``scale``, the inverse temperature, scores are probabilities, the softmax of classes,
    or of all ``among_CD`` where the classes are a part of them.
    A picture of more than REFINED_PIXELS is refined smaller, where the authors' distances reach as far as they should,
    and the scores are up-sampled. Holds `clippy.inference.MAX_SCORES` scores at once, or one class's.
    """
    size, device = pixels.shape[:2], patches_hwD.device
    shrunk = min(1.0, (REFINED_PIXELS / (size[0] * size[1])) ** 0.5)
    small = (max(1, round(size[0] * shrunk)), max(1, round(size[1] * shrunk)))
    colours = torch.tensor(images.resize(pixels, *small) if small != size else pixels, device=device)
    weights_BKHW = _affinity(colours.permute(2, 0, 1)[None].float(), DILATIONS)
    parts = classes_CD.to(device).split(max(1, inference.MAX_SCORES // (size[0] * size[1])))

    def scores_of(part_CD: Tensor) -> Tensor:
        scores_Chw = torch.einsum("hwd,cd->chw", patches_hwD, part_CD)
        return upsample(scores_Chw if scale is None else scale * scores_Chw, small)

    def total_of(classes_CD: Tensor) -> Tensor:
        total_HW = torch.full(small, -torch.inf, device=device)
        for part_CD in classes_CD.to(device).split(len(parts[0])):
            total_HW = torch.logaddexp(total_HW, scores_of(part_CD).logsumexp(dim=0))
        return total_HW

    if scale is not None:
        total_HW = total_of(classes_CD)
        share = torch.ones((), device=device)
        if among_CD is not None:
            of_classes_HW, total_HW = total_HW, total_of(among_CD)
            share = (of_classes_HW - total_HW).exp().amin()
    best_HW = torch.full(size, -torch.inf, device=device)
    labels_HW = torch.zeros(size, dtype=torch.int32, device=device)
    for part_CD, ids_C in zip(parts, torch.arange(len(classes_CD), device=device).split(len(parts[0])), strict=True):
        scores_CHW = scores_of(part_CD)
        if scale is not None:
            scores_CHW = (scores_CHW - total_HW).exp()
            # Refined, a class stays below its peak, and the best of C has at least 1 / C of theirs: most drop out here.
            hopeful_C = scores_CHW.amax(dim=(1, 2)) * len(classes_CD) >= 0.99 * share
            scores_CHW, ids_C = scores_CHW[hopeful_C], ids_C[hopeful_C]
        if len(ids_C):
            refined_CHW = upsample(_spread(scores_CHW[None], weights_BKHW, ITERATIONS, DILATIONS)[0], size)
            found_HW, index_HW = refined_CHW.max(dim=0)
            better_HW = found_HW > best_HW
            best_HW = torch.where(better_HW, found_HW, best_HW)
            labels_HW = torch.where(better_HW, ids_C[index_HW].int(), labels_HW)
    return labels_HW, best_HW


def _spread(scores: Tensor, weights_BKHW: Tensor, iterations: int, dilations: Sequence[int]) -> Tensor:
    for _ in range(iterations):
        total = torch.zeros_like(scores)
        for index, moved in enumerate(_neighbours(scores, dilations)):
            total.addcmul_(weights_BKHW[:, index : index + 1], moved)
        scores = total
    return scores


def _affinity(colours_B3HW: Tensor, dilations: Sequence[int]) -> Tensor:
    """(B, K, H, W): weights of the neighbours, summing to 1."""
    distance_BKHW = torch.zeros((), device=colours_B3HW.device)
    for colour_B1HW in colours_B3HW.split(1, dim=1):  # one channel after the other: the neighbours are many
        around_BKHW = torch.cat(_neighbours(colour_B1HW, dilations), dim=1)
        deviation_B1HW = torch.cat([around_BKHW, colour_B1HW], dim=1).std(dim=1, keepdim=True)
        distance_BKHW = distance_BKHW + (around_BKHW - colour_B1HW).abs() / (_SHARPNESS * deviation_B1HW + 1e-8)
    return (-distance_BKHW / colours_B3HW.shape[1]).softmax(dim=1)


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
