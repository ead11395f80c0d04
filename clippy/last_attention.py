"""The last attention layer of a Vision Transformer, read or replaced while the model runs as it always does.

Works on timm's, transformers' CLIP's and open_clip's layers, through hooks: the model's own code makes all else.

Shapes: B batch, T tokens, N patches, D width, A heads, h w patch grid.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clippy.baselines import HuggingFaceCLIP, OpenCLIP
from clippy.model import CLIPpy


def last_attention(model: nn.Module) -> nn.Module:
    """The layer of a ``CLIPpy`` whose tower is a ViT, or of a CLIP. Raises ValueError elsewhere."""
    if isinstance(model, CLIPpy) and hasattr(model.image.trunk, "blocks"):
        layer = model.image.trunk.blocks[-1].attn
    elif isinstance(model, HuggingFaceCLIP):
        vision = model.model.vision_model
        layer = getattr(vision, "vision_model", vision).encoder.layers[-1].self_attn
    elif isinstance(model, OpenCLIP) and hasattr(model.model.visual.transformer, "resblocks"):
        layer = model.model.visual.transformer.resblocks[-1].attn
    else:
        raise ValueError(
            f"{type(model).__name__}: its image tower is no Vision Transformer whose attention can be read"
        )
    if not hasattr(layer, "qkv") and not hasattr(layer, "v_proj") and not isinstance(layer, nn.MultiheadAttention):
        raise ValueError(
            f"{type(layer).__name__}: an attention layer without queries, keys and values that can be read"
        )
    return layer


@contextmanager
def values_alone(model: nn.Module) -> Iterator[list[Tensor]]:
    """While the block runs, each token of the last layer attends to itself alone; collects its keys, (B, T, D) a call.

    Source: MaskCLIP (arXiv 2112.01071), where the residual, feed-forward and last norm stay.
    """
    layer: Any = last_attention(model)
    keys: list[Tensor] = []

    def replace(module: Any, arguments: tuple[Tensor, ...], keywords: dict[str, Tensor], output: Any) -> Any:
        hidden = arguments[0] if arguments else keywords["hidden_states"]
        _, key, value = _project(module, hidden)
        keys.append(key)
        if hasattr(module, "qkv"):
            return module.proj(module.norm(value))
        return (module.out_proj(value), *output[1:])

    handle = layer.register_forward_hook(replace, with_kwargs=True)
    try:
        yield keys
    finally:
        handle.remove()


def require_class_attention(model: nn.Module) -> None:
    """Raises ValueError unless ``class_attention`` can read this model."""
    if not isinstance(model, CLIPpy):
        raise ValueError(f"{type(model).__name__}: the attention of its class token is not read; use a CLIPpy")
    last_attention(model)
    if not model.image.num_prefix_tokens:
        raise ValueError(f"{model.config.image.name}: its tower has no class token whose attention could be read")


def class_attention(model: CLIPpy, images: Tensor) -> Tensor:
    """What the class token of the last layer looks at: (B, A, h, w), each head's shares of the patches summing to 1.

    Source: DINO (arXiv 2104.14294), whose masks are ``attention_masks`` of this. Raises ValueError for a tower without
    class token or attention.
    """
    require_class_attention(model)
    layer: Any = last_attention(model)
    found: list[Tensor] = []

    def read(module: Any, arguments: tuple[Tensor, ...]) -> None:
        query, key, _ = _project(module, arguments[0])
        query, key = (part.unflatten(-1, (module.num_heads, -1)).transpose(1, 2) for part in (query, key))
        query, key = module.q_norm(query), module.k_norm(key)
        found.append((query[:, :, :1] * module.scale @ key.mT).softmax(dim=-1).squeeze(2))

    handle = layer.register_forward_pre_hook(read)
    try:
        _, grid = model.encode_patches(images)
    finally:
        handle.remove()
    patches = found[0][..., model.image.num_prefix_tokens :]
    return (patches / patches.sum(dim=-1, keepdim=True)).unflatten(-1, grid)


def attention_masks(attention: Tensor, mass: float = 0.6) -> Tensor:
    """The fewest patches of each head that hold more than ``mass`` of its attention: bool, of ``attention``'s shape.

    attention: (..., h, w), summing to 1 over h and w. Source: DINO's visualize_attention.py.
    """
    flat = attention.flatten(-2)
    values, order = flat.sort(dim=-1)
    kept = values.cumsum(dim=-1) > 1 - mass
    return torch.zeros_like(flat, dtype=torch.bool).scatter(-1, order, kept).unflatten(-1, attention.shape[-2:])


def _project(layer: Any, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, each (B, T, D)."""
    if hasattr(layer, "qkv"):
        query, key, value = layer.qkv(hidden).chunk(3, dim=-1)
        return query, key, value
    if isinstance(layer, nn.MultiheadAttention):
        query, key, value = F.linear(hidden, layer.in_proj_weight, layer.in_proj_bias).chunk(3, dim=-1)
        return query, key, value
    return layer.q_proj(hidden), layer.k_proj(hidden), layer.v_proj(hidden)
