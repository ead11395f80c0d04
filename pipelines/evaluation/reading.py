"""A model read out as a protocol says: pictures of one size to patches and pooled embeddings.

Shapes in names: B images, N patches, D embedding width, C classes, H and W in pixels, h and w in patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from clippy import images, inference
from clippy.decoder import DecodedModel, Decoder
from clippy.last_attention import attention_masks, class_attention, require_class_attention
from clippy.load import AnyModel
from clippy.maskclip import read_keys
from clippy.model import CLIPpy
from clippy.scoring import check_options, embed_patches, encoder_of, shown_pixels
from pipelines.evaluation.protocol import Protocol


class Reader:
    """One model under one protocol, in evaluation mode; its patches may go through a decoder."""

    def __init__(
        self, model: AnyModel, protocol: Protocol, name: str = "model", decoder: Decoder | None = None
    ) -> None:
        """``name`` names the model in messages. Raises ValueError where the two do not go together."""
        self.options = protocol.segment_options()
        self.options.check("protocol.")
        check_options(model, self.options, "protocol.")
        if protocol.grouping == "attention":
            require_class_attention(model)
        self.model, self.protocol, self.name = model, protocol, name
        self._encoder = encoder_of(model, self.options)
        self._scale = model.logit_scale.detach()
        if decoder is not None:
            if protocol.readout != "patches":
                raise ValueError(
                    f"protocol.readout: a decoder was trained on the model's own patches, so it does not go with "
                    f"{protocol.readout}; leave one out"
                )
            decoded = DecodedModel(model, decoder, name)
            self._encoder, self._scale = decoded, decoded.logit_scale.to(self._scale.device)

    @property
    def scale(self) -> Tensor:
        """The inverse temperature, of the decoder where there is one."""
        return self._scale

    def shown(self, pixels: NDArray[np.uint8], cropped: bool) -> NDArray[np.uint8]:
        """The picture as the model sees it: its centre square, or all of it in proportion."""
        if cropped:
            return images.resize_and_crop(pixels, self.protocol.size or self.model.image_size)
        return shown_pixels(self.model, pixels, self.options)

    def embed_words(self, words: Sequence[str], templates: Sequence[str]) -> Tensor:
        """(C, D) of unit length."""
        return inference.embed_classes(self.model, words, templates)

    def read(self, shown: Sequence[NDArray[np.uint8]]) -> Features:
        """Pictures of one size as a batch; nothing is computed before it is asked for."""
        stacked = torch.from_numpy(np.stack(shown)).permute(0, 3, 1, 2)
        return Features(self, stacked.to(self.scale.device))

    def embed_patches(self, images_B3HW: Tensor) -> Tensor:
        """(B, h, w, D): unit vectors, or means of such where windows overlap."""
        return embed_patches(self._encoder, images_B3HW, self.model.patch_size, self.options, self.name)

    def embed_images(self, images_B3HW: Tensor) -> Tensor:
        """(B, D) of unit length."""
        with inference.evaluation(self.model):
            return F.normalize(self.model.encode_image(images_B3HW).float(), dim=-1)

    def read_head_masks(self, images_B3HW: Tensor) -> Tensor:
        """(B, A, h, w) bool: the patches that hold most of each head's attention."""
        assert isinstance(self.model, CLIPpy)  # as was made sure at the start
        with inference.evaluation(self.model):
            return attention_masks(class_attention(self.model, images_B3HW))

    def read_keys(self, images_B3HW: Tensor) -> Tensor:
        """(B, N, D'): keys of the last attention layer."""
        with inference.evaluation(self.model):
            return read_keys(self.model, images_B3HW)


class Features:
    """What a model makes of a batch; each kind is computed once, when first asked for."""

    def __init__(self, reader: Reader, images_B3HW: Tensor) -> None:
        self._reader, self.images_B3HW = reader, images_B3HW

    @cached_property
    def patches_BhwD(self) -> Tensor:
        """Patches of unit length, on their grid."""
        return self._reader.embed_patches(self.images_B3HW)

    @cached_property
    def pooled_BD(self) -> Tensor:
        """Whole pictures, of unit length."""
        return self._reader.embed_images(self.images_B3HW)

    @cached_property
    def keys_BND(self) -> Tensor:
        """Keys of the last attention layer."""
        return self._reader.read_keys(self.images_B3HW)

    @cached_property
    def head_masks_BAhw(self) -> Tensor:
        """Attention masks of the last layer's heads."""
        return self._reader.read_head_masks(self.images_B3HW)
