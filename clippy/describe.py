"""A model in a few facts."""

from __future__ import annotations

from typing import Any

from torch import nn

from clippy.baselines import GroupViT, HuggingFaceCLIP, OpenCLIP
from clippy.load import AnyModel
from clippy.model import CLIPpy


def describe(model: AnyModel) -> dict[str, Any]:
    """Towers, sizes, read-outs and parameters (counted once where tied), for people and for ``--json``."""
    return _describe_ours(model) if isinstance(model, CLIPpy) else _describe_baseline(model)


def _describe_ours(model: CLIPpy) -> dict[str, Any]:
    image, text, encoder = model.config.image, model.config.text, model.text.encoder.config
    return {
        "kind": "CLIPpy",
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


def _describe_baseline(model: HuggingFaceCLIP | GroupViT | OpenCLIP) -> dict[str, Any]:
    """The same facts of other people's models, as far as they have them."""
    parameters = dict(model.model.named_parameters())
    image = sum(p.numel() for name, p in parameters.items() if name.startswith("vis"))  # vision_model, visual.
    total = count_parameters(model.model)
    if isinstance(model, OpenCLIP):
        kind, visual = "CLIP of open_clip", model.model.visual
        layers, width = len(visual.transformer.resblocks), len(visual.class_embedding)
        embedding, pooling = visual.output_dim, {"tok": "cls", "avg": "mean"}.get(visual.pool_type, visual.pool_type)
        tokens, vocabulary = model.model.context_length, model.model.vocab_size
    else:
        vision, text = model.model.config.vision_config, model.model.config.text_config
        grouping = isinstance(model, GroupViT)
        kind, pooling = ("GroupViT of transformers", "groups") if grouping else ("CLIP of transformers", "cls")
        layers = sum(vision.depths) if grouping else vision.num_hidden_layers
        width, embedding = vision.hidden_size, model.model.config.projection_dim
        tokens, vocabulary = text.max_position_embeddings, text.vocab_size
    return {
        "kind": kind,
        "image tower": f"Vision Transformer, {layers} layers of width {width}",
        "image size": model.image_size,
        "patch size": model.patch_size,
        "image pooling": pooling,
        "image mean": [round(value / 255, 4) for value in model.mean.flatten().tolist()],
        "image deviation": [round(value / 255, 4) for value in model.std.flatten().tolist()],
        "tokens at most": tokens,
        "vocabulary": vocabulary,
        "embedding width": embedding,
        "logit scale": round(model.logit_scale.item(), 3),
        "image parameters": image,
        "text parameters": total - image - sum(p.numel() for n, p in parameters.items() if n.startswith("logit_")),
        "parameters": total,
    }


def count_parameters(module: nn.Module) -> int:
    """Numbers in the module's parameters."""
    return sum(parameter.numel() for parameter in module.parameters())
