"""The image tower: any timm Vision Transformer or convolutional network, from uint8 pixels to patch tokens.

Shapes: B batch, H W pixels, N patches, h w patch grid, D width.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import nn

from clippy.architecture import ImageConfig
from clippy.config import nearest
from clippy.pretrained import find_weights, load_exactly, read_tensors
from clippy.torchvision_cpu import ensure_torchvision


@dataclass(frozen=True)
class ImageTokens:
    """What a tower says of each place: ``patches_BND``, the class token if it has one, and the patch grid."""

    patches_BND: torch.Tensor
    class_BD: torch.Tensor | None
    grid: tuple[int, int] | None
    """(h, w) in row-major order; None when patches were dropped."""


class ImageTower(nn.Module):
    """A timm trunk that normalises its own input and keeps every token, projected where ``width`` is not its own.

    The projection has no bias and comes before pooling, so a mean-pooled network (ALIGN's) reads out each place
    exactly: the mean of projected features is the projected mean. Raises ValueError naming the recipe field when timm
    has no such model, the model cannot do what is asked, or weights do not fit.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, config: ImageConfig, width: int | None = None) -> None:
        super().__init__()
        self.trunk = _build_trunk(config)
        own_width: int = self.trunk.num_features
        self.width = width or own_width
        self.projection = nn.Identity() if self.width == own_width else nn.Linear(own_width, self.width, bias=False)
        self.patch_size: int = self.trunk.feature_info[-1]["reduction"]
        self.num_prefix_tokens: int = getattr(self.trunk, "num_prefix_tokens", 0)
        if config.pooling in ("cls", "max_with_cls") and not self.num_prefix_tokens:
            raise ValueError(
                f"model.image.pooling: {config.name} has no class token for {config.pooling!r}; use 'max' or 'mean'"
            )
        self.register_buffer("mean", torch.tensor(config.mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(1, 3, 1, 1) * 255, persistent=False)
        self._frozen = config.frozen
        self.trunk.requires_grad_(not config.frozen)

    def train(self, mode: bool = True) -> Self:
        """As for any module, but a frozen trunk stays in evaluation mode."""
        super().train(mode)
        if self._frozen:
            self.trunk.eval()
        return self

    def forward(self, images_B3HW: torch.Tensor) -> ImageTokens:
        """Tokens of uint8 (or [0, 255] float) pixels; in training mode patches may be dropped."""
        pixels = (images_B3HW.to(self.mean.dtype) - self.mean) / self.std
        features = self.trunk.forward_features(pixels)
        if features.ndim == 4:
            if features.shape[1] != self.trunk.num_features:  # Swin and its kin answer (B, h, w, D)
                features = features.permute(0, 3, 1, 2)
            grid = (features.shape[2], features.shape[3])
            return ImageTokens(self.projection(features.flatten(2).transpose(1, 2)), None, grid)
        features = self.projection(features)
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
        trunk = timm.create_model(architecture, **arguments)
    except (TypeError, AssertionError, RuntimeError, ValueError) as error:
        raise ValueError(f"model.image: timm cannot build {config.name} with {arguments}: {error}") from error
    if config.pretrained:
        _load_trunk(trunk, config)
    return trunk


def _load_trunk(trunk: Any, config: ImageConfig) -> None:
    """Weights as timm itself takes them, position embeddings resampled to the image size, but whole or not at all."""
    import timm

    field = "model.image.pretrained"
    source = config.pretrained
    if source is True:
        published = timm.get_pretrained_cfg(config.name)
        if published is None or not published.hf_hub_id:
            raise ValueError(
                f"{field}: timm publishes no weights for {config.name}; name a file or folder, or use false"
            )
        source = published.hf_hub_id
    file = find_weights(str(source), field)
    tensors = read_tensors(file)
    adapt = getattr(sys.modules[type(trunk).__module__], "checkpoint_filter_fn", None)
    if adapt is not None:
        tensors = adapt(tensors, trunk)
    classifier = trunk.pretrained_cfg.get("classifier") or "head"
    heads = [classifier] if isinstance(classifier, str) else list(classifier)
    load_exactly(trunk, tensors, str(file), ignored=[f"{head}." for head in heads])
