"""Patch tokens to one vector. Max over space is what makes CLIPpy localise (paper, Table 9)."""

from __future__ import annotations

import torch

from clippy.architecture import Pooling


def pool(patches_BND: torch.Tensor, class_BD: torch.Tensor | None, mode: Pooling) -> torch.Tensor:
    """(B, D): the channel-wise maximum or the mean over patches, or the class token alone.

    Raises ValueError for ``cls`` where the tower has no class token.
    """
    if mode == "max":
        return patches_BND.amax(dim=1)
    if mode == "mean":
        return patches_BND.mean(dim=1)
    if class_BD is None:
        raise ValueError("model.image.pooling: 'cls' needs a tower with a class token; use 'max' or 'mean'")
    return class_BD
