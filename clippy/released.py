"""The published CLIPpy checkpoint (github kahnchana/clippy, ``clippy_5k.pt``) as a model of ours.

Its layout is open_clip's ``CustomTextCLIP`` over a timm ViT-B/16 and the modules of sentence-transformers' Sentence-T5:
252 tensors under ``visual.trunk.``, ``text.0.auto_model.`` (``text.0.model.`` since sentence-transformers 6),
``text.2.linear.`` and ``logit_scale``.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from clippy.architecture import ImageConfig, ModelConfig, TextConfig
from clippy.model import CLIPpy
from clippy.pretrained import find_weights, load_exactly, read_tensors
from clippy.tokens import CaptionTokenizer, build_tokenizer

TOKENIZER = "sentence-transformers/sentence-t5-base"
OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
"""OpenAI's, although the DINO weights that training started from knew ImageNet's."""
MAX_TOKENS = 77

_NAMES = {
    "visual.trunk.": "image.trunk.",
    "text.0.auto_model.": "text.encoder.",
    "text.0.model.": "text.encoder.",
    "text.2.linear.": "text.projection.",
    "logit_scale": "log_logit_scale",
}
_HEAD_WIDTH = 64
"""Of each attention head, in every ViT and T5 of the sizes that were published."""


def import_released(source: str, destination: Path, tokenizer_name: str = TOKENIZER) -> CLIPpy:
    """Read the published checkpoint, or one of its layout, and write a model folder of ours, whole or not at all.

    ``source`` is a file, folder or hub name; ``tokenizer_name`` as ``model.text.tokenizer``. Raises ValueError with
    one sentence for whatever does not fit, and for a ``destination`` that exists.
    """
    if destination.exists():
        raise ValueError(f"{destination}: exists already; name a new folder")
    file = find_weights(source, "SOURCE")
    tensors = read_tensors(file)
    if not is_released_layout(tensors):
        heads = ", ".join(sorted({name.partition(".")[0] for name in tensors})[:8])
        raise ValueError(
            f"{file}: not of the published CLIPpy's layout, which has visual.trunk.* and text.0.*; its keys begin with "
            f"{heads}"
        )
    tokenizer = build_tokenizer(TextConfig(tokenizer=tokenizer_name, max_tokens=MAX_TOKENS))
    model = from_released(tensors, tokenizer, str(file))
    known = model.text.encoder.config.vocab_size
    if tokenizer.vocabulary_size > known:
        raise ValueError(
            f"--tokenizer: {tokenizer_name!r} has {tokenizer.vocabulary_size} tokens, more than the {known} that the "
            "text tower knows; use the one it was trained with"
        )
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".importing-", dir=destination.parent) as staging:
        whole = Path(staging) / destination.name
        model.save_pretrained(whole)
        whole.rename(destination)
    return model


def is_released_layout(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these, unwrapped, are the published checkpoint's or another of its layout."""
    return "visual.trunk.cls_token" in tensors and any(name.startswith("text.0.") for name in tensors)


def from_released(tensors: Mapping[str, Tensor], tokenizer: CaptionTokenizer, source: str) -> CLIPpy:
    """The model that these weights were trained as, in evaluation mode: max over patches and class token.

    Raises ValueError naming every key that is missing, left over or of another shape.
    """
    model = CLIPpy(released_config(tensors, source), tokenizer)
    load_exactly(model, {_our_name(name): tensor for name, tensor in tensors.items()}, source)
    return model.eval()


def released_config(tensors: Mapping[str, Tensor], source: str) -> ModelConfig:
    """The architecture, sizes read from the shapes of the weights.

    Raises ValueError naming the first key that is missing for it.
    """

    def shape(name: str) -> torch.Size:
        for prefix in ("text.0.auto_model.", "text.0.model."):
            if (found := tensors.get(name.replace("ENCODER.", prefix))) is not None:
                return found.shape
        raise ValueError(f"{source}: no checkpoint of the published CLIPpy's layout, {name} is missing")

    embed_dim, _, patch_size, _ = shape("visual.trunk.patch_embed.proj.weight")
    positions = shape("visual.trunk.pos_embed")[1] - 1
    buckets, text_heads = shape("ENCODER.encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight")
    vocabulary, text_width = shape("ENCODER.shared.weight")
    inner, hidden = (
        shape("ENCODER.encoder.block.0.layer.0.SelfAttention.q.weight")[0],
        shape("ENCODER.encoder.block.0.layer.1.DenseReluDense.wi.weight")[0],
    )
    return ModelConfig(
        image=ImageConfig(
            name="vit_base_patch16_224.dino",
            image_size=math.isqrt(positions) * patch_size,
            pooling="max_with_cls",
            mean=OPENAI_MEAN,
            std=OPENAI_STD,
            arguments={
                "patch_size": patch_size,
                "embed_dim": embed_dim,
                "depth": _count(tensors, "visual.trunk.blocks."),
                "num_heads": max(1, embed_dim // _HEAD_WIDTH),
            },
        ),
        text=TextConfig(
            tokenizer=TOKENIZER,
            max_tokens=MAX_TOKENS,
            dense=True,
            arguments={
                "vocab_size": vocabulary,
                "d_model": text_width,
                "d_kv": inner // text_heads,
                "d_ff": hidden,
                "num_heads": text_heads,
                "num_layers": _count(tensors, "encoder.block."),
                "relative_attention_num_buckets": buckets,
            },
        ),
    )


def _our_name(name: str) -> str:
    for theirs, ours in _NAMES.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


def _count(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """Blocks: one more than the highest number after ``prefix`` in any name."""
    numbers = (name.partition(prefix)[2].partition(".")[0] for name in tensors if prefix in name)
    return 1 + max((int(number) for number in numbers if number.isdigit()), default=-1)
