"""``clippy segment`` and ``group`` with other read-outs and other people's models, and every mistake in that."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clippy import pictures
from clippy.load import load_model
from clippy.readout import GroupOptions, SegmentOptions
from cluster.cli import main
from tests.clippy.test_baselines import clip_folder, groupvit_folder, open_clip_folder
from tests.clippy.test_model import build, config
from tests.cluster.test_use import Run, model, photos, run

__all__ = ["clip_folder", "groupvit_folder", "model", "open_clip_folder", "photos", "run"]
LABELS = ["dax", "wug", "sand"]


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (["--background-threshold", "0.34"], SegmentOptions(background_threshold=0.34)),
        (["--refine", "--size", "48"], SegmentOptions(refine=True, size=48)),
        (["--window", "16", "--stride", "8"], SegmentOptions(window=16, stride=8)),
        (["--readout", "maskclip", "--key-smoothing", "1"], SegmentOptions(readout="maskclip", key_smoothing=1.0)),
        (["--prompt-denoising", "0.34"], SegmentOptions(prompt_denoising=0.34)),
    ],
)
def test_segment_follows_its_options(
    run: Run, model: Path, photos: Path, arguments: list[str], options: SegmentOptions
) -> None:
    result = run("segment", model, "photos/b.jpg", "--labels", ",".join(LABELS), "--out", "o", *arguments)
    wanted = pictures.segment_picture(load_model(model), "photos/b.jpg", LABELS, options=options)
    assert np.array_equal(np.asarray(Image.open("o/b-mask.png")), wanted.ids)
    assert {name: result[name] for name in options.__dict__} == options.__dict__


def test_group_follows_its_options(run: Run, model: Path, photos: Path) -> None:
    result = run("group", model, "photos/b.jpg", "--readout", "attention")
    wanted = pictures.group_picture(load_model(model), "photos/b.jpg", GroupOptions(readout="attention"))
    assert np.array_equal(np.asarray(Image.open("groups/b-mask.png")), wanted.ids)
    assert result["groups"] is None
    assert {share["name"] for share in result["images"][0]["shares"]} <= {"background", "head 1", "head 2"}
    run("group", model, "photos/b.jpg", "--groups", "4", "--window", "16", "--refine")
    wanted = pictures.group_picture(load_model(model), "photos/b.jpg", GroupOptions(groups=4, window=16, refine=True))
    assert np.array_equal(np.asarray(Image.open("groups/b-mask.png")), wanted.ids)


@pytest.mark.parametrize("kind", ["clip", "groupvit", "open_clip"])
def test_other_peoples_models(run: Run, photos: Path, kind: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(f"{kind}_folder")
    assert run("model", "info", folder)["kind"].startswith("GroupViT" if kind == "groupvit" else "CLIP")
    words = ["--labels", "dog,cat", "--templates", "{}"]
    (answer,) = run("classify", folder, "photos/a.png", *words)["images"]
    assert sum(label["probability"] for label in answer["labels"]) == pytest.approx(1, abs=1e-5)
    (answer,) = run("segment", folder, "photos/a.png", *words, "--out", "o")["images"]
    assert Image.open(answer["mask"]).size == (40, 70)
    run("group", folder, "photos/a.png")


def test_a_model_of_open_clip_on_object_storage(run: Run, photos: Path, open_clip_folder: Path, s3: str) -> None:
    from pipelines.storage import locate

    for file in open_clip_folder.iterdir():
        locate(f"s3://bucket/open_clip/{file.name}").write_bytes(file.read_bytes())
    locate("s3://bucket/open_clip/onnx/model.onnx").write_bytes(b"what else a repository may hold")
    words = ["photos/a.png", "--labels", "dog,cat", "--templates", "{}"]
    remote = run("classify", "s3://bucket/open_clip", *words)
    assert remote["model"] == "s3://bucket/open_clip"
    assert remote["images"] == run("classify", open_clip_folder, *words)["images"]


ONE = ["photos/a.png"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["segment", "{model}", *ONE, "--background-threshold", "2"],
            "--background-threshold: must be between 0 and 1",
        ),
        (["segment", "{model}", *ONE, "--stride", "8"], "--stride: is the way between windows (got 8); add --window"),
        (
            ["segment", "{model}", *ONE, "--window", "12"],
            "--window: must be whole patches of 8 pixels (got 12); use 16",
        ),
        (["segment", "{model}", *ONE, "--window", "40"], "--window: 40 pixels are more than the short side that the"),
        (["segment", "{model}", *ONE, "--key-smoothing", "1"], "--key-smoothing: needs the keys that MaskCLIP reads"),
        (
            ["segment", "{cnn}", *ONE, "--readout", "maskclip"],
            "--readout maskclip: CLIPpy: its image tower is no Vision",
        ),
        (
            ["group", "{cnn}", *ONE, "--readout", "attention"],
            "--readout attention: CLIPpy: its image tower is no Vision",
        ),
        (
            ["group", "{clip}", *ONE, "--readout", "attention"],
            "--readout attention: HuggingFaceCLIP: the attention of its",
        ),
        (["group", "{model}", *ONE, "--readout", "attention", "--groups", "4"], "--groups: with --readout attention"),
        (["group", "{model}", *ONE, "--readout", "attention", "--refine"], "--refine: works on scores of patches"),
        (["group", "{other}", *ONE], "its config.json is of type 'siglip'; give a model"),
        (["group", "open_clip:ViT-B-32", *ONE], "the form is open_clip:ARCHITECTURE:WEIGHTS"),
        (["group", "open_clip:ViT-B-32:photos/notes.txt", *ONE], "open_clip cannot load 'ViT-B-32' with"),
        (["group", "open_clip:ViT-X:photos/notes.txt", *ONE], "open_clip cannot load 'ViT-X' with"),
        (["group", "nobody/nothing", *ONE], "MODEL: 'nobody/nothing' is no folder here, and the hub cannot be reached"),
        (["group", "photos/nothing", *ONE], "photos/nothing: neither a run, a checkpoint nor a model folder"),
    ],
)
def test_mistakes_are_one_sentence(
    model: Path,
    clip_folder: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    sentence: str,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    places = {"{model}": str(model), "{clip}": str(clip_folder), "{cnn}": "cnn", "{other}": "other"}
    if "{cnn}" in arguments:
        build(config("resnet18", pooling="mean")).save_pretrained(tmp_path / "cnn")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text(json.dumps({"model_type": "siglip"}))
    words = ["--labels", "dax,wug"] if arguments[0] == "segment" else []
    assert main([*(places.get(argument, argument) for argument in arguments), *words]) == 2
    printed = capsys.readouterr()
    assert sentence in printed.err
    assert printed.err.count("clippy: ") == 1
    assert "Traceback" not in printed.err
    assert printed.out == ""
