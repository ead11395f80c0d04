"""A model that knows colours by name: what it says of a picture is known beforehand, whatever reads it out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Colour = tuple[int, int, int]


def distinct_colour(index: int) -> Colour:
    """A colour of its own for each of some thousand numbers, far from its neighbours'."""
    code = index * 37 + 11
    return (code * 5 % 16) * 16 + 8, (code // 16 * 7 % 16) * 16 + 8, (code // 256 * 3 % 16) * 16 + 8


class ColourModel(nn.Module):
    """Each known word and its colour share a direction; the patch is one pixel, a picture is its commonest colour.

    Other words have a direction that no pixel has. ``images`` are as large as ``image_size`` or larger.
    """

    patch_size = 1
    takes_one_size = False

    def __init__(self, colours: Mapping[str, Colour], image_size: int) -> None:
        super().__init__()
        self.image_size = image_size
        self._words = list(colours)
        self.register_buffer("_colours", torch.tensor(list(colours.values()), dtype=torch.float32))
        self.register_buffer("logit_scale", torch.tensor(100.0))

    def encode_patches(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """(B, N, D), one-hot by nearest colour."""
        pixels_BN3 = images.float().flatten(2).mT
        nearest_BN = torch.cdist(pixels_BN3, self._colours).argmin(dim=-1)
        return F.one_hot(nearest_BN, len(self._words) + 1).float(), (images.shape[-2], images.shape[-1])

    def encode_image(self, images: Tensor) -> Tensor:
        """(B, D): how many pixels have each colour."""
        return self.encode_patches(images)[0].sum(dim=1)

    def encode_captions(self, captions: list[str]) -> Tensor:
        """(B, D): the longest known word that the caption has."""
        found = [max((w for w in self._words if w in caption), key=len, default="") for caption in captions]
        indices = [self._words.index(word) if word else len(self._words) for word in found]
        return F.one_hot(torch.tensor(indices), len(self._words) + 1).float()


@dataclass(frozen=True)
class ColourModelSource:
    """Loads as a model found by its name does, also in a worker."""

    colours: tuple[tuple[str, Colour], ...]
    image_size: int
    name: str = "colours"
    step: int | None = None
    folder: None = None

    def load(self) -> ColourModel:
        """The model."""
        return ColourModel(dict(self.colours), self.image_size)
