"""A light convolutional decoder over a frozen model's patches: what its tower allows once masks of some classes are
shown, after LSeg (arXiv 2201.03546).

As in LSeg, image and text meet in the cosine at a fixed temperature, so any words can be asked for, and only what lies
above the image tower is trained. LSeg decodes four layers of its tower to half the picture's resolution (DPT); this one
stays on the grid of the patches and reads what every other read-out reads, so that only the masks make the difference.

Shapes: B batch, N patches, D embedding width, h w patch grid.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from clippy.config import Section
from clippy.inference import Encoder

DECODER_CONFIG_FILE, DECODER_WEIGHTS_FILE = "decoder.json", "decoder.safetensors"
TEMPERATURE = 0.07
"""Cosines are divided by it, in training and after: LSeg's, which it keeps fixed."""


class DecoderConfig(Section):
    """What a decoder is made of, and the model that it belongs to."""

    model: str
    """Where that model was."""
    checksum: str
    """Of its weights, as ``model_checksum`` has it."""
    width: int = Field(gt=0)
    """Of its embeddings."""
    patch_size: int = Field(gt=0)
    hidden_width: int = Field(gt=0)
    num_blocks: int = Field(2, ge=0)
    seen: tuple[str, ...]
    """Classes whose masks it was shown."""
    training: Mapping[str, str | int | float] = Field(default_factory=dict)
    """On what and how it was trained, for people and to tell one training from another."""


