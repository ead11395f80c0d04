"""Other people's models behind our read-outs: CLIP and GroupViT of transformers, and open_clip's CLIP.

Each takes uint8 pixels and captions as ours does, prepares them as its authors do, and answers with patch, image and
text embeddings of one space, so that every number is taken by the same code.

Shapes: B batch, H W pixels, N patches, h w patch grid, D width, G groups.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.func import functional_call

from clippy.pretrained import Repository
from clippy.released import OPENAI_MEAN, OPENAI_STD
from clippy.torchvision_cpu import ensure_torchvision


class _Baseline(nn.Module):
    """Normalises uint8 pixels with the mean and deviation of channels in [0, 1]."""

    mean: Tensor
    std: Tensor
    model: Any
    takes_one_size = False
    """Each resamples its position embeddings to the size of a picture."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], image_size: int, patch_size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1) * 255, persistent=False)
        self.image_size, self.patch_size = image_size, patch_size

    @property
    def logit_scale(self) -> Tensor:
        """The inverse temperature."""
        return self.model.logit_scale.exp()

    def _normalise(self, images: Tensor) -> Tensor:
        return (images.to(self.mean.dtype) - self.mean) / self.std

    def _grid(self, images: Tensor) -> tuple[int, int]:
        return images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size


class _HuggingFace(_Baseline):
    """Model, tokenizer and preparation from a folder or hub name, every key of the weights fitting."""

    def __init__(self, kind: Any, name: str, model_type: str) -> None:
        model, tokenizer, mean, std = _load(kind, name, model_type)
        vision = model.config.vision_config
        super().__init__(mean, std, vision.image_size, vision.patch_size)
        self.model, self._tokenizer = model, tokenizer

    def encode_captions(self, captions: list[str]) -> Tensor:
        """(B, D)."""
        inputs = self._tokenizer(list(captions), padding=True, truncation=True, return_tensors="pt")
        return self.model.get_text_features(**inputs.to(self.mean.device)).pooler_output


