"""MaskCLIP (arXiv 2112.01071): a frozen model read out through its last layer's values, and what cleans its scores.

Shapes: B batch, N patches, C classes, D width, h w patch grid.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clippy.inference import Encoder
from clippy.last_attention import last_attention, values_alone


class MaskCLIP(nn.Module):
    """A model of ours or a CLIP, its patches read out with the last attention layer switched off.

    An ``Encoder`` for ``clippy.inference``; whole images and captions are the model's own.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        last_attention(encoder)  # refuses a model that has none
        self.encoder = encoder

    def encode_patches(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """(B, N, D) and (h, w)."""
        with values_alone(self.encoder):
            return self._own.encode_patches(images)

    def encode_image(self, images: Tensor) -> Tensor:
        """(B, D)."""
        return self._own.encode_image(images)

    def encode_captions(self, captions: list[str]) -> Tensor:
        """(B, D)."""
        return self._own.encode_captions(captions)

    @property
    def _own(self) -> Encoder:
        return self.encoder  # type: ignore[return-value]


def read_keys(encoder: nn.Module, images: Tensor) -> Tensor:
    """The last attention layer's keys of the patches, (B, N, D'), for ``key_smoothing``."""
    with values_alone(encoder) as keys:
        patches, _ = encoder.encode_patches(images)  # type: ignore[operator]
    return keys[0][:, -patches.shape[1] :]


def prompt_denoising(logits: Tensor, threshold: float = 0.5) -> Tensor:
    """Rule out each class that is nowhere in the image more probable than ``threshold``.

    logits: (B, C, h, w), cosines times 100. Returns logits with -inf for the classes ruled out; an image where that
    would be all keeps them all.
    """
    peak_BC = logits.softmax(dim=1).amax(dim=(-2, -1))
    present_BC = peak_BC >= threshold
    present_BC |= ~present_BC.any(dim=1, keepdim=True)
    return logits.masked_fill(~present_BC[..., None, None], -torch.inf)


def key_smoothing(logits: Tensor, keys: Tensor, threshold: float = 1.0) -> Tensor:
    """Let patches with like keys vote: each one's class probabilities become the sum of all, weighted by key cosine.

    logits: (B, C, h, w), cosines times 100; keys: (B, N, D). Patches surer than ``threshold`` stay as they are.
    Returns scores (B, C, h, w), no longer probabilities. The cosine is over channels, as the paper writes; the public
    code normalises over positions.
    """
    probabilities_BNC = logits.softmax(dim=1).flatten(2).mT
    unit_BND = F.normalize(keys.float(), dim=-1)
    smoothed_BNC = unit_BND @ (unit_BND.mT @ probabilities_BNC)  # never an N x N matrix
    sure_BN1 = probabilities_BNC.amax(dim=-1, keepdim=True) >= threshold
    return torch.where(sure_BN1, probabilities_BNC, smoothed_BNC).mT.unflatten(-1, logits.shape[-2:])
