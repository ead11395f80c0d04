"""The image tower: any timm Vision Transformer or convolutional network, from uint8 pixels to patch tokens.

Shapes: B batch, H W pixels, N patches, h w patch grid, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from clippy.architecture import ImageConfig
from clippy.config import nearest
from clippy.torchvision_cpu import ensure_torchvision


@dataclass(frozen=True)
class ImageTokens:
    """What a tower says of each place: ``patches_BND``, the class token if it has one, and the patch grid."""

    patches_BND: torch.Tensor
    class_BD: torch.Tensor | None
    grid: tuple[int, int] | None
    """(h, w) in row-major order; None when patches were dropped."""


class ImageTower(nn.Module):
    """A timm trunk that normalises its own input and keeps every token.

    Raises ValueError naming the recipe field when timm has no such model or the model cannot do what is asked.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, config: ImageConfig) -> None:
        super().__init__()
        self.trunk = _build_trunk(config)
        self.width: int = self.trunk.num_features
        self.patch_size: int = self.trunk.feature_info[-1]["reduction"]
        self.num_prefix_tokens: int = getattr(self.trunk, "num_prefix_tokens", 0)
        if config.pooling == "cls" and not self.num_prefix_tokens:
            raise ValueError(f"model.image.pooling: {config.name} has no class token for 'cls'; use 'max' or 'mean'")
        self.register_buffer("mean", torch.tensor(config.mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(1, 3, 1, 1) * 255, persistent=False)

    def forward(self, images_B3HW: torch.Tensor) -> ImageTokens:
        """Tokens of uint8 (or [0, 255] float) pixels; in training mode patches may be dropped."""
        pixels = (images_B3HW.to(self.mean.dtype) - self.mean) / self.std
        features = self.trunk.forward_features(pixels)
        if features.ndim == 4:
            if features.shape[1] != self.width:  # Swin and its kin answer (B, h, w, D)
                features = features.permute(0, 3, 1, 2)
            grid = (features.shape[2], features.shape[3])
            return ImageTokens(features.flatten(2).transpose(1, 2), None, grid)
        patches = features[:, self.num_prefix_tokens :]
        class_token = features[:, 0] if self.num_prefix_tokens else None
        height, width = (side // self.patch_size for side in images_B3HW.shape[-2:])
        return ImageTokens(patches, class_token, (height, width) if patches.shape[1] == height * width else None)


def _build_trunk(config: ImageConfig) -> Any:
    ensure_torchvision()
    import timm

    architecture = config.name.partition(".")[0]
    if not timm.is_model(architecture):
        raise ValueError(f"model.image.name: timm has no {config.name!r}{nearest(architecture, timm.list_models())}")
    arguments: dict[str, Any] = {"num_classes": 0, "global_pool": "", **config.arguments}
    if architecture.startswith(("vit_", "deit", "eva", "beit")):
        arguments = {"img_size": config.image_size, "dynamic_img_size": True, **arguments}
        if config.patch_dropout:
            arguments["patch_drop_rate"] = config.patch_dropout
    elif config.patch_dropout:
        raise ValueError(f"model.image.patch_dropout: only Vision Transformers drop patches, and {config.name} is none")
    try:
        return timm.create_model(config.name, pretrained=config.pretrained, **arguments)
    except (TypeError, AssertionError, RuntimeError, ValueError) as error:
        raise ValueError(f"model.image: timm cannot build {config.name} with {arguments}: {error}") from error
