"""Embeddings of regions from those of patches: boxes and masks of any size, with one pass over the picture.

A region is a weight for each patch; patches cover the picture, whatever its size.

Shapes in names: R regions, D embedding width, H and W in pixels, h and w in patches, P patches of a
side, A points of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Pooling = Literal["mean", "max"]
Box = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels."""

ALIGN_POINTS = 14
"""Points a side that `align_weights` samples: two in each of RoIAlign's usual seven bins."""
_SHARE_OF_BEST = 0.5


def box_weights(boxes: Sequence[Box], size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """The share of each patch that a box covers: (R, h, w) float32.

    boxes: in pixels of a picture of `size` (H, W); what lies outside is cut off. A box without area, such as one
    outside, covers the patch that is nearest to its middle.
    """
    boxes_R4 = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)
    down_Rh = _covered(boxes_R4[:, 1::2], size[0], grid[0])
    along_Rw = _covered(boxes_R4[:, ::2], size[1], grid[1])
    return down_Rh[:, :, None] * along_Rw[:, None]


def mask_weights(masks_RHW: Tensor, grid: tuple[int, int]) -> Tensor:
    """The share of each patch that a mask covers: (R, h, w) float32.

    masks_RHW: bool. A mask without pixels has no weight anywhere.
    """
    down_Hh, along_Ww = (
        _covered(torch.arange(pixels)[:, None] + torch.tensor([0.0, 1.0]), pixels, patches).to(masks_RHW.device)
        for pixels, patches in zip(masks_RHW.shape[1:], grid, strict=True)
    )
    weights = [down_Hh.T @ mask_HW.float() @ along_Ww for mask_HW in masks_RHW]  # as floats, all would be large
    return torch.stack(weights) if weights else masks_RHW.new_zeros(0, *grid, dtype=torch.float32)


def align_weights(boxes: Sequence[Box], size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """What patches weigh in the mean of points spread over a box, each interpolated between patch centres: (R, h, w).

    Arguments as `box_weights`; weights of a box sum up to 1. Boxes smaller than a patch differ too.
    Source: RoIAlign (Mask R-CNN), whose bins are averaged at the end; RegionCLIP pools so.
    """
    boxes_R4 = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)
    down_Rh = _interpolated(boxes_R4[:, 1::2], size[0], grid[0])
    along_Rw = _interpolated(boxes_R4[:, ::2], size[1], grid[1])
    return down_Rh[:, :, None] * along_Rw[:, None]


@torch.inference_mode()
def pool_regions(patches_hwD: Tensor, weights_Rhw: Tensor, pooling: Pooling = "mean") -> Tensor:
    """Embed regions: (R, D) float32 of unit length; a region without weight gets a zero vector.

    ``mean`` weighs the patches; ``max`` takes the maximum in each dimension, as CLIPpy pools pictures, over the patches
    that weigh at least half of the one that weighs most.
    """
    weights_Rhw = weights_Rhw.to(patches_hwD.device)
    if pooling == "mean":
        return F.normalize(torch.einsum("rhw,hwd->rd", weights_Rhw, patches_hwD), dim=-1)
    pooled = [_maximum(patches_hwD, weights_hw) for weights_hw in weights_Rhw]  # one by one, for R x N x D is large
    return F.normalize(torch.stack(pooled), dim=-1) if pooled else patches_hwD.new_zeros(0, patches_hwD.shape[-1])


def _maximum(patches_hwD: Tensor, weights_hw: Tensor) -> Tensor:
    most = weights_hw.max()
    return patches_hwD[weights_hw >= most * _SHARE_OF_BEST].amax(dim=0) * (most > 0)


def _covered(ends_R2: Tensor, pixels: int, patches: int) -> Tensor:
    """(R, P): how much of each patch of a side lies between two ends, in pixels."""
    ends_R2 = ends_R2.double() * (patches / pixels)
    start_P = torch.arange(patches, dtype=torch.float64)
    low_R1, high_R1 = ends_R2.clamp(0, patches).split(1, dim=1)
    covered_RP = (torch.minimum(high_R1, start_P + 1) - torch.maximum(low_R1, start_P)).clamp(min=0)
    middle_R = ends_R2.mean(dim=1).clamp(0, patches - 1).long()
    is_empty_R1 = covered_RP.sum(dim=1, keepdim=True) == 0
    return torch.where(is_empty_R1, F.one_hot(middle_R, patches), covered_RP).float()


def _interpolated(ends_R2: Tensor, pixels: int, patches: int) -> Tensor:
    """(R, P): what each patch of a side weighs in the mean of points between two ends, in pixels."""
    low_R1, high_R1 = (ends_R2 * (patches / pixels)).split(1, dim=1)
    share_A = (torch.arange(ALIGN_POINTS, dtype=torch.float64) + 0.5) / ALIGN_POINTS
    # Beyond the outermost centres nothing changes, as where scores are up-sampled.
    position_RA = (low_R1 + (high_R1 - low_R1) * share_A - 0.5).clamp(0, patches - 1)
    nearness_RAP = 1 - (position_RA[..., None] - torch.arange(patches)).abs()
    return nearness_RAP.clamp(min=0).mean(dim=1).float()
