"""A decoder trained on masks of colours over towers of random weights: it learns, resumes to the bit, is evaluated."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from clippy import inference
from clippy.decoder import DECODER_WEIGHTS_FILE, Decoder, DecoderConfig, model_checksum
from clippy.vocabulary import ClassList
from cluster.cli import main
from pipelines.console import Console
from pipelines.decoder import DecoderRequest, train_decoder
from pipelines.decoder_training import DecoderTraining, Words
from pipelines.evaluate import Request, evaluate
from pipelines.evaluation.benchmarks import open_parts
from pipelines.evaluation.dataset import Example
from pipelines.evaluation.protocol import Protocol
from pipelines.evaluation.question import Findings
from pipelines.evaluation.questions.segmentation import Segmentation
from pipelines.evaluation.reading import Reader
from pipelines.evaluation.units import Measurer, Task, Unit
from pipelines.mask_batches import MaskBatches, targets_of
from pipelines.storage import locate
from pipelines.targets import find_decoder, find_model
from tests.clippy.test_model import build, config
from tests.pipelines.evaluation import layouts
from tests.pipelines.evaluation.colour_model import ColourModel

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "grey": (128, 128, 128)}
NAMES = list(COLOURS)


def write_blocks(root: Path, seed: int, pictures: int, void_from: int = 4) -> Path:
    """Pictures of 2 x 2 blocks, each of a colour of its own class; classes from ``void_from`` on are void."""
    random = np.random.default_rng(seed)
    files = {}
    for i in range(pictures):
        mask = np.kron(random.integers(4, size=(2, 2)), np.ones((16, 16), dtype=np.int64))
        pixels = np.array(list(COLOURS.values()), dtype=np.uint8)[mask]
        files[f"{i}.jpg"] = (pixels, np.where(mask < void_from, mask, 255))
    return layouts.folder(root, files, NAMES)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    build(config()).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("blocks")
    sizes = {"train": 40, "val": 8}
    return {name: str(write_blocks(root / name, i, size)) for i, (name, size) in enumerate(sizes.items())}


def request(model: str, data: str, out: Path, **changes: Any) -> DecoderRequest:
    values: dict[str, Any] = {"steps": 40, "batch_size": 8, "learning_rate": 3e-3, **changes}
    return DecoderRequest(model, "folder", data, str(out), **values)


def segmentation_of(model: str, data: str, decoder: Path | str | None, protocol: Protocol | None = None) -> Findings:
    """As ``evaluate`` measures it, in this process."""
    found = find_decoder(str(decoder)) if decoder else None
    protocol = protocol or Protocol()
    seen = found.config.seen if found else None
    (part,) = open_parts("folder", locate(data), protocol, seen=seen)
    task = Task(find_model(model), protocol, (part,), batch_size=4, decoder=found)
    rows = Measurer(task).measure(Unit(0, 0, len(part.dataset)))
    return part.questions[0].sum_up(row["segmentation"] for row in rows)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / DECODER_WEIGHTS_FILE)


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_it_learns_what_the_frozen_read_out_does_not_know(model: str, blocks: dict[str, str], tmp_path: Path) -> None:
    summary = train_decoder(request(model, blocks["train"], tmp_path))
    assert (summary.seen, summary.unseen, summary.pictures) == (tuple(NAMES), (), 40)
    plain = segmentation_of(model, blocks["val"], None).first["model"]
    decoded = segmentation_of(model, blocks["val"], tmp_path).first["model"]
    assert plain["mIoU"] < 0.3
    assert decoded["mIoU"] > 0.75
    assert decoded.keys() == plain.keys()  # nothing is unseen, so nothing is told apart


def test_unseen_classes_are_void_in_training_and_told_apart_after(
    model: str, blocks: dict[str, str], tmp_path: Path
) -> None:
    summary = train_decoder(request(model, blocks["train"], tmp_path / "unseen", unseen=("grey",)))
    assert (summary.seen, summary.unseen) == (("red", "green", "blue"), ("grey",))
    found = segmentation_of(model, blocks["val"], tmp_path / "unseen")
    numbers, per_class = found.first["model"], found.per_class
    assert numbers["mIoU seen"] == pytest.approx(np.mean([per_class[name]["iou"] for name in NAMES[:3]]))
    assert numbers["mIoU unseen"] == per_class["grey"]["iou"]
    assert numbers["mIoU"] == pytest.approx((3 * numbers["mIoU seen"] + numbers["mIoU unseen"]) / 4)
    assert numbers["mIoU seen"] > 0.5
    # Masks that say nothing of grey pixels teach the same, to the bit.
    data = str(write_blocks(tmp_path / "void", 0, 40, void_from=3))
    few = {"steps": 3, "unseen": ("grey",)}
    train_decoder(request(model, blocks["train"], tmp_path / "a", **few))
    train_decoder(request(model, data, tmp_path / "b", **few))
    assert_equal(weights(tmp_path / "a"), weights(tmp_path / "b"))
    # So does naming those that are seen.
    train_decoder(request(model, data, tmp_path / "c", steps=3, seen=("blue", "red", "green")))
    assert_equal(weights(tmp_path / "a"), weights(tmp_path / "c"))


class Painted:
    """The blocks in memory, of colours that a model knows already."""

    def __len__(self) -> int:
        return 8

    def read(self, index: int) -> Example:
        mask = np.kron(np.random.default_rng(index).integers(4, size=(2, 2)), np.ones((4, 4), dtype=np.int32))
        pixels = np.array(list(COLOURS.values()), dtype=np.uint8)[mask]
        return Example(str(index), pixels, mask=mask.astype(np.int32))


def test_words_that_were_not_seen_keep_their_answers_and_the_model_its_weights(tmp_path: Path) -> None:
    model: Any = ColourModel(COLOURS, image_size=8)
    classes = ClassList("colours", "a test", tuple(NAMES), ("thing",) * 4)
    before = model_checksum(model)
    words = Words.embed(model, classes, [0, 1, 2], ("{}",))
    own = DecoderConfig(
        model="colours", checksum=before, width=5, patch_size=1, hidden_width=8, seen=("red", "green", "blue")
    )
    batches = MaskBatches(Painted(), targets_of(4, [0, 1, 2]), 8, 4, seed=0)
    training = DecoderTraining(own, model, words, batches, 5, 1e-3, 10, locate(str(tmp_path)))
    decoder = training.run(Console(io.StringIO()))
    assert decoder.leave.weight.any()  # something was learnt
    assert model_checksum(model) == before
    assert all(not parameter.requires_grad for parameter in model.parameters())
    answerer = Segmentation(classes, ("{}",), seen=own.seen).ask(Reader(model, Protocol(), decoder=decoder))
    for index in range(8):
        example = Painted().read(index)
        features = answerer._reader.read([example.pixels])
        np.testing.assert_array_equal(answerer.name_pixels(features, 0, example), example.mask)


def test_the_background_is_learnt_with_all_of_its_words() -> None:
    model: Any = ColourModel(COLOURS, image_size=8)
    classes = ClassList(
        "a", "a test", ("background", "red", "green"), ("background", "thing", "thing"), 0, ("grey", "blue")
    )
    words = Words.embed(model, classes, [0, 2], ("{}",))
    assert words.class_of_word_K.tolist() == [0, 1, 0, 0]
    expected = inference.embed_classes(model, ["background", "green", "grey", "blue"], ["{}"])
    assert torch.equal(words.embeddings_KD, expected)
    assert Words.embed(model, classes, [1, 2], ("{}",)).class_of_word_K.tolist() == [0, 1]


class Interrupting(Console):
    """Somebody presses Ctrl-C at the first line of progress."""

    def progress(self, text: str) -> None:
        raise KeyboardInterrupt


def test_resumed_equals_uninterrupted_to_the_bit(model: str, blocks: dict[str, str], tmp_path: Path) -> None:
    asked = request(model, blocks["train"], tmp_path / "resumed", steps=12, checkpoint_every=4)
    with pytest.raises(KeyboardInterrupt):
        train_decoder(asked, Interrupting())
    assert [path.name for path in (tmp_path / "resumed" / "checkpoints").iterdir()] == ["step-00000008"]
    with pytest.raises(ValueError, match=r"resumed: holds another training, whose seed is 0 and not 1; give --out"):
        train_decoder(request(model, blocks["train"], tmp_path / "resumed", steps=12, seed=1))
    said = io.StringIO()
    train_decoder(asked, Console(said))
    assert "going on after step 8" in said.getvalue()
    assert not (tmp_path / "resumed" / "checkpoints").exists()
    whole = request(model, blocks["train"], tmp_path / "whole", steps=12)
    train_decoder(whole)
    assert_equal(weights(tmp_path / "resumed"), weights(tmp_path / "whole"))
    # Once more finds it trained; with another rate it is another training.
    written = (tmp_path / "whole" / DECODER_WEIGHTS_FILE).stat().st_mtime_ns
    train_decoder(whole)
    assert (tmp_path / "whole" / DECODER_WEIGHTS_FILE).stat().st_mtime_ns == written
    with pytest.raises(ValueError, match=r"whose learning_rate is 0\.003 and not 0\.1"):
        train_decoder(request(model, blocks["train"], tmp_path / "whole", steps=12, learning_rate=0.1))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"size": 64, "window": 32, "stride": 16},
        {"background": "threshold", "background_threshold": 0.3, "relative_threshold": True, "top_classes": 2},
        {"prompt_denoising": 0.4},
        {"refine": True},
        {"grouping": "k-means", "groups": 3},
    ],
    ids=lambda fields: "-".join(fields) or "plain",
)
def test_an_untrained_decoder_changes_nothing_whatever_the_protocol(
    model: str, blocks: dict[str, str], tmp_path: Path, fields: dict[str, Any]
) -> None:
    fresh = build(config())
    own = DecoderConfig(
        model=model, checksum=model_checksum(fresh), width=24, patch_size=8, hidden_width=8, seen=tuple(NAMES)
    )
    Decoder(own).save_pretrained(tmp_path)
    protocol = Protocol(**fields)
    (part,) = open_parts("folder", locate(blocks["val"]), protocol)
    rows = [
        Measurer(Task(find_model(model), protocol, (part,), 4, decoder=decoder)).measure(Unit(0, 0, 4))
        for decoder in (None, find_decoder(str(tmp_path)))
    ]
    assert rows[0] == rows[1]


def test_maskclip_reads_other_patches_than_a_decoder_was_trained_on(model: str) -> None:
    fresh = build(config())
    decoder = Decoder(
        DecoderConfig(model=model, checksum=model_checksum(fresh), width=24, patch_size=8, hidden_width=8, seen=())
    )
    with pytest.raises(ValueError, match=r"protocol\.readout: a decoder was trained on the model's own patches"):
        Reader(fresh, Protocol(readout="maskclip"), decoder=decoder)


def test_mistakes_are_one_sentence(
    model: str, blocks: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for changes, message in (
        ({"unseen": ("gray",)}, "--unseen: folder has no class 'gray'; did you mean 'grey'?"),
        ({"seen": ("red",), "unseen": ("grey",)}, "--seen, --unseen: each says what the other leaves"),
        ({"seen": ("red",)}, r"at least two classes must be seen to be told apart \(got 1\)"),
        ({"size": 36}, r"--size: must be whole patches of 8 pixels \(got 36\); use 32"),
        ({"steps": 0}, r"--steps: must be at least 1 \(got 0\)"),
        ({"learning_rate": 1e30}, r"--learning-rate: 1e\+30 leads to no finite loss; lower it"),
        ({"learning_rate": 0.0}, r"--learning-rate: must be above 0 \(got 0\.0\)"),
    ):
        with pytest.raises(ValueError, match=message.replace("?", r"\?")):
            train_decoder(request(model, blocks["train"], tmp_path, **changes))
    train = ["decoder", "train", model, "--data", blocks["train"], "--out", str(tmp_path)]
    assert main([*train, "--benchmark", "waterbirds"]) == 2
    assert "--benchmark: 'waterbirds' has no masks to learn from; voc, " in capsys.readouterr().err
    assert main([*train, "--benchmark", "shapes"]) == 2
    assert "shapes has no split 'train'; it has multi, single" in capsys.readouterr().err
    assert main(["evaluate", model, "--decoder", str(tmp_path), "--benchmark", "folder", "--data", blocks["val"]]) == 2
    assert "no decoder, decoder.json is missing" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_train_and_evaluate(
    ray_cluster: None, s3: str, model: str, blocks: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "unseen.txt").write_text("grey\n")
    out, result = "s3://bucket/decoders/blocks", tmp_path / "result"
    train = ["decoder", "train", model, "--benchmark", "folder", "--data", blocks["train"], "--out", out, "--json"]
    steps = ["--steps", "2", "--batch-size", "2", "--checkpoint-every", "1"]
    assert main([*train, *steps, "--unseen", f"@{tmp_path}/unseen.txt"]) == 0
    assert json.loads(capsys.readouterr().out)["unseen"] == ["grey"]
    asked = Request(model, "folder", blocks["val"], decoder=out, out=str(result), workers=1)
    found = evaluate(asked, Console(io.StringIO()))
    assert found.method == "decoder"
    assert {"mIoU", "mIoU seen", "mIoU unseen"} <= found.tables["segmentation"]["model"].keys()
    assert (found.protocol["seen classes"], found.protocol["unseen classes"]) == ("red, green, blue", "grey")
    assert f"{out}, trained on masks: " in found.protocol["decoder"]
    assert "steps 2" in found.protocol["decoder"]
    expected = segmentation_of(model, blocks["val"], out).first["model"]
    assert found.tables["segmentation"]["model"] == expected
    with pytest.raises(ValueError, match="--decoder: is a method of its own; leave out --method k-means"):
        evaluate(Request(model, "folder", blocks["val"], decoder=out, out=str(result), method="k-means"))
