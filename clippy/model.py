"""CLIPpy: an image tower, a text tower, one embedding space and a temperature.

Shapes: B batch, H W pixels, N patches, h w patch grid, T tokens, D width.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import nn

from clippy.architecture import ModelConfig
from clippy.pooling import build_pooling
from clippy.pretrained import Repository
from clippy.text import TextTower
from clippy.tokens import CaptionTokenizer
from clippy.vision import ImageTower

CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FILE = "config.json", "model.safetensors", "tokenizer.json"


class Embeddings(NamedTuple):
    """Unit vectors in float32, row i of both from pair i, and the inverse temperature."""

    image_BD: torch.Tensor
    text_BD: torch.Tensor
    logit_scale: torch.Tensor


class CLIPpy(nn.Module):
    """The model of arXiv 2210.09996 section 3, for any towers that ``ModelConfig`` can name.

    Raises ValueError naming the recipe field when a tower cannot be built as asked.
    """

    def __init__(self, config: ModelConfig, tokenizer: CaptionTokenizer) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.image = ImageTower(config.image, config.width)
        self.pooling = build_pooling(config.image.pooling, self.image.width, config.image.top_k)
        self.text = TextTower(config.text, tokenizer.vocabulary_size, tokenizer.pad_id, self.image.width)
        self.log_logit_scale = nn.Parameter(torch.tensor(math.log(config.logit_scale_init)))

    def forward(
        self, images_B3HW: torch.Tensor, ids_BT: torch.Tensor, lengths: Sequence[int] | None = None
    ) -> Embeddings:
        """Normalised embeddings of uint8 images and token ids; the towers run in autocast where it is on.

        ``lengths``: of each caption without its padding, if known, as ``TextTower`` takes them.
        """
        image_BD, text_BD = self.encode_image(images_B3HW), self.text(ids_BT, lengths)
        return Embeddings(F.normalize(image_BD.float(), dim=-1), F.normalize(text_BD.float(), dim=-1), self.logit_scale)

    @property
    def logit_scale(self) -> torch.Tensor:
        """The inverse temperature, a float32 scalar."""
        return self.log_logit_scale.float().exp()

    @property
    def image_size(self) -> int:
        """Height and width of the square that it was trained on, in pixels."""
        return self.config.image.image_size

    @property
    def patch_size(self) -> int:
        """Height and width of a patch, in pixels."""
        return self.image.patch_size

    @property
    def takes_one_size(self) -> bool:
        """Whether the tower, such as a Swin, refuses any size but its own."""
        return bool(getattr(getattr(self.image.trunk, "patch_embed", None), "strict_img_size", False))

    def encode_image(self, images_B3HW: torch.Tensor) -> torch.Tensor:
        """(B, D): pooled image embeddings, not normalised."""
        tokens = self.image(images_B3HW)
        return self.pooling(tokens.patches_BND, tokens.class_BD)

    def encode_patches(self, images_B3HW: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
        """(B, N, D) patch embeddings, not normalised, and their grid (h, w); call in evaluation mode."""
        tokens = self.image(images_B3HW)
        if tokens.grid is None:
            raise RuntimeError("patches were dropped; call model.eval() before reading them out")
        return tokens.patches_BND, tokens.grid

    def encode_captions(self, captions: Sequence[str]) -> torch.Tensor:
        """(B, D): text embeddings of plain strings, not normalised."""
        ids = torch.from_numpy(self.tokenizer(captions))
        lengths = (ids != self.tokenizer.pad_id).sum(dim=1).tolist()
        return self.text(ids.to(self.log_logit_scale.device), lengths)

    def checkpoint_activations(self) -> None:
        """In training keep each block's input alone and run it again for its gradient, in both towers.

        Raises ValueError where timm's model cannot.
        """
        try:
            self.image.trunk.set_grad_checkpointing(True)
        except AssertionError:
            raise ValueError(
                f"train.activation_checkpointing: {self.config.image.name} cannot run its blocks again; leave it out"
            ) from None
        self.text.encoder.activation_checkpointing_enable({"use_reentrant": False})

    @torch.no_grad()
    def clamp_logit_scale(self) -> None:
        """Keep the inverse temperature within [1, logit_scale_max], as CLIP does after each step."""
        self.log_logit_scale.clamp_(0, math.log(self.config.logit_scale_max))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json``, ``tokenizer.json`` and ``model.safetensors`` into ``folder``."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in self.description().items():
            (folder / name).write_text(text, encoding="utf-8")
        save_model(self, str(folder / WEIGHTS_FILE))

    def description(self) -> dict[str, str]:
        """The texts of ``config.json`` and ``tokenizer.json``, by file name."""
        config = {"model_type": "clippy", **self.config.model_dump(mode="json")}
        config["image"]["pretrained"] = False  # the weights lie beside it; nothing is to be downloaded again
        config["text"] |= {"pretrained": None, "arguments": self.text.arguments}
        return {CONFIG_FILE: json.dumps(config, indent=2) + "\n", TOKENIZER_FILE: self.tokenizer.to_json()}

    @classmethod
    def from_pretrained(cls, name: str | Path) -> Self:
        """Read a model that ``save_pretrained`` wrote; in evaluation mode, on the CPU. Nothing is unpickled.

        ``name``: a folder, a URL of object storage such as ``s3://bucket/model``, or a repository of the hub, which
        needs no network once it is cached. Raises ValueError naming the file that is missing, is no model of ours, or
        does not fit.
        """
        with model_files(str(name)) as files:
            config = read_config(files[CONFIG_FILE].read_text(encoding="utf-8"), str(files[CONFIG_FILE]))
            tokens = files[TOKENIZER_FILE].read_text(encoding="utf-8")
            model = cls(config, CaptionTokenizer.from_json(tokens, config.text.max_tokens))
            try:
                load_model(model, str(files[WEIGHTS_FILE]))
            except (RuntimeError, SafetensorError) as error:
                raise ValueError(f"{name}/{WEIGHTS_FILE}: does not fit its {CONFIG_FILE}: {error}") from None
        return model.eval()


@contextmanager
def model_files(name: str) -> Iterator[dict[str, Path]]:
    """Local paths of a model's three files, fetched from where ``name`` says, for as long as the block runs.

    Raises ValueError naming the place and the file that is missing.
    """
    wanted = (CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE)
    with tempfile.TemporaryDirectory(prefix="model-") as fetched:
        if "://" in name:
            import fsspec

            system, path = fsspec.core.url_to_fs(name)
            found = {file: Path(fetched) / file for file in wanted if system.exists(f"{path}/{file}")}
            for file, local in found.items():
                system.get_file(f"{path}/{file}", str(local))
        elif Path(name).is_dir() or name.startswith((".", "/", "~")) or name.count("/") != 1:
            folder = Path(name).expanduser()
            found = {file: folder / file for file in wanted if (folder / file).is_file()}
        else:
            repository = Repository(name, "from_pretrained")
            found = {file: path for file in wanted if (path := repository.find(file))}
        for file in wanted:
            if file not in found:
                raise ValueError(f"{name}: no CLIPpy model, {file} is missing")
        yield found


def read_config(text: str, name: str) -> ModelConfig:
    """The model that the text of a ``config.json`` describes. Raises ValueError, saying ``name``, if it is none."""
    try:
        values = json.loads(text)
        if values.pop("model_type", None) != "clippy":
            raise ValueError("its model_type is not 'clippy'")
        return ModelConfig.model_validate_json(json.dumps(values))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{name}: not the configuration of a CLIPpy model: {error}") from None
