"""Other people's models: their own classes' numbers, through our read-outs; made here in their published layouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from clippy.baselines import GroupViT, HuggingFaceCLIP, OpenCLIP
from clippy.inference import classify, embed_classes, segment
from clippy.torchvision_cpu import ensure_torchvision

ensure_torchvision()
from tokenizers import Tokenizer, models, pre_tokenizers, processors  # noqa: E402
from transformers import (  # noqa: E402
    CLIPConfig,
    CLIPModel,
    GroupViTConfig,
    GroupViTModel,
    PreTrainedTokenizerFast,
)

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 64,
    "max_position_embeddings": 20,
    "eos_token_id": 63,
    "bos_token_id": 62,
    "pad_token_id": 63,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}


def save_tokenizer(folder: Path) -> None:
    words = {word: i for i, word in enumerate(["a", "photo", "of", "dog", "cat", "grass", "x"])} | {
        "<s>": 62,
        "</s>": 63,
    }
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="x"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 62), ("</s>", 63)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="</s>", eos_token="</s>", bos_token="<s>", model_max_length=20
    )
    fast.save_pretrained(folder)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=24)).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def groupvit_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("groupvit")
    torch.manual_seed(0)
    vision = VISION | {"depths": [1, 1, 1], "num_group_tokens": [8, 4, 0], "num_output_groups": [8, 4, 0]}
    vision["num_hidden_layers"] = 3
    config = GroupViTConfig(text_config=TEXT, vision_config=vision, projection_dim=24, projection_intermediate_dim=32)
    GroupViTModel(config).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def open_clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What open_clip pushes to the hub: a configuration and weights, without transformers' files."""
    import open_clip
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("open_clip")
    torch.manual_seed(0)
    vision = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    sizes = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}
    prepared = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": sizes, "preprocess_cfg": prepared}))
    save_file(open_clip.CLIP(**sizes).state_dict(), folder / "open_clip_model.safetensors")
    return folder