class HuggingFaceCLIP(_HuggingFace):
    """OpenAI's CLIP, or any of its architecture, from a folder or hub name.

    A patch's embedding is what the class token's would be in its place: last norm, then projection (the paper's
    read-out of CLIP). Raises ValueError for a name that does not load whole.
    """

    def __init__(self, name: str) -> None:
        ensure_torchvision()
        from transformers import CLIPModel

        super().__init__(CLIPModel, name, "clip")

    def encode_patches(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """(B, N, D) and (h, w)."""
        tokens = self._tokens(images)[:, 1:]
        return self.model.visual_projection(self._last_norm(tokens)), self._grid(images)

    def encode_image(self, images: Tensor) -> Tensor:
        """(B, D): the class token's embedding."""
        return self.model.visual_projection(self._last_norm(self._tokens(images)[:, 0]))

    def _tokens(self, images: Tensor) -> Tensor:
        outputs = self.model.vision_model(pixel_values=self._normalise(images), interpolate_pos_encoding=True)
        return outputs.last_hidden_state

    def _last_norm(self, tokens: Tensor) -> Tensor:
        vision = self.model.vision_model
        return getattr(vision, "vision_model", vision).post_layernorm(tokens)


class GroupViT(_HuggingFace):
    """GroupViT (arXiv 2202.11094) from a folder or hub name, as transformers has it.

    A patch's embedding is the mix of the groups' unit embeddings by its assignment to them: its cosines are then in the
    order of the model's own segmentation scores. Raises ValueError for a name that does not load whole.
    """

    def __init__(self, name: str) -> None:
        ensure_torchvision()
        from transformers import GroupViTModel

        super().__init__(GroupViTModel, name, "groupvit")
        # Its embeddings can be resampled to other sizes, as its authors' code does, but nothing above hands this on.
        self.model.vision_model.embeddings.register_forward_pre_hook(
            lambda _, arguments, keywords: (arguments, {**keywords, "interpolate_pos_encoding": True}), with_kwargs=True
        )

    def encode_patches(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """(B, N, D) and (h, w)."""
        outputs = self._vision(images)
        groups = outputs.last_hidden_state
        projected = self.model.visual_projection(groups.flatten(0, 1))  # its batch norm takes rows, not sequences
        groups_BGD = F.normalize(projected, dim=-1).unflatten(0, groups.shape[:2])
        assignment_BNG: Tensor | None = None
        for stage_BGN in outputs.attentions:  # of each grouping stage: groups by what was grouped
            stage = stage_BGN.transpose(1, 2)
            assignment_BNG = stage if assignment_BNG is None else assignment_BNG @ stage
        assert assignment_BNG is not None
        return assignment_BNG @ groups_BGD, self._grid(images)

    def encode_image(self, images: Tensor) -> Tensor:
        """(B, D)."""
        return self.model.visual_projection(self._vision(images).pooler_output)

    def _vision(self, images: Tensor) -> Any:
        return self.model.vision_model(pixel_values=self._normalise(images), output_attentions=True, return_dict=True)


class OpenCLIP(_Baseline):
    """A CLIP of open_clip's own Vision Transformer (needs ``open_clip_torch``), read out as ``HuggingFaceCLIP``.

    Named as open_clip does: ``("ViT-B-16", "file.safetensors")``, random without weights, or ``"local-dir:FOLDER"`` or
    ``"hf-hub:OWNER/NAME"``, which have to hold some. Raises ValueError where it does not load or its tower is another.
    """

    def __init__(self, name: str, pretrained: str | None = None) -> None:
        ensure_torchvision()
        try:
            import open_clip
        except ImportError:
            raise ValueError("open_clip is not installed; pip install open_clip_torch") from None
        source = f"{name!r} with {pretrained!r}" if pretrained else repr(name)
        try:
            model = open_clip.create_model(
                name, pretrained=pretrained, weights_only=True, require_pretrained=":" in name
            )
            tokenizer = open_clip.get_tokenizer(name)
        except pickle.UnpicklingError:
            raise ValueError(f"open_clip cannot load {source}: its weights hold more or other than tensors") from None
        except (RuntimeError, OSError, ValueError, TypeError, KeyError, EOFError, SafetensorError) as error:
            raise ValueError(
                f"open_clip cannot load {source}: {(str(error) or 'nothing in it').splitlines()[0]}"
            ) from None
        visual = model.visual
        if not isinstance(visual, open_clip.transformer.VisionTransformer) or visual.attn_pool is not None:
            raise ValueError(
                f"{name}: its image tower is not open_clip's plain Vision Transformer; name one that has it"
            )
        size, patch = visual.image_size, visual.patch_size
        super().__init__(visual.preprocess_cfg["mean"], visual.preprocess_cfg["std"], size[0], patch[0])
        self.model, self._tokenizer = model.eval(), tokenizer
        self._tokens = _OpenCLIPTokens(visual)

    def encode_patches(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """(B, N, D) and (h, w)."""
        arguments = ({"visual.positional_embedding": self._positions(images)}, (self._normalise(images),))
        return functional_call(self._tokens, *arguments) @ self.model.visual.proj, self._grid(images)

    def encode_image(self, images: Tensor) -> Tensor:
        """(B, D)."""
        positions = {"positional_embedding": self._positions(images)}
        return functional_call(self.model.visual, positions, (self._normalise(images),))

    def encode_captions(self, captions: list[str]) -> Tensor:
        """(B, D)."""
        return self.model.encode_text(self._tokenizer(list(captions)).to(self.mean.device))

    def _positions(self, images: Tensor) -> Tensor:
        return _resample(self.model.visual.positional_embedding, self.model.visual.grid_size, self._grid(images))


class _OpenCLIPTokens(nn.Module):
    """The normed patch tokens of open_clip's tower as a ``forward``, so that it can run with other positions."""

    def __init__(self, visual: Any) -> None:
        super().__init__()
        self.visual = visual

    def forward(self, pixels: Tensor) -> Tensor:
        found = self.visual.forward_intermediates(
            pixels, indices=1, normalize_intermediates=True, output_fmt="NLC", intermediates_only=True
        )
        return found["image_intermediates"][-1]


def _resample(positions_ND: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Position embeddings of a class token and a grid for another grid, bicubic as open_clip resizes them."""
    if old == new:
        return positions_ND
    grid_1Dhw = positions_ND[1:].T.unflatten(-1, old)[None]
    resized_1Dhw = F.interpolate(grid_1Dhw, new, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([positions_ND[:1], resized_1Dhw[0].flatten(1).T])


def _load(kind: Any, name: str, model_type: str) -> tuple[Any, Any, Sequence[float], Sequence[float]]:
    """Model in evaluation mode, tokenizer, mean and deviation. Raises ValueError unless every key fits."""
    from transformers import AutoTokenizer
    from transformers.utils import logging

    repository = Repository(name, "MODEL")
    config = repository.find("config.json")
    found = json.loads(config.read_text(encoding="utf-8")).get("model_type") if config else None
    if found != model_type:
        raise ValueError(f"{name}: expected a model of type {model_type!r}, found {found!r}")
    bars = logging.is_progress_bar_enabled()
    if Path(name).is_dir():
        logging.disable_progress_bar()  # of reading, which takes a moment; that of a download stays
    try:
        model, report = kind.from_pretrained(name, output_loading_info=True)
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name}: does not load ({str(error).splitlines()[0]})") from None
    finally:
        if bars:
            logging.enable_progress_bar()
    problems = {what: sorted(map(str, keys)) for what, keys in report.items() if keys and what.endswith("_keys")}
    if problems:
        raise ValueError(f"{name}: these weights are not of this architecture: {problems}")
    preparation = repository.find("preprocessor_config.json")
    values = json.loads(preparation.read_text(encoding="utf-8")) if preparation else {}
    return model.eval(), tokenizer, values.get("image_mean", OPENAI_MEAN), values.get("image_std", OPENAI_STD)
