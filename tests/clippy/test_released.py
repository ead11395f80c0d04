"""The published checkpoint's layout: in every wrapping, to the digit, and by name where it does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from clippy import CLIPpy
from clippy.architecture import TextConfig
from clippy.pretrained import read_tensors
from clippy.released import from_released, is_released_layout
from clippy.tokens import CaptionTokenizer, build_tokenizer
from clippy.torchvision_cpu import ensure_torchvision

ensure_torchvision()
import timm  # noqa: E402
from transformers import T5Config, T5EncoderModel  # noqa: E402

BASE = {"trunk": {}, "t5": {"d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_heads": 12}}
SMALL = {
    "trunk": {"embed_dim": 128, "depth": 2, "num_heads": 2, "img_size": 32},
    "t5": {"d_model": 128, "d_kv": 64, "d_ff": 64, "num_layers": 2, "num_heads": 2, "vocab_size": 300},
}


class Parts:
    """timm's and transformers' own modules, as the public code put them together, and their state under its names."""

    def __init__(self, sizes: dict[str, Any]) -> None:
        torch.manual_seed(0)
        self.trunk = timm.create_model("vit_base_patch16_224.dino", num_classes=0, global_pool="", **sizes["trunk"])
        self.encoder = T5EncoderModel(T5Config(**sizes["t5"]))
        self.dense = nn.Linear(sizes["t5"]["d_model"], self.trunk.num_features, bias=False)
        for module in (self.trunk, self.encoder):
            module.eval()

    def state(self, encoder: str = "text.0.auto_model.") -> dict[str, Tensor]:
        """As ``CustomTextCLIP.state_dict()`` of the public code names it."""
        return {
            **{f"visual.trunk.{name}": tensor for name, tensor in self.trunk.state_dict().items()},
            **{f"{encoder}{name}": tensor for name, tensor in self.encoder.state_dict().items()},
            "text.2.linear.weight": self.dense.weight.detach(),
            "logit_scale": torch.tensor(3.5),
        }

    @torch.no_grad()
    def patches(self, images: Tensor) -> Tensor:
        """All tokens after the last norm; OpenAI's mean and deviation."""
        mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)
        std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1)
        return self.trunk.forward_features((images / 255 - mean) / std)

    @torch.no_grad()
    def text(self, ids: Tensor) -> Tensor:
        """Each caption alone, so that no padding can count."""
        alone = [self.encoder(input_ids=row[row != 0][None]).last_hidden_state.mean(dim=1) for row in ids]
        return self.dense(torch.cat(alone))


def tokenizer() -> CaptionTokenizer:
    return build_tokenizer(TextConfig(tokenizer="bytes", max_tokens=77))


def assert_same(model: CLIPpy, parts: Parts, size: int) -> None:
    images = torch.randint(256, (2, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    ids = torch.from_numpy(model.tokenizer(["a photo of a dog", "x"]))
    tokens = parts.patches(images)
    with torch.no_grad():
        torch.testing.assert_close(model.encode_patches(images)[0], tokens[:, 1:], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(model.encode_image(images), tokens.amax(dim=1), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(model.text(ids), parts.text(ids), rtol=1e-5, atol=1e-5)
    assert model.logit_scale.item() == pytest.approx(torch.tensor(3.5).exp().item())


def test_all_252_tensors_of_the_full_size_load_to_the_digit() -> None:
    parts = Parts(BASE)
    state = parts.state()
    assert len(state) == 252
    model = from_released(state, tokenizer(), "clippy_5k.pt")
    assert sum(p.numel() for p in model.parameters()) == 196_017_025
    assert model.config.image.image_size == 224
    assert_same(model, parts, 224)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("wrapping", ["bare", "state_dict", "model"])
@pytest.mark.parametrize("encoder", ["text.0.auto_model.", "text.0.model."])
def test_every_wrapping_loads(tmp_path: Path, prefix: str, wrapping: str, encoder: str) -> None:
    parts = Parts(SMALL)
    state: Any = {prefix + name: tensor for name, tensor in parts.state(encoder).items()}
    if wrapping != "bare":
        state = {"epoch": 4, "name": "clippy-B-16", wrapping: state, "optimizer": {"param_groups": [{"lr": 5e-4}]}}
    torch.save(state, tmp_path / "clippy_5k.pt")
    tensors = read_tensors(tmp_path / "clippy_5k.pt")
    assert is_released_layout(tensors)
    assert_same(from_released(tensors, tokenizer(), "clippy_5k.pt"), parts, 32)


def test_safetensors_keep_one_of_the_tied_embeddings_and_load(tmp_path: Path) -> None:
    parts = Parts(SMALL)
    state = parts.state()
    del state["text.0.auto_model.encoder.embed_tokens.weight"]
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "clippy.safetensors")
    assert_same(from_released(read_tensors(tmp_path / "clippy.safetensors"), tokenizer(), "x"), parts, 32)


def test_missing_and_left_over_keys_are_named() -> None:
    state = Parts(SMALL).state()
    del state["visual.trunk.norm.bias"]
    state["visual.head.proj.weight"] = torch.ones(2, 2)
    with pytest.raises(ValueError, match=r"missing: image\.trunk\.norm\.bias; left over: visual\.head\.proj\.weight"):
        from_released(state, tokenizer(), "clippy_5k.pt")
    del state["text.0.auto_model.shared.weight"]
    with pytest.raises(ValueError, match=r"shared\.weight is missing"):
        from_released(state, tokenizer(), "clippy_5k.pt")


def test_saved_and_read_back_it_is_the_same_model(tmp_path: Path) -> None:
    parts = Parts(SMALL)
    from_released(parts.state(), tokenizer(), "x").save_pretrained(tmp_path / "model")
    again = CLIPpy.from_pretrained(tmp_path / "model")
    assert again.config.image.pooling == "max_with_cls"
    assert_same(again, parts, 32)