def pixels(height: int = 32, width: int = 32) -> torch.Tensor:
    return torch.randint(256, (2, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def prepared(model: Any, images: torch.Tensor) -> torch.Tensor:
    return (images / 255 - model.mean / 255) / (model.std / 255)


@torch.no_grad()
def test_clip_gives_its_own_embeddings_and_reads_patches_as_its_class_token(clip_folder: Path) -> None:
    ours, theirs = HuggingFaceCLIP(str(clip_folder)), CLIPModel.from_pretrained(clip_folder).eval()
    images = pixels()
    expected = theirs(pixel_values=prepared(ours, images), input_ids=torch.tensor([[62, 0, 1, 63]]), return_dict=True)
    torch.testing.assert_close(F.normalize(ours.encode_image(images), dim=-1), expected.image_embeds)
    torch.testing.assert_close(F.normalize(ours.encode_captions(["a photo"]), dim=-1), expected.text_embeds)
    assert ours.logit_scale.item() == pytest.approx(theirs.logit_scale.exp().item())
    patches, grid = ours.encode_patches(images)
    tokens = expected.vision_model_output.last_hidden_state
    norm = dict(theirs.named_modules())[next(n for n, _ in theirs.named_modules() if n.endswith("post_layernorm"))]
    torch.testing.assert_close(patches, theirs.visual_projection(norm(tokens[:, 1:])))
    assert grid == (4, 4)
    assert ours.encode_patches(pixels(32, 48))[1] == (4, 6)


@torch.no_grad()
def test_groupvit_segments_as_its_own_scores_do(groupvit_folder: Path) -> None:
    ours, theirs = GroupViT(str(groupvit_folder)), GroupViTModel.from_pretrained(groupvit_folder).eval()
    images, names = pixels(), ["dog", "cat", "grass"]
    ids = torch.tensor([[62, 3, 63], [62, 4, 63], [62, 5, 63]])
    expected = theirs(pixel_values=prepared(ours, images), input_ids=ids, output_segmentation=True, return_dict=True)
    texts = embed_classes(ours, names, ["{}"])
    torch.testing.assert_close(classify(ours, images, texts) * ours.logit_scale, expected.logits_per_image)
    patches, grid = ours.encode_patches(images)
    own_grid = F.interpolate(expected.segmentation_logits, size=grid, mode="area")
    scores = (patches @ texts.T).mT.unflatten(-1, grid)
    top = own_grid.topk(2, dim=1).values
    clear = top[:, 0] - top[:, 1] > 1e-4 * own_grid.abs().amax()
    assert clear.any()
    assert torch.equal(scores.argmax(dim=1)[clear], own_grid.argmax(dim=1)[clear])
    assert segment(ours, images, texts, (50, 70)).shape == (2, 50, 70)


@torch.no_grad()
def test_groupvit_resamples_its_positions_to_other_sizes(groupvit_folder: Path) -> None:
    ours, theirs = GroupViT(str(groupvit_folder)), GroupViTModel.from_pretrained(groupvit_folder).eval()
    embeddings, images = theirs.vision_model.embeddings, pixels(48, 64)
    wanted = embeddings(prepared(ours, images), interpolate_pos_encoding=True)
    torch.testing.assert_close(ours.model.vision_model.embeddings(prepared(ours, images)), wanted)
    patches, grid = ours.encode_patches(images)
    assert (patches.shape, grid) == ((2, 48, 24), (6, 8))


def test_a_model_of_another_kind_or_with_a_key_missing_is_refused(clip_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a model of type 'groupvit', found 'clip'"):
        GroupViT(str(clip_folder))
    from safetensors.torch import load_file, save_file

    for file in clip_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["visual_projection.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"not of this architecture.*visual_projection\.weight"):
        HuggingFaceCLIP(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"})[:-1])
    with pytest.raises(ValueError, match="Expecting"):
        HuggingFaceCLIP(str(tmp_path))


@torch.no_grad()
def test_open_clip_gives_its_own_embeddings_and_reads_patches_as_its_class_token() -> None:
    torch.manual_seed(0)
    ours = OpenCLIP("ViT-B-32")  # open_clip downloads weights only where some are named
    images = pixels(224, 224)
    torch.testing.assert_close(ours.encode_image(images), ours.model.encode_image(prepared(ours, images)))
    assert ours.encode_captions(["a dog"]).shape == (1, 512)
    patches, grid = ours.encode_patches(images)
    visual = ours.model.visual
    visual.output_tokens = True  # then it gives, beside its pooled output, the normed tokens that it came from
    _, tokens = visual(prepared(ours, images))
    torch.testing.assert_close(patches, tokens @ visual.proj)
    assert grid == (7, 7)
    with pytest.raises(ValueError, match="open_clip cannot load"):
        OpenCLIP("ViT-B-32", "no-such-file")


@torch.no_grad()
def test_open_clip_of_a_folder_resamples_its_positions_as_open_clip_does(open_clip_folder: Path) -> None:
    import open_clip

    name = f"local-dir:{open_clip_folder}"
    ours = OpenCLIP(name)
    assert (ours.image_size, ours.patch_size) == (32, 8)
    assert ours.mean.flatten().tolist() == [127.5] * 3
    larger = open_clip.create_model(name, force_image_size=(48, 64)).eval()
    images = pixels(48, 64)
    torch.testing.assert_close(ours.encode_image(images), larger.encode_image(prepared(ours, images)))
    larger.visual.output_tokens = True
    patches, grid = ours.encode_patches(images)
    torch.testing.assert_close(patches, larger.visual(prepared(ours, images))[1] @ larger.visual.proj)
    assert grid == (6, 8)
    torch.testing.assert_close(ours.encode_captions(["a dog"]), larger.encode_text(open_clip.tokenize(["a dog"])))


def test_open_clip_folders_that_do_not_load(open_clip_folder: Path, tmp_path: Path) -> None:
    config = (open_clip_folder / "open_clip_config.json").read_text()
    (tmp_path / "open_clip_config.json").write_text(config)
    with pytest.raises(ValueError, match=r"open_clip cannot load 'local-dir:.*"):
        OpenCLIP(f"local-dir:{tmp_path}")  # has no weights
    weights = (open_clip_folder / "open_clip_model.safetensors").read_bytes()
    (tmp_path / "open_clip_model.safetensors").write_bytes(weights)
    (tmp_path / "open_clip_config.json").write_text(config.replace('"embed_dim": 24', '"embed_dim": 16'))
    with pytest.raises(ValueError, match=r"open_clip cannot load 'local-dir:.*"):
        OpenCLIP(f"local-dir:{tmp_path}")
