"""Other people's weights: every published file layout loads whole, anything else fails by name, no code runs."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from clippy import CLIPpy
from clippy.architecture import ImageConfig, ModelConfig, TextConfig
from clippy.pretrained import load_exactly, read_tensors, unwrap
from clippy.text import TextTower
from clippy.tokens import build_tokenizer
from clippy.torchvision_cpu import ensure_torchvision
from clippy.vision import ImageTower

ensure_torchvision()
import timm  # noqa: E402
from transformers import T5Config, T5EncoderModel, T5ForConditionalGeneration  # noqa: E402

NAME = "vit_tiny_patch16_224"
ARGUMENTS = {"embed_dim": 32, "depth": 2, "num_heads": 2}
T5 = {"d_model": 24, "d_kv": 12, "num_heads": 2, "d_ff": 32, "num_layers": 1, "vocab_size": 300}


def make_trunk(num_classes: int = 0, **more: Any) -> Any:
    torch.manual_seed(3)
    pool = "token" if num_classes else ""
    return timm.create_model(NAME, num_classes=num_classes, global_pool=pool, img_size=32, **ARGUMENTS, **more).eval()


def tower(pretrained: str | bool, image_size: int = 32, **image: Any) -> ImageTower:
    torch.manual_seed(4)
    config = ImageConfig(name=NAME, image_size=image_size, pretrained=pretrained, arguments=ARGUMENTS, **image)
    return ImageTower(config).eval()


def as_timm_folder(folder: Path, tensors: dict[str, Tensor]) -> Path:
    (folder / "config.json").write_text(json.dumps({"architecture": NAME}))
    save_file(tensors, folder / "model.safetensors")
    return folder


def as_timm_bin(folder: Path, tensors: dict[str, Tensor]) -> Path:
    torch.save(tensors, folder / "pytorch_model.bin")
    return folder


def as_dino_backbone(folder: Path, tensors: dict[str, Tensor]) -> Path:
    torch.save(tensors, folder / "dino_vitbase16_pretrain.pth")
    return folder / "dino_vitbase16_pretrain.pth"


def as_dino_checkpoint(folder: Path, tensors: dict[str, Tensor]) -> Path:
    """DINO's own training file: student under DistributedDataParallel, teacher with its projection head."""
    teacher = {f"backbone.{k}": v for k, v in tensors.items()} | {"head.mlp.0.weight": torch.ones(4, 32)}
    student = {f"module.{k}": torch.zeros_like(v) for k, v in teacher.items()}
    torch.save({"student": student, "teacher": teacher, "epoch": 100, "args": None}, folder / "checkpoint.pth")
    return folder / "checkpoint.pth"


@pytest.mark.parametrize("write", [as_timm_folder, as_timm_bin, as_dino_backbone, as_dino_checkpoint])
def test_dino_in_each_published_layout(tmp_path: Path, write: Callable[[Path, dict[str, Tensor]], Path]) -> None:
    trunk = make_trunk()
    loaded = tower(str(write(tmp_path, trunk.state_dict()))).trunk
    for name, tensor in trunk.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_a_hub_name_reads_the_cache_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    snapshot = tmp_path / "models--somebody--dino" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--somebody--dino" / "refs").mkdir()
    (tmp_path / "models--somebody--dino" / "refs" / "main").write_text("0123")
    trunk = make_trunk()
    as_timm_folder(snapshot, trunk.state_dict())
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert torch.equal(tower("somebody/dino").trunk.pos_embed, trunk.pos_embed)
    with pytest.raises(ValueError, match=r"model\.image\.pretrained: 'somebody/else' is no folder here, and the hub"):
        tower("somebody/else")


def test_a_supervised_classifier_is_left_behind(tmp_path: Path) -> None:
    trunk = make_trunk(num_classes=7)
    loaded = tower(str(as_timm_folder(tmp_path, trunk.state_dict()))).trunk
    assert torch.equal(loaded.blocks[1].attn.qkv.weight, trunk.blocks[1].attn.qkv.weight)


def test_position_embeddings_at_twice_the_size_equal_timms_own(tmp_path: Path) -> None:
    trunk = make_trunk()
    as_timm_folder(tmp_path, trunk.state_dict())
    theirs = timm.create_model(
        NAME,
        pretrained=True,
        pretrained_cfg_overlay={"file": str(tmp_path / "model.safetensors"), "num_classes": 0},
        num_classes=0,
        global_pool="",
        img_size=64,
        **ARGUMENTS,
    )
    ours = tower(str(tmp_path), image_size=64).trunk
    assert ours.pos_embed.shape[1] == 17
    torch.testing.assert_close(ours.pos_embed, theirs.pos_embed)


def test_weights_of_another_architecture_are_named_and_nothing_is_loaded(tmp_path: Path) -> None:
    tensors = make_trunk().state_dict()
    tensors["surplus.weight"] = torch.ones(1)
    del tensors["blocks.1.mlp.fc1.bias"]
    tensors["norm.weight"] = torch.ones(5)
    folder = as_timm_folder(tmp_path, tensors)
    with pytest.raises(ValueError, match="not of this architecture") as caught:
        tower(str(folder))
    message = str(caught.value)
    assert "missing: blocks.1.mlp.fc1.bias" in message
    assert "left over: surplus.weight" in message
    assert "of another shape: norm.weight (5,) instead of (32,)" in message
    module = torch.nn.Linear(2, 2)
    before = module.weight.clone()
    with pytest.raises(ValueError, match="missing: bias"):
        load_exactly(module, {"weight": torch.zeros(2, 2)}, "file")
    assert torch.equal(module.weight, before)


