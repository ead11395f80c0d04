"""The text tower: a T5 encoder, the masked mean of its tokens, and a dense layer: Sentence-T5's read-out.

Shapes: B batch, T tokens, D width.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import nn

from clippy.architecture import TextConfig
from clippy.pretrained import Repository, load_exactly, read_tensors
from clippy.torchvision_cpu import ensure_torchvision

_ARCHITECTURE = (
    "vocab_size",
    "d_model",
    "d_kv",
    "d_ff",
    "num_layers",
    "num_heads",
    "relative_attention_num_buckets",
    "relative_attention_max_distance",
    "dropout_rate",
    "layer_norm_epsilon",
    "feed_forward_proj",
)


class TextTower(nn.Module):
    """Token ids to one vector of ``width`` per caption.

    Raises ValueError naming the recipe field when the encoder cannot be built or does not fit the tokenizer.
    """

    def __init__(self, config: TextConfig, vocabulary_size: int, pad_id: int, width: int) -> None:
        super().__init__()
        repository = None if config.pretrained is None else Repository(config.pretrained, "model.text.pretrained")
        parts = _sentence_transformer_parts(repository) if repository else {}
        self.encoder = _build_encoder(config, vocabulary_size, repository, parts.get("Transformer", ""))
        self.pad_id = pad_id
        self._pooling = config.pooling
        own_width: int = self.encoder.config.d_model
        dense = config.dense or own_width != width
        self.projection = nn.Linear(own_width, width, bias=False) if dense else nn.Identity()
        if config.dense and repository and "Dense" in parts:
            file = repository.weights(parts["Dense"])
            tensors = {name.removeprefix("linear."): tensor for name, tensor in read_tensors(file).items()}
            load_exactly(self.projection, tensors, str(file))
            self.projection.requires_grad_(not config.frozen)
        self._frozen = config.frozen
        self.encoder.requires_grad_(not config.frozen)

    def train(self, mode: bool = True) -> Self:
        """As for any module, but a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self._frozen:
            self.encoder.eval()
        return self

    @property
    def arguments(self) -> dict[str, Any]:
        """The T5Config fields that rebuild this encoder without the weights it started from."""
        return {name: getattr(self.encoder.config, name) for name in _ARCHITECTURE}

    def forward(self, ids_BT: torch.Tensor, lengths: Sequence[int] | None = None) -> torch.Tensor:
        """(B, D): pooled over the tokens that are not padding, the end token included; padding never counts.

        Captions of like length run together, so that the work follows their tokens. ``lengths``: of each row without
        its padding, if known: reading them off a tensor on a GPU would wait for it.
        """
        if lengths is None:
            lengths = (ids_BT != self.pad_id).sum(dim=1).tolist()
        chunks = chunk_by_length(lengths, ids_BT.shape[1])
        if len(chunks) == 1:
            ids_BT = ids_BT[:, : chunks[0].width]
            return self._encode(ids_BT, self.encoder.get_input_embeddings()(ids_BT))
        order = [row for chunk in chunks for row in chunk.rows]
        back = sorted(range(len(order)), key=order.__getitem__)
        sorted_BT = ids_BT[torch.tensor(order, device=ids_BT.device)]
        parts = sorted_BT.split([len(chunk.rows) for chunk in chunks])
        parts = [part[:, : chunk.width] for part, chunk in zip(parts, chunks, strict=True)]
        # All words at once: each look-up's gradient is a tensor as large as the vocabulary.
        words = self.encoder.get_input_embeddings()(torch.cat([part.flatten() for part in parts]))
        words = words.split([part.numel() for part in parts])
        embeddings = [self._encode(part, own.unflatten(0, part.shape)) for part, own in zip(parts, words, strict=True)]
        return torch.cat(embeddings)[torch.tensor(back, device=ids_BT.device)]

    def _encode(self, ids_BT: torch.Tensor, words_BTD: torch.Tensor) -> torch.Tensor:
        mask_BT = ids_BT != self.pad_id
        tokens_BTD = self.encoder(inputs_embeds=words_BTD, attention_mask=mask_BT).last_hidden_state
        mask_BT1 = mask_BT.unsqueeze(-1)
        if self._pooling == "max":
            return self.projection(tokens_BTD.masked_fill(~mask_BT1, -torch.inf).amax(dim=1))
        weight_BT1 = mask_BT1.to(tokens_BTD.dtype)
        mean_BD = (tokens_BTD * weight_BT1).sum(dim=1) / weight_BT1.sum(dim=1).clamp(min=1)
        return self.projection(mean_BD)


