"""Any model by what its folder says of itself, used on pictures and described."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from clippy import CLIPpy
from clippy.baselines import GroupViT, HuggingFaceCLIP, OpenCLIP
from clippy.describe import describe
from clippy.load import load_model, model_kind
from clippy.pictures import classify_picture, embed_words, group_picture, segment_picture
from clippy.readout import SegmentOptions
from tests.clippy.test_baselines import clip_folder, groupvit_folder, open_clip_folder
from tests.clippy.test_model import build, config
from tests.clippy.test_pictures import assert_best, noise, slow_scores

__all__ = ["clip_folder", "groupvit_folder", "open_clip_folder"]
WORDS = ["dog", "cat", "grass"]
KINDS = {"clip": HuggingFaceCLIP, "groupvit": GroupViT, "open_clip": OpenCLIP}


@pytest.fixture(params=KINDS)
def baseline(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(f"{request.param}_folder")


def test_the_folder_says_what_it_is(baseline: Path, tmp_path: Path) -> None:
    kind = model_kind(str(baseline))
    assert type(load_model(baseline)) is KINDS[kind]
    build(config()).save_pretrained(tmp_path)
    assert model_kind(str(tmp_path)) == "clippy"
    assert type(load_model(tmp_path)) is CLIPpy


def test_baselines_read_pictures_as_ours_do(baseline: Path) -> None:
    model, picture = load_model(baseline), noise(60, 90)
    words = embed_words(model, WORDS, templates=["{}"])
    found = segment_picture(model, picture, words)
    assert_best(torch.tensor(found.ids) - 1, slow_scores(model, picture, (32, 48), words.embeddings_CD))
    windows = SegmentOptions(size=64, window=32, background_threshold=0.34, refine=True)
    assert segment_picture(model, picture, words, options=windows).ids.shape == (60, 90)
    assert group_picture(model, picture).ids.shape == (60, 90)
    guesses = classify_picture(model, picture, words)
    assert sum(guess.probability for guess in guesses) == pytest.approx(1, abs=1e-5)
    if not isinstance(model, GroupViT):
        segment_picture(model, picture, words, options=SegmentOptions(readout="maskclip", key_smoothing=1.0))
    else:
        with pytest.raises(ValueError, match="readout maskclip: GroupViT: its image tower is no Vision Transformer"):
            segment_picture(model, picture, words, options=SegmentOptions(readout="maskclip"))


def test_baselines_are_described(baseline: Path) -> None:
    model = load_model(baseline)
    facts = describe(model)
    assert facts["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert facts["image parameters"] + facts["text parameters"] + 1 == facts["parameters"]
    assert (facts["image size"], facts["patch size"], facts["embedding width"]) == (32, 8, 24)
    assert facts["image tower"].endswith("of width 32")
    layers = {"clip": 2, "groupvit": 3, "open_clip": 2}[model_kind(str(baseline))]
    assert f"{layers} layers" in facts["image tower"]
    assert json.loads(json.dumps(facts)) == facts


def test_open_clip_by_its_own_name_and_a_file_of_weights(tmp_path: Path) -> None:
    import open_clip

    torch.manual_seed(0)
    theirs = open_clip.create_model("ViT-B-32")
    torch.save(theirs.state_dict(), tmp_path / "epoch_1.pt")
    ours = load_model(f"open_clip:ViT-B-32:{tmp_path}/epoch_1.pt")
    assert torch.equal(ours.model.visual.proj, theirs.visual.proj)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (
            '{"model_type": "siglip"}',
            "its config.json is of type 'siglip'; give a model whose type is 'clippy', 'clip'",
        ),
        ("[]", "its config.json cannot be read"),
        ("{", "its config.json cannot be read"),
        (None, "it has no config.json; give a model whose type is"),
    ],
)
def test_folders_of_no_model(config: str | None, sentence: str, tmp_path: Path) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(ValueError, match="MODEL: ") as caught:
        load_model(tmp_path)
    assert sentence in str(caught.value)


@pytest.mark.parametrize("name", ["open_clip:", "open_clip:ViT-B-32", "open_clip:ViT-B-32:", "open_clip::file"])
def test_open_clip_names_have_two_parts(name: str) -> None:
    with pytest.raises(ValueError, match="the form is open_clip:ARCHITECTURE:WEIGHTS"):
        model_kind(name)
