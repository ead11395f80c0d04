"""Towers, tokenizers, read-out and files of the model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clippy import CLIPpy
from clippy.architecture import ImageConfig, ModelConfig, TextConfig
from clippy.pooling import pool
from clippy.tokens import CaptionTokenizer, build_tokenizer

TEXT = {"d_model": 24, "d_kv": 12, "num_heads": 2, "d_ff": 32, "num_layers": 1}
CAPTIONS = ["a photo of a dax.", "here is a wug with grass.", "x"]


def config(name: str = "vit_tiny_patch16_224", **image: object) -> ModelConfig:
    if name.startswith("vit"):
        image = {"arguments": {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}, **image}
    return ModelConfig(
        image=ImageConfig(name=name, image_size=32, **image),  # type: ignore[arg-type]
        text=TextConfig(tokenizer="bytes", max_tokens=40, arguments=TEXT),
    )


def build(of: ModelConfig) -> CLIPpy:
    torch.manual_seed(0)
    return CLIPpy(of, build_tokenizer(of.text)).eval()


def images(batch: int = 3, size: int = 32) -> torch.Tensor:
    return torch.randint(256, (batch, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_forward_gives_unit_vectors_and_the_temperature() -> None:
    model = build(config())
    out = model(images(), torch.from_numpy(model.tokenizer(CAPTIONS)))
    assert out.image_BD.shape == out.text_BD.shape == (3, 24)
    torch.testing.assert_close(out.image_BD.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(out.text_BD.norm(dim=1), torch.ones(3))
    assert out.logit_scale.item() == pytest.approx(1 / 0.07)


def test_bytes_in_equal_pixels_normalised_by_hand() -> None:
    model = build(config(pooling="mean"))
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (model.config.image.mean, model.config.image.std))
    tokens = model.image.trunk.forward_features((images() / 255 - mean) / std)
    torch.testing.assert_close(model.encode_image(images()), tokens[:, 1:].mean(dim=1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pooling", ["max", "mean", "cls"])
def test_pooling_reads_the_tokens_it_names(pooling: str) -> None:
    model = build(config(pooling=pooling))
    patches, grid = model.encode_patches(images())
    assert grid == (4, 4)
    class_token = model.image.trunk.forward_features((images() - model.image.mean) / model.image.std)[:, 0]
    wanted = {"max": patches.max(dim=1).values, "mean": patches.mean(dim=1), "cls": class_token}[pooling]
    torch.testing.assert_close(model.encode_image(images()), wanted)


@settings(max_examples=20)
@given(st.permutations(range(6)))
def test_pooling_over_space_ignores_the_order_of_patches(order: list[int]) -> None:
    patches = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))
    for mode in ("max", "mean"):
        torch.testing.assert_close(pool(patches[:, order], None, mode), pool(patches, None, mode))  # type: ignore[arg-type]


def test_patches_are_dropped_in_training_alone() -> None:
    model = build(config(patch_dropout=0.5))
    assert model.encode_patches(images())[0].shape[1] == 16
    model.train()
    assert model.image(images()).patches_BND.shape[1] == 8
    with pytest.raises(RuntimeError, match=r"model\.eval"):
        model.encode_patches(images())


@pytest.mark.parametrize(("size", "grid"), [(32, (4, 4)), (64, (8, 8))])
def test_other_resolutions_interpolate_positions(size: int, grid: tuple[int, int]) -> None:
    assert build(config()).encode_patches(images(size=size))[1] == grid


def test_convolutional_tower_reads_out_its_map() -> None:
    model = build(config("resnet18", pooling="mean"))
    patches, grid = model.encode_patches(images(size=64))
    assert (patches.shape, grid) == ((3, 4, 512), (2, 2))
    torch.testing.assert_close(model.encode_image(images(size=64)), patches.mean(dim=1))
    assert model.encode_captions(["a"]).shape == (1, 512)  # projected to the image's width


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ({"name": "vit_tiny_patch16_225"}, "did you mean 'vit_tiny_patch16_224'"),
        ({"name": "resnet18", "pooling": "cls"}, "model.image.pooling"),
        ({"name": "resnet18", "patch_dropout": 0.5}, "model.image.patch_dropout"),
        ({"arguments": {"depht": 2}}, "depht"),
    ],
)
def test_a_tower_that_cannot_be_names_the_field(image: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(config(**image))  # type: ignore[arg-type]


def test_text_does_not_depend_on_padding() -> None:
    model = build(config())
    ids = torch.from_numpy(model.tokenizer(["a dax"], width=8))
    padded = torch.from_numpy(model.tokenizer(["a dax"], width=40))
    torch.testing.assert_close(model.text(ids), model.text(padded))


def test_saved_model_comes_back_to_the_bit(tmp_path: Path) -> None:
    model = build(config(pooling="mean"))
    model.save_pretrained(tmp_path / "model")
    loaded = CLIPpy.from_pretrained(tmp_path / "model")
    assert not loaded.training
    assert torch.equal(loaded.encode_image(images()), model.encode_image(images()))
    assert torch.equal(loaded.encode_captions(CAPTIONS), model.encode_captions(CAPTIONS))
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]


def test_t5_folder_starts_the_text_tower_and_is_not_needed_again(tmp_path: Path) -> None:
    from transformers import T5Config, T5EncoderModel

    encoder = T5EncoderModel(T5Config(vocab_size=300, **TEXT))
    encoder.save_pretrained(tmp_path / "t5")
    started = config().model_copy(update={"text": TextConfig(pretrained=str(tmp_path / "t5"), tokenizer="bytes")})
    model = build(started)
    assert torch.equal(model.text.encoder.shared.weight, encoder.shared.weight)
    model.save_pretrained(tmp_path / "model")
    for file in (tmp_path / "t5").iterdir():
        file.unlink()
    assert torch.equal(
        CLIPpy.from_pretrained(tmp_path / "model").encode_captions(CAPTIONS), model.encode_captions(CAPTIONS)
    )


def test_damaged_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config\.json is missing"):
        CLIPpy.from_pretrained(tmp_path)
    build(config()).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        CLIPpy.from_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | {"model_type": "bert"}))
    with pytest.raises(ValueError, match="model_type"):
        CLIPpy.from_pretrained(tmp_path)


def test_logit_scale_is_clamped() -> None:
    model = build(config())
    with torch.no_grad():
        model.log_logit_scale.fill_(50)
    model.clamp_logit_scale()
    assert model.logit_scale.item() == pytest.approx(100)


@given(st.lists(st.text(max_size=30), min_size=1, max_size=4))
def test_byte_tokens_hold_any_text(captions: list[str]) -> None:
    tokenizer = build_tokenizer(TextConfig(tokenizer="bytes", max_tokens=16))
    ids = tokenizer(captions, width=16)
    assert ids.shape == (len(captions), 16)
    for row in ids:
        real = row[row != tokenizer.pad_id]
        assert real[-1] == 1  # every caption ends with </s>, also one that was cut
        assert 2 not in real  # and nothing is unknown


def test_learned_vocabulary_is_reproducible_and_knows_words() -> None:
    of = TextConfig(tokenizer="vocabulary", vocabulary_size=320)
    captions = ["a photo of a dax and a wug", "here is a blick with grass"] * 10
    first, second = build_tokenizer(of, captions), build_tokenizer(of, captions)
    assert first.to_json() == second.to_json()
    again = CaptionTokenizer.from_json(first.to_json(), of.max_tokens)
    assert (again(captions) == first(captions)).all()
    assert first(["a dax"]).shape == (1, 3)  # two words and the end
    with pytest.raises(ValueError, match="learned from captions"):
        build_tokenizer(of)


def test_unknown_tokenizer_names_the_field() -> None:
    with pytest.raises(ValueError, match=r"model\.text\.tokenizer"):
        build_tokenizer(TextConfig(tokenizer="./no/such/folder"))


def test_a_model_comes_from_object_storage_and_from_the_hubs_cache(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs
    from huggingface_hub import constants

    model = build(config())
    model.save_pretrained(tmp_path / "model")
    s3fs.S3FileSystem(skip_instance_cache=True).put(str(tmp_path / "model"), "bucket/models/mine", recursive=True)
    snapshot = tmp_path / "hub" / "models--me--mine" / "snapshots" / "0123"
    snapshot.parent.mkdir(parents=True)
    (tmp_path / "model").rename(snapshot)
    (tmp_path / "hub" / "models--me--mine" / "refs").mkdir()
    (tmp_path / "hub" / "models--me--mine" / "refs" / "main").write_text("0123")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for name in ("s3://bucket/models/mine", "me/mine"):
        assert torch.equal(CLIPpy.from_pretrained(name).encode_image(images()), model.encode_image(images()))
    with pytest.raises(ValueError, match=r"s3://bucket/models/none: no CLIPpy model, config\.json is missing"):
        CLIPpy.from_pretrained("s3://bucket/models/none")
    with pytest.raises(ValueError, match="'me/none' is no folder here, and the hub cannot be reached"):
        CLIPpy.from_pretrained("me/none")


def test_checkpointed_activations_give_the_same_gradients() -> None:
    batch, gradients, runs = images(), [], []
    for checkpointed in (False, True):
        model = build(config(patch_dropout=0.5))
        for layer in (model.image.trunk.blocks[0].mlp, model.text.encoder.encoder.block[0].layer[1]):
            layer.register_forward_pre_hook(lambda module, *_: runs.append(module))
        if checkpointed:
            model.checkpoint_activations()
        torch.manual_seed(1)
        out = model.train()(batch, torch.from_numpy(model.tokenizer(CAPTIONS)))
        (out.image_BD @ out.text_BD.T).diagonal().sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert len(runs) == 2 + 4  # each layer once, then each twice
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again)
