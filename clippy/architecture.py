"""What a CLIPpy is made of, as data: the model section of a recipe and the ``config.json`` of a saved model.

Imports no torch, so that a recipe is checked at once.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from clippy.config import Section

Pooling = Literal["max", "mean", "cls"]


class ImageConfig(Section):
    """The image tower: any timm Vision Transformer or convolutional network."""

    name: str = "vit_base_patch16_224.dino"
    """timm model name, with or without a pretrained tag."""
    pretrained: bool = False
    """Start from timm's published weights for ``name`` (downloads them); false starts from random ones."""
    image_size: int = Field(224, ge=8, le=2048)
    """Height and width of the square input, in pixels."""
    pooling: Pooling = "max"
    """How patch tokens become one vector: the paper's ``max`` over space, ``mean`` over space, or ``cls``."""
    patch_dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Fraction of patch tokens dropped at random in training (paper: 0.8, at up to twice the resolution)."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Channel means of pixels in [0, 1]; ImageNet's by default, as DINO was trained with."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Channel standard deviations of pixels in [0, 1]."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of timm's constructor, e.g. ``{patch_size: 8, embed_dim: 96}`` for a small tower."""

    @model_validator(mode="after")
    def _deviations_are_positive(self) -> ImageConfig:
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive in every channel (got {list(self.std)})")
        return self


class TextConfig(Section):
    """The text tower: any T5 encoder, masked mean over its tokens, a projection where the widths differ."""

    pretrained: str | None = None
    """Hub name or folder of a T5 encoder to start from; null starts from random weights of ``arguments``."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Fields of transformers' T5Config, e.g. ``{d_model: 96, num_layers: 1}``; vocab_size follows the tokenizer."""
    tokenizer: str = "google-t5/t5-base"
    """``bytes``, ``vocabulary`` (learned from the captions before training), or a hub name or folder."""
    vocabulary_size: int = Field(512, ge=260)
    """Entries of a learned vocabulary: 256 bytes, four special ones, the rest merges of frequent pairs."""
    max_tokens: int = Field(77, ge=2)
    """Longer captions are cut here, the end token kept."""


class ModelConfig(Section):
    """Two towers into one embedding space, and a temperature."""

    image: ImageConfig = ImageConfig()
    text: TextConfig = TextConfig()
    logit_scale_init: float = Field(1 / 0.07, gt=0, le=100)
    """Initial inverse temperature (CLIP: 1/0.07)."""
    logit_scale_max: float = Field(100.0, gt=0)
    """The inverse temperature is clamped here after each step (CLIP: 100)."""

    @model_validator(mode="after")
    def _scale_within_limit(self) -> ModelConfig:
        if self.logit_scale_init > self.logit_scale_max:
            raise ValueError(
                f"logit_scale_init {self.logit_scale_init} is above logit_scale_max {self.logit_scale_max}; lower it"
            )
        return self