def make_encoder() -> Any:
    torch.manual_seed(5)
    return T5EncoderModel(T5Config(**T5)).eval()


def as_sentence_t5(folder: Path, encoder: Any, width: int = 24, dense_file: str = "model.safetensors") -> Tensor:
    """The layout of sentence-transformers/sentence-t5-base; returns the dense layer's weight."""
    encoder.save_pretrained(folder)
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Dense": "Dense", "3_Normalize": "Normalize"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "2_Dense").mkdir()
    dense = {"linear.weight": torch.randn(width, 24)}
    if dense_file.endswith(".bin"):
        torch.save(dense, folder / "2_Dense" / dense_file)
    else:
        save_file(dense, folder / "2_Dense" / dense_file)
    return dense["linear.weight"]


def text(width: int = 24, **config: Any) -> TextTower:
    return TextTower(TextConfig(tokenizer="bytes", **config), 260, 0, width).eval()


@pytest.mark.parametrize("dense_file", ["model.safetensors", "pytorch_model.bin"])
def test_sentence_t5_with_its_dense_layer_equals_its_parts(tmp_path: Path, dense_file: str) -> None:
    encoder = make_encoder()
    dense = as_sentence_t5(tmp_path, encoder, dense_file=dense_file)
    tower = text(pretrained=str(tmp_path), dense=True)
    ids = torch.tensor([[5, 6, 7, 1], [9, 1, 0, 0]])
    alone = [encoder(input_ids=row[row != 0][None]).last_hidden_state.mean(dim=1) for row in ids]
    torch.testing.assert_close(tower(ids), torch.cat(alone) @ dense.T, rtol=1e-5, atol=1e-5)


def test_plain_t5_loads_its_encoder_alone(tmp_path: Path) -> None:
    torch.manual_seed(6)
    whole = T5ForConditionalGeneration(T5Config(**T5, decoder_start_token_id=0))
    whole.save_pretrained(tmp_path)
    loaded = text(pretrained=str(tmp_path), dense=True)
    for name, tensor in whole.encoder.state_dict().items():
        assert torch.equal(loaded.encoder.encoder.state_dict()[name], tensor), name
    assert loaded.projection.weight.shape == (24, 24)


def test_max_pooling_of_text_leaves_padding_out() -> None:
    tower = text(arguments=T5, pooling="max")
    alone, padded = tower(torch.tensor([[5, 6, 1]])), tower(torch.tensor([[5, 6, 1, 0, 0]]))
    torch.testing.assert_close(alone, padded)


def test_what_is_no_t5_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no config\.json"):
        text(pretrained=str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="is of type 'bert'"):
        text(pretrained=str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5", **T5}))
    with pytest.raises(ValueError, match=r"has no weights; expected one of model\.safetensors"):
        text(pretrained=str(tmp_path))


class Attack:
    """Would make a folder if anybody unpickled it."""

    def __init__(self, made: str) -> None:
        self._made = made

    def __reduce__(self) -> Any:
        return os.mkdir, (self._made,)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    made = tmp_path / "made"
    torch.save({"state_dict": {"a": torch.ones(1)}, "x": Attack(str(made))}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match=r"evil\.pt: holds more than tensors"):
        read_tensors(tmp_path / "evil.pt")
    (tmp_path / "evil.bin").write_bytes(pickle.dumps(Attack(str(made))))
    with pytest.raises(ValueError, match=r"evil\.bin"):
        read_tensors(tmp_path / "evil.bin")
    assert not made.exists()


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"PK\x03\x04 cut off"])
def test_damaged_files_are_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
        read_tensors(tmp_path / name)


def test_unwrapping_goes_through_every_layer() -> None:
    weights = {"a.weight": torch.ones(2), "b.bias": torch.zeros(1)}
    wrapped = {"epoch": 3, "state_dict": {f"module._orig_mod.{k}": v for k, v in weights.items()}, "optimizer": {}}
    assert unwrap(wrapped).keys() == weights.keys()
    assert unwrap({"model": wrapped}).keys() == weights.keys()
    assert unwrap({"module.a": torch.ones(1), "b": torch.ones(1)}).keys() == {"module.a", "b"}
    for nothing in ({}, {"epoch": 3}, [1], None):
        with pytest.raises(ValueError, match="no tensors"):
            unwrap(nothing)


def test_frozen_towers_get_no_gradient_and_drop_nothing(tmp_path: Path) -> None:
    config = ModelConfig(
        image=ImageConfig(name=NAME, image_size=32, frozen=True, patch_dropout=0.5, arguments=ARGUMENTS),
        text=TextConfig(tokenizer="bytes", frozen=True, arguments={**T5, "dropout_rate": 0.5}),
    )
    model = CLIPpy(config, build_tokenizer(config.text)).train()
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        "log_logit_scale",
        "text.projection.weight",
    }
    pixels = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    assert model.image(pixels).patches_BND.shape[1] == 4
    ids = torch.tensor([[5, 6, 1]])
    assert torch.equal(model.text(ids), model.text(ids))
