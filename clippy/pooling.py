"""Patch tokens to one vector. Max over space is what makes CLIPpy localise (paper, Table 9).

Shapes: B batch, N patches, D width.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from clippy.architecture import ImagePooling
from clippy.torchvision_cpu import ensure_torchvision

_POSITIVE = 1e-6
"""A generalised mean takes roots: features below this count as this much (Radenovic et al., arXiv 1711.02512)."""


def pool(patches_BND: torch.Tensor, class_BD: torch.Tensor | None, mode: ImagePooling, top_k: int = 8) -> torch.Tensor:
    """(B, D) by one of the poolings that learn nothing.

    Raises ValueError where the tower has no class token and ``mode`` needs one.
    """
    if mode == "max":
        return patches_BND.amax(dim=1)
    if mode == "mean":
        return patches_BND.mean(dim=1)
    if mode == "top_k":
        return patches_BND.topk(min(top_k, patches_BND.shape[1]), dim=1).values.mean(dim=1)
    if class_BD is None:
        raise ValueError(f"model.image.pooling: {mode!r} needs a tower with a class token; use 'max' or 'mean'")
    return class_BD if mode == "cls" else torch.maximum(patches_BND.amax(dim=1), class_BD)


class Pooling(nn.Module):
    """One of ``pool``'s, which has no parameters and so adds no key to a checkpoint."""

    def __init__(self, mode: ImagePooling, top_k: int) -> None:
        super().__init__()
        self._mode, self._top_k = mode, top_k

    def forward(self, patches_BND: torch.Tensor, class_BD: torch.Tensor | None) -> torch.Tensor:
        """(B, D)."""
        return pool(patches_BND, class_BD, self._mode, self._top_k)


class RandomPatch(nn.Module):
    """One patch of each image, drawn anew in each step of training; their mean otherwise. A control of ``max``."""

    def forward(self, patches_BND: torch.Tensor, class_BD: torch.Tensor | None) -> torch.Tensor:
        """(B, D)."""
        if not self.training:
            return patches_BND.mean(dim=1)
        batch, num_patches = patches_BND.shape[:2]
        drawn_B = torch.randint(num_patches, (batch,), device=patches_BND.device)
        return patches_BND[torch.arange(batch, device=patches_BND.device), drawn_B]


class GeneralizedMean(nn.Module):
    """The p-th root of the mean of p-th powers by channel: mean at p = 1, maximum in the limit; p is learned."""

    def __init__(self, exponent: float = 3.0) -> None:
        super().__init__()
        self.exponent = nn.Parameter(torch.tensor(exponent))

    def forward(self, patches_BND: torch.Tensor, class_BD: torch.Tensor | None) -> torch.Tensor:
        """(B, D), in float32, for powers leave half precision's range."""
        positive_BND = patches_BND.float().clamp(min=_POSITIVE)
        # Powers of the share of the maximum neither overflow nor vanish all at once.
        most_B1D = positive_BND.amax(dim=1, keepdim=True)
        mean_BD = (positive_BND / most_B1D).pow(self.exponent).mean(dim=1)
        return most_B1D.squeeze(1) * mean_BD.pow(1 / self.exponent)


class LogSumExp(nn.Module):
    """A soft maximum by channel, log(mean(exp(r x))) / r: the mean for small r, the maximum for large; r is learned."""

    def __init__(self, sharpness: float = 5.0) -> None:
        super().__init__()
        self.log_sharpness = nn.Parameter(torch.tensor(math.log(sharpness)))

    def forward(self, patches_BND: torch.Tensor, class_BD: torch.Tensor | None) -> torch.Tensor:
        """(B, D), in float32."""
        sharpness = self.log_sharpness.exp()
        total_BD = torch.logsumexp(patches_BND.float() * sharpness, dim=1)
        return (total_BD - math.log(patches_BND.shape[1])) / sharpness


class AttentionPooling(nn.Module):
    """One learned query over the patches (timm's ``AttentionPoolLatent``, as SigLIP pools)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        ensure_torchvision()
        from timm.layers import AttentionPoolLatent

        heads = next(heads for heads in range(max(1, width // 64), 0, -1) if width % heads == 0)
        self.attention = AttentionPoolLatent(width, num_heads=heads)

    def forward(self, patches_BND: torch.Tensor, class_BD: torch.Tensor | None) -> torch.Tensor:
        """(B, D)."""
        return self.attention(patches_BND)


def build_pooling(mode: ImagePooling, width: int, top_k: int) -> nn.Module:
    """The module for ``mode``: called with patches (B, N, D) and the class token (B, D) or None, it gives (B, D)."""
    if mode == "attention":
        return AttentionPooling(width)
    if mode == "generalized_mean":
        return GeneralizedMean()
    if mode == "log_sum_exp":
        return LogSumExp()
    if mode == "random":
        return RandomPatch()
    return Pooling(mode, top_k)
