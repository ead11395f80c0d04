"""The parts of the study of the paper's claims: its data, starting points and measures."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from shapes_cost import measure_steps
from shapes_data import (
    GROUNDS,
    DataFolder,
    TrainingSet,
    contents,
    patch_labels,
    read_test,
    read_training_images,
    shuffled,
    without_grounds,
)
from shapes_numbers import benchmark_numbers, fit_probe, read_out, segmented
from shapes_starts import WEIGHTS_FILE, Distillation, ProjectionHead, augment, distillation_loss, make_start, scramble

from clippy import inference
from clippy.architecture import ImageConfig, ModelConfig, TextConfig
from clippy.model import CLIPpy
from clippy.tokens import build_tokenizer
from clippy.vision import ImageTower
from pipelines.recipe import load_recipe
from pipelines.scenes import BIRDS, CLASSES, PLACES, scene
from pipelines.shapes import TEMPLATES, generate

IMAGE = ImageConfig(
    name="vit_tiny_patch16_224",
    image_size=64,
    arguments={"patch_size": 16, "embed_dim": 24, "depth": 1, "num_heads": 2},
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataFolder:
    return DataFolder(tmp_path_factory.mktemp("data"), rows=96, single_rows=8, multi_rows=8, camouflage_rows=8)


def captions(shards: Path) -> list[str]:
    return [
        text for path in sorted(shards.glob("[0-9]*.parquet")) for text in pq.read_table(path)["caption"].to_pylist()
    ]


def test_the_usual_training_set_is_the_generators_own(data: DataFolder, tmp_path: Path) -> None:
    generate(str(tmp_path), rows=96, workers=1, single_rows=8, multi_rows=8, camouflage_rows=8)
    usual = data.training(TrainingSet()).parent
    files = sorted(p.relative_to(usual) for p in usual.rglob("*") if p.is_file())
    assert len(files) > 6
    assert all((usual / file).read_bytes() == (tmp_path / file).read_bytes() for file in files)


def test_a_correlation_puts_birds_on_their_own_ground_and_captions_may_not_say_so(data: DataFolder) -> None:
    always = TrainingSet(correlation=1.0, ground_named=0.0)
    shards = data.training(always)
    birds = [CLASSES[bird]["name"] for bird in BIRDS]
    with_bird = [i for i, text in enumerate(captions(shards)) if any(name in text for name in birds)]
    assert len(with_bird) > 10
    assert not any(ground in captions(shards)[i] for i in with_bird for ground in GROUNDS)
    for index in with_bird:
        drawn = scene(0, "train", index, background_correlation=1.0)
        bird = next(BIRDS.index(thing) for thing in drawn.things if thing in BIRDS)
        assert drawn.background in PLACES[bird]
    assert not (shards.parent / "evaluation" / "multi").exists()  # tests are those of the usual set


def test_captions_are_changed_and_nothing_else(data: DataFolder) -> None:
    usual = data.training(TrainingSet())
    mixed = data.training(TrainingSet(captions="shuffled"))
    objects = data.training(TrainingSet(captions="objects"))
    assert sorted(captions(mixed)) == sorted(captions(usual))
    assert sum(a != b for a, b in zip(captions(mixed), captions(usual), strict=True)) > 60
    assert not any(ground in text for text in captions(objects) for ground in GROUNDS)
    assert torch.equal(read_training_images(objects), read_training_images(usual))
    theirs, mine = (pq.ParquetFile(next(iter(sorted(f.glob("*.parquet"))))) for f in (usual, objects))
    assert mine.metadata.num_row_groups == theirs.metadata.num_row_groups == 3
    assert not list(data.folder.glob(".*"))


def test_grounds_are_taken_out_of_captions() -> None:
    assert without_grounds(["a photo of a dax and a wug with snow.", "here is a fep."]) == [
        "a photo of a dax and a wug.",
        "here is a fep.",
    ]
    assert sorted(shuffled(list("abcdefg"))) == list("abcdefg") != shuffled(list("abcdefg"))


def test_labels_are_what_the_pictures_show() -> None:
    drawn = scene(0, "train", 3)
    assert contents(4)[3].nonzero().flatten().tolist() == sorted({*drawn.things, drawn.background})
    images, labels = patch_labels(4, image_size=64, patch=8)
    assert torch.equal(images[3], torch.from_numpy(drawn.image).permute(2, 0, 1))
    first = np.bincount(drawn.mask[:8, 8:16].flatten()).argmax()
    assert labels[3, 1] == first


def test_students_learn_from_other_views_alone() -> None:
    even = torch.zeros(1, 2)
    sure = torch.tensor([[1.0, 0.0]])
    # A teacher sure of the first prototype, students that waver: ln 2 each, whichever views are paired.
    found = distillation_loss((even, even, even), (sure, sure), torch.zeros(2), student=1.0, teacher=0.001)
    assert found == pytest.approx(math.log(2))
    # Only the student's first view is wrong, and it is compared with the second teacher's view alone: 1 pair of 4.
    wrong = torch.tensor([[0.0, 1.0]])
    found = distillation_loss((wrong, sure, sure), (sure, sure), torch.zeros(2), student=0.01, teacher=0.001)
    assert found == pytest.approx(100 / 4)
    # A centre equal to what the teacher says leaves it undecided.
    found = distillation_loss((sure, sure), (sure, sure), sure[0], student=1.0, teacher=1.0)
    assert found == pytest.approx(math.log(1 + math.e) - 0.5)


def test_views_are_crops_and_scrambling_moves_patches() -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (6, 3, 64, 64), dtype=torch.uint8)
    views = augment(images, 32, (0.05, 0.4), solarise=True)
    assert views.shape == (6, 3, 32, 32)
    assert views.min() >= 0
    assert views.max() <= 1
    even = torch.full((2, 3, 64, 64), 51, dtype=torch.uint8)
    assert torch.allclose(augment(even, 32, (0.4, 1.0), strong=False), torch.tensor(0.2))
    mixed = scramble(images, 16)
    patches = [F.unfold(i.float(), 16, stride=16).sum(dim=1).sort().values for i in (images, mixed)]
    assert torch.equal(*patches)
    assert not torch.equal(images, mixed)


def test_the_teacher_follows_the_student() -> None:
    torch.manual_seed(0)
    learn = Distillation(ImageTower(IMAGE), steps=4)
    before = {name: p.clone() for name, p in learn.tower.trunk.named_parameters()}
    images = torch.randint(0, 256, (8, 3, 64, 64), dtype=torch.uint8)
    losses = [learn.step(images, torch.empty(8, 0), progress) for progress in (0.1, 0.2)]
    assert all(0 < loss < 20 for loss in losses)
    student = dict(learn._student[0].trunk.named_parameters())
    for name, now in learn.tower.trunk.named_parameters():
        assert (now - before[name]).norm() <= (student[name] - before[name]).norm() + 1e-6
    assert any(not torch.equal(now, before[name]) for name, now in learn.tower.trunk.named_parameters())
    assert ProjectionHead(24, 7)(torch.randn(3, 24)).abs().max() <= 1 + 1e-6


@pytest.mark.parametrize("name", ["dino", "supervised", "dino-scrambled"])
def test_a_start_is_a_folder_of_weights_for_the_tower(name: str, tmp_path: Path) -> None:
    images = torch.randint(0, 256, (8, 3, 64, 64), dtype=torch.uint8)
    heard: list[int] = []

    def make() -> dict:
        report = lambda step, steps, loss: heard.append(step)  # noqa: E731
        return make_start(
            name, tmp_path / "start", IMAGE, images, torch.ones(8, 17), seed=0, steps=2, batch_size=4, report=report
        )

    facts, weights = make(), (tmp_path / "start" / WEIGHTS_FILE).read_bytes()
    assert (facts["steps"], heard) == (2, [1, 2])
    make()
    assert (tmp_path / "start" / WEIGHTS_FILE).read_bytes() == weights
    torch.manual_seed(0)
    random, started = (ImageTower(IMAGE.model_copy(update={"pretrained": p})) for p in (False, str(tmp_path / "start")))
    assert not torch.equal(random.trunk.blocks[0].attn.qkv.weight, started.trunk.blocks[0].attn.qkv.weight)


def test_a_probe_finds_what_features_hold_whatever_their_scale() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat(40)
    features = F.one_hot(labels, 5).float() + 0.1 * torch.randn(120, 5, generator=generator)
    features[:, 4] = 7.0  # says nothing
    for scale in (1.0, 1000.0):
        weights, bias = fit_probe(scale * features, labels, 3)
        assert ((scale * features) @ weights.T + bias).argmax(dim=1).equal(labels)
    again, _ = fit_probe(1000.0 * features, labels, 3)
    assert torch.equal(weights, again)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    arguments = {"d_model": 24, "d_kv": 12, "num_heads": 2, "d_ff": 32, "num_layers": 1}
    text = TextConfig(tokenizer="bytes", arguments=arguments)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    CLIPpy(ModelConfig(image=IMAGE, text=text), build_tokenizer(text)).save_pretrained(folder)
    return folder


def test_our_read_out_is_the_benchmarks(data: DataFolder, checkpoint: Path) -> None:
    """The read-outs that are compared with the model's own count pixels as ``clippy evaluate`` does."""
    benchmark = data.evaluation(64)
    theirs, trivial = benchmark_numbers(checkpoint, benchmark, 64)
    birds = {f"{way}_{number}" for way in ("pooled", "patches") for number in ("own", "other", "worst", "gap")}
    assert theirs.keys() == {"accuracy", "miou", "things", "stuff", "jaccard", "jaccard_camouflage", *birds}
    assert theirs["pooled_gap"] == pytest.approx(theirs["pooled_own"] - theirs["pooled_other"])
    assert trivial["all_background"]["things"] == 0
    assert trivial["chance"] == {"accuracy": pytest.approx(1 / 12)}
    model = CLIPpy.from_pretrained(checkpoint)
    classes = inference.embed_classes(model, [c["name"] for c in CLASSES], TEMPLATES)
    images, masks = read_test(benchmark, "multi")
    ours = segmented(read_out(model, classes), images, masks)
    assert ours == pytest.approx({name: theirs[name] for name in ours})
    truth = iter([torch.from_numpy(masks)])
    assert segmented(lambda shown: next(truth), images, masks) == {"miou": 1.0, "things": 1.0, "stuff": 1.0}


def test_a_larger_picture_costs_more_and_dropped_patches_less(tmp_path: Path) -> None:
    def recipe(size: int, drop: float):
        changes = [f"model.image.image_size={size}", f"model.image.patch_dropout={drop}"]
        return load_recipe("shapes", [*changes, "optim.global_batch_size=8", "scaling.num_workers=1"])

    found = measure_steps({"plain": recipe(64, 0.0), "large": recipe(128, 0.0), "dropped": recipe(128, 0.8)}, rounds=2)
    assert found["large"] > 1.5 * found["plain"]
    assert found["dropped"] < found["large"]
    assert json.dumps(found)