class Decoder(nn.Module):
    """Patch embeddings to better ones of the same space: each is moved by what lies around it, at first not at all."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.enter = nn.Conv2d(config.width, config.hidden_width, 1)
        self.blocks = nn.Sequential(*(_Block(config.hidden_width) for _ in range(config.num_blocks)))
        self.leave = nn.Conv2d(config.hidden_width, config.width, 1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(cast(Tensor, self.leave.bias))

    def forward(self, patches_BND: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, N, D) float32, not normalised, of patch embeddings on a grid (h, w), normalised or not."""
        patches_BND = patches_BND.float()
        length_BN1 = patches_BND.norm(dim=-1, keepdim=True)
        hidden = self.enter(F.layer_norm(patches_BND, patches_BND.shape[-1:]).mT.unflatten(-1, grid))
        move_BDhw = self.leave(_normalise(self.blocks(hidden)))
        return patches_BND + length_BN1 * move_BDhw.flatten(2).mT

    def require_model(self, model: Any, name: str) -> None:
        """Raise ValueError, saying ``name``, unless the decoder was trained on this very model."""
        own, made = self.config, f"was made for {self.config.model}"
        remedy = f"name that model, or train one with: clippy decoder train {name}"
        if own.patch_size != model.patch_size:
            problem = f"whose patches have {own.patch_size} pixels, and those of {name} {model.patch_size}"
        elif own.checksum != model_checksum(model):
            problem = f"and {name} has other weights"
        else:
            return
        raise ValueError(f"this decoder {made}, {problem}; {remedy}")

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``decoder.json`` and ``decoder.safetensors`` into ``folder``."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.cpu().contiguous() for name, tensor in self.state_dict().items()}
        save_file(tensors, folder / DECODER_WEIGHTS_FILE)
        (folder / DECODER_CONFIG_FILE).write_text(self.config.model_dump_json(indent=2) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Read what ``save_pretrained`` wrote; on the CPU, in evaluation mode. Nothing is unpickled.

        Raises ValueError naming the file that is missing, is no decoder's, or does not fit.
        """
        config, weights = Path(folder) / DECODER_CONFIG_FILE, Path(folder) / DECODER_WEIGHTS_FILE
        for file in (config, weights):
            if not file.is_file():
                raise ValueError(f"{folder}: no decoder, {file.name} is missing; make one with: clippy decoder train")
        decoder = cls(read_decoder_config(config.read_text(encoding="utf-8"), str(config)))
        try:
            decoder.load_state_dict(load_file(weights))
        except (RuntimeError, SafetensorError) as error:
            raise ValueError(f"{weights}: does not fit its {DECODER_CONFIG_FILE}: {error}") from None
        return decoder.eval()


class DecodedModel(nn.Module):
    """A model whose patches go through a decoder; its words, and what it says of whole pictures, are its own.

    An ``Encoder`` for ``clippy.inference``. ``name`` names the model in messages. Raises ValueError for a decoder of
    another model.
    """

    logit_scale: Tensor
    """The decoder's inverse temperature."""

    def __init__(self, model: nn.Module, decoder: Decoder, name: str = "this model") -> None:
        super().__init__()
        decoder.require_model(model, name)
        self.model, self.decoder = model, decoder
        self.register_buffer("logit_scale", torch.tensor(1 / TEMPERATURE), persistent=False)

    def encode_patches(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """(B, N, D) and (h, w)."""
        patches_BND, grid = self._own.encode_patches(images)
        return self.decoder(patches_BND, grid), grid

    def encode_image(self, images: Tensor) -> Tensor:
        """(B, D)."""
        return self._own.encode_image(images)

    def encode_captions(self, captions: list[str]) -> Tensor:
        """(B, D)."""
        return self._own.encode_captions(captions)

    @property
    def _own(self) -> Encoder:
        return self.model  # type: ignore[return-value]


class _Block(nn.Module):
    """Two 3 x 3 convolutions beside the identity, as in DPT; each place is normalised for itself, whatever the size."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.second(F.gelu(self.first(_normalise(hidden))))


def _normalise(hidden: Tensor) -> Tensor:
    """Mean 0 and deviation 1 over the channels of each place."""
    return F.layer_norm(hidden.movedim(1, -1), hidden.shape[1:2]).movedim(-1, 1)


def decoder_loss(
    patches_BND: Tensor, grid: tuple[int, int], words_KD: Tensor, class_of_word_K: Tensor, targets_BHW: Tensor
) -> Tensor:
    """Cross-entropy of the pixels whose class is known, at the size of the targets; 0 where there is none.

    patches_BND: decoded, not normalised, on a grid (h, w). words_KD: frozen, of unit length; class_of_word_K: int64,
    from 0 to the number of classes - 1: a class with several words is as probable as these together. targets_BHW: int64
    classes, -1 where they do not count. Cosines are up-sampled bilinearly, as LSeg's and as evaluation does.
    """
    cosine_BNK = F.normalize(patches_BND, dim=-1) @ words_KD.T
    logits_BKhw = cosine_BNK.mT.unflatten(-1, grid) / TEMPERATURE
    logits_BKHW = F.interpolate(logits_BKhw, size=targets_BHW.shape[-2:], mode="bilinear", align_corners=False)
    scores_BCHW = logits_BKHW.log_softmax(dim=1)
    num_classes = int(class_of_word_K.max()) + 1
    if num_classes < len(words_KD):
        shares_BKHW = scores_BCHW.exp()  # cosines over the temperature are 29 apart at most: none vanishes
        empty_BCHW = shares_BKHW.new_zeros(shares_BKHW[:, :num_classes].shape)
        scores_BCHW = empty_BCHW.index_add(1, class_of_word_K, shares_BKHW).log()
    counted = (targets_BHW >= 0).sum().clamp_min(1)
    return F.nll_loss(scores_BCHW, targets_BHW, ignore_index=-1, reduction="sum") / counted


def read_decoder_config(text: str, name: str) -> DecoderConfig:
    """The decoder that the text of a ``decoder.json`` describes. Raises ValueError, saying ``name``, if it is none."""
    try:
        return DecoderConfig.model_validate_json(text)
    except ValueError as error:
        raise ValueError(f"{name}: not the configuration of a decoder: {error}") from None


def model_checksum(model: nn.Module) -> str:
    """SHA-256 of all weights with their names, whatever device they are on: of the text tower too, whose words a
    decoder's patches are compared with."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