@dataclass(frozen=True)
class Chunk:
    """Rows of a batch that run together, and the columns that the longest of them needs."""

    rows: list[int]
    width: int


_CHUNKS = 8
_TOKENS = 1024
"""Chunks of fewer do not fill a matrix product."""
_MULTIPLE = 8
"""Widths are rounded up to this: tensor cores want it, and few shapes come up."""
_WORTH = 0.9
"""Chunks that leave more than this share of the work are not worth their launches."""


def chunk_by_length(lengths: Sequence[int], width: int) -> list[Chunk]:
    """The rows of a batch of ``width`` columns, longest first, in up to 8 parts; one, in order, if that saves little.

    Every row is in one chunk, whose width holds it and is at most ``width`` and at least 1.
    """

    def columns(longest: int) -> int:
        return min(width, max(1, -(-longest // _MULTIPLE) * _MULTIPLE))

    whole = Chunk(list(range(len(lengths))), columns(max(lengths, default=1)))
    size = max(-(-len(lengths) // _CHUNKS), -(-_TOKENS // whole.width))
    order = sorted(whole.rows, key=lambda row: -lengths[row])  # stable: the same for the same batch
    parts = [order[start : start + size] for start in range(0, len(order), size)]
    chunks = [Chunk(rows, columns(lengths[rows[0]])) for rows in parts]
    work = sum(len(chunk.rows) * chunk.width for chunk in chunks)
    return chunks if work < _WORTH * len(lengths) * whole.width else [whole]


def _sentence_transformer_parts(repository: Repository) -> dict[str, str]:
    """Folder of each module by its kind, as ``modules.json`` of sentence-transformers lists them; empty without one."""
    listing = repository.find("modules.json")
    if listing is None:
        return {}
    modules = json.loads(listing.read_text(encoding="utf-8"))
    return {module["type"].rpartition(".")[2]: module["path"] for module in modules}


def _build_encoder(config: TextConfig, vocabulary_size: int, repository: Repository | None, subfolder: str) -> Any:
    ensure_torchvision()  # transformers imports torchvision where it is installed
    from transformers import T5Config, T5EncoderModel

    unknown = sorted(set(config.arguments) - set(T5Config().to_dict()))
    if unknown:
        raise ValueError(f"model.text.arguments: transformers' T5Config has no {', '.join(unknown)}")
    if repository is None:
        return T5EncoderModel(T5Config(**{"vocab_size": vocabulary_size, **config.arguments}))
    file = repository.find(f"{subfolder}/config.json" if subfolder else "config.json")
    if file is None:
        raise ValueError(f"model.text.pretrained: {repository.name} has no config.json, so it is no T5 encoder")
    values = json.loads(file.read_text(encoding="utf-8"))
    if values.get("model_type") != "t5":
        raise ValueError(
            f"model.text.pretrained: {repository.name} is of type {values.get('model_type')!r}; the text tower is a T5"
        )
    encoder = T5EncoderModel(T5Config(**{**values, **config.arguments}))
    weights = repository.weights(subfolder)
    load_exactly(encoder, read_tensors(weights), str(weights), ignored=("decoder.", "lm_head."))
    if encoder.config.vocab_size < vocabulary_size:
        raise ValueError(
            f"model.text.tokenizer: has {vocabulary_size} tokens, more than the {encoder.config.vocab_size} that "
            f"{config.pretrained!r} knows; use that encoder's own tokenizer"
        )
    return encoder
