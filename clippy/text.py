"""The text tower: a T5 encoder, the masked mean of its tokens, and a dense layer: Sentence-T5's read-out.

Shapes: B batch, T tokens, D width.
"""

from __future__ import annotations

import json
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

    def forward(self, ids_BT: torch.Tensor) -> torch.Tensor:
        """(B, D): pooled over the tokens that are not padding, the end token included; padding never counts."""
        mask_BT = ids_BT != self.pad_id
        tokens_BTD = self.encoder(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state
        mask_BT1 = mask_BT.unsqueeze(-1)
        if self._pooling == "max":
            return self.projection(tokens_BTD.masked_fill(~mask_BT1, -torch.inf).amax(dim=1))
        weight_BT1 = mask_BT1.to(tokens_BTD.dtype)
        mean_BD = (tokens_BTD * weight_BT1).sum(dim=1) / weight_BT1.sum(dim=1).clamp(min=1)
        return self.projection(mean_BD)


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
