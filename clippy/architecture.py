"""What a CLIPpy is made of, as data: the model section of a recipe and the ``config.json`` of a saved model.

Imports no torch, so that a recipe is checked at once.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from clippy.config import Section

ImagePooling = Literal[
    "max", "max_with_cls", "mean", "cls", "top_k", "generalized_mean", "log_sum_exp", "attention", "random"
]


class ImageConfig(Section):
    """The image tower: any timm Vision Transformer or convolutional network."""

    name: str = "vit_base_patch16_224.dino"
    """timm model name, with or without a pretrained tag."""
    pretrained: bool | str = False
    """Where to start: true is timm's published weights for ``name``, a text a file, folder or hub name of weights for
    this architecture (such as DINO's own), false random weights."""
    image_size: int = Field(224, ge=8, le=2048)
    """Height and width of the square input, in pixels."""
    pooling: ImagePooling = "max"
    """How tokens become one vector. Over space: the paper's ``max``, ``mean``, ``top_k`` (mean of the largest), and the
    learned ``generalized_mean``, ``log_sum_exp`` and ``attention``. ``cls`` is the class token alone; ``max_with_cls``
    the maximum over it and the patches, as the released weights were trained. ``random`` is a control: in training one
    patch of each image, whichever, so that nothing is chosen; afterwards their mean."""
    top_k: int = Field(8, ge=1)
    """Patches that ``top_k`` pooling averages, chosen in each channel."""
    frozen: bool = False
    """Keep the trunk as it starts (paper, Table 7): no gradient, no patch dropout."""
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
    """Hub name or folder of a T5 or Sentence-T5 to start from; null starts from random weights of ``arguments``."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Fields of transformers' T5Config, e.g. ``{d_model: 96, num_layers: 1}``; vocab_size follows the tokenizer."""
    pooling: Literal["mean", "max"] = "mean"
    """How token vectors become one, padding left out: Sentence-T5's mean, or the maximum."""
    dense: bool = False
    """A linear layer without bias after pooling, as Sentence-T5 has: its weights where ``pretrained`` holds them,
    random ones elsewhere. There is one in any case where the towers' widths differ."""
    frozen: bool = False
    """Keep encoder and pretrained dense layer as they start (paper, Table 7): no gradient, no dropout."""
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
    width: int | None = Field(None, gt=0)
    """Width of the embedding space; null is the image tower's, so that its tokens need no projection."""
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
