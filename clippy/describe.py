"""A model in a few facts."""

from __future__ import annotations

from typing import Any

from torch import nn

from clippy.model import CLIPpy


def describe(model: CLIPpy) -> dict[str, Any]:
    """Towers, sizes, read-outs and parameters (counted once where tied), for people and for ``--json``."""
    image, text, encoder = model.config.image, model.config.text, model.text.encoder.config
    return {
        "image tower": image.name,
        "image size": image.image_size,
        "patch size": model.image.patch_size,
        "image pooling": image.pooling,
        "patch dropout": image.patch_dropout,
        "image mean": list(image.mean),
        "image deviation": list(image.std),
        "text tower": f"T5 encoder, {encoder.num_layers} layers of width {encoder.d_model}",
        "text pooling": text.pooling,
        "dense layer": not isinstance(model.text.projection, nn.Identity),
        "tokens at most": text.max_tokens,
        "vocabulary": model.tokenizer.vocabulary_size,
        "embedding width": model.image.width,
        "logit scale": round(model.logit_scale.item(), 3),
        "image parameters": count_parameters(model.image) + count_parameters(model.pooling),
        "text parameters": count_parameters(model.text),
        "parameters": count_parameters(model),
    }


def count_parameters(module: nn.Module) -> int:
    """Numbers in the module's parameters."""
    return sum(parameter.numel() for parameter in module.parameters())
