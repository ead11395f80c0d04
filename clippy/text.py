"""The text tower: a T5 encoder and the masked mean of its tokens (Sentence-T5's read-out).

Shapes: B batch, T tokens, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from clippy.architecture import TextConfig
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
    """Token ids to one vector of ``width`` per caption, projected only where the encoder's width differs.

    Raises ValueError naming the recipe field when the encoder cannot be built or does not fit the tokenizer.
    """

    def __init__(self, config: TextConfig, vocabulary_size: int, pad_id: int, width: int) -> None:
        super().__init__()
        self.encoder = _build_encoder(config, vocabulary_size)
        self.pad_id = pad_id
        own_width: int = self.encoder.config.d_model
        self.projection = nn.Identity() if own_width == width else nn.Linear(own_width, width, bias=False)

    @property
    def arguments(self) -> dict[str, Any]:
        """The T5Config fields that rebuild this encoder without the weights it started from."""
        return {name: getattr(self.encoder.config, name) for name in _ARCHITECTURE}

    def forward(self, ids_BT: torch.Tensor) -> torch.Tensor:
        """(B, D): mean over the tokens that are not padding, the end token included; padding never counts."""
        mask_BT = ids_BT != self.pad_id
        tokens_BTD = self.encoder(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state
        weight_BT1 = mask_BT.unsqueeze(-1).to(tokens_BTD.dtype)
        mean_BD = (tokens_BTD * weight_BT1).sum(dim=1) / weight_BT1.sum(dim=1).clamp(min=1)
        return self.projection(mean_BD)


def _build_encoder(config: TextConfig, vocabulary_size: int) -> Any:
    ensure_torchvision()  # transformers imports torchvision where it is installed
    from transformers import T5Config, T5EncoderModel

    if config.pretrained is not None:
        try:
            encoder = T5EncoderModel.from_pretrained(config.pretrained, **config.arguments)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"model.text.pretrained: {config.pretrained!r} cannot be loaded: {str(error).splitlines()[0]}"
            ) from None
        if encoder.config.vocab_size < vocabulary_size:
            raise ValueError(
                f"model.text.tokenizer: has {vocabulary_size} tokens, more than the {encoder.config.vocab_size} that "
                f"{config.pretrained!r} knows; use that encoder's own tokenizer"
            )
        return encoder
    unknown = sorted(set(config.arguments) - set(T5Config().to_dict()))
    if unknown:
        raise ValueError(f"model.text.arguments: transformers' T5Config has no {', '.join(unknown)}")
    return T5EncoderModel(T5Config(**{"vocab_size": vocabulary_size, **config.arguments}))
