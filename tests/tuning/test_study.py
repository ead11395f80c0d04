"""Studies as YAML: what ships resolves, and each mistake is one sentence that names the field."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from clippy.config import ConfigError
from pipelines.recipe import load_recipe
from tuning.study import Study, load_study, study_names

Clippy = Callable[..., CompletedProcess[str]]


@pytest.mark.parametrize("name", study_names())
def test_shipped_studies_resolve_and_can_be_run_again(name: str) -> None:
    study = load_study(name)
    assert study.about
    assert Study.load("again", study.to_yaml()) == study
    assert not study.differences(Study.load("again", study.to_yaml()))


CLIPPY = "cc12m-clippy"


@pytest.mark.parametrize(
    ("name", "arms"),
    [
        ("paper-table7", ["", "-frozen-image", "-frozen-text", "-cls-frozen-image"]),
        ("paper-table8", ["", "-random-text", "-supervised", "-supervised-random-text", "-random-image", "-random"]),
        ("paper-table9", ["", "-mean", "-cls"]),
        ("paper-table10", ["", "-dropout"]),
    ],
)
def test_the_papers_ablations_train_the_models_of_the_named_recipes_with_three_seeds(
    name: str, arms: list[str]
) -> None:
    study = load_study(name)
    named = {load_recipe(CLIPPY + arm).model.model_dump_json(): arm for arm in arms}
    trained: dict[str, set[int]] = {}
    for point in study.points():
        recipe = study.trial_recipe(point)
        trained.setdefault(named[recipe.model.model_dump_json()], set()).add(recipe.seed)
    assert trained == {arm: {0, 1, 2} for arm in arms}


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("space.model.image.pooling.grid=[max, maxx]", "space.model.image.pooling: must be 'max',.*did you mean 'max'"),
        (
            "space.model.image.patch_dropout.uniform=[0, 1]",
            r"space.model.image.patch_dropout: must be less than 1 \(got",
        ),
        ("space.model.image.image_size.choice=[64, 100]", "space.model.image.image_size: 100 is not a multiple of"),
        (
            "space.train.micro_batch_size.choice=[64, 100]",
            r"space: optim.global_batch_size: 128 is not divisible.*\(where train.micro_batch_size=100\)$",
        ),
        ("space.model.image.poolin.choice=[max]", "space.model.image.poolin: no such field; did you mean 'pooling'"),
        ("space.model.image.pooling.choise=[max]", "space.model.image.pooling.choise .*no such field"),
        ("space.seed.integer=[3, 1]", r"space.seed: integer: must be two numbers, the smaller first \(got \[3, 1\]\)"),
        ("space.optim.eps.log_uniform=[0, 1]", "space.optim.eps: log_uniform: both ends must be above 0"),
        ("space.seed.choice=[]", "space.seed.choice"),
        ("space.seed.choice=[1, 1]", "space.seed: choice: names a value twice"),
        ("space.seed={choice: [1], grid: [2]}", "space.seed: must have exactly one of grid, choice,"),
        ("space.seed={grid: [1], when: {model.image.pooling: maxx}}", "when.model.image.pooling: it is never 'maxx'"),
        (
            "space.seed={grid: [1], when: {model.image.poolin: max}}",
            "no such field; did you mean 'model.image.pooling'",
        ),
        ("space.optim.learning_rate.when={model.image.pooling: max}", "comes later in the space; put it before optim."),
        ("space.storage.url.choice=[a, b]", "space.storage.url: storage is the same for all trials"),
        ("space.eval.every.choice=[40]", "space.eval.every: eval is the same for all trials"),
        ("model.image.pooling=cls", "model.image.pooling: the study searches this field"),
        ("train.steps=100", "base.eval.every: 40 does not divide train.steps 100.*use 50"),
        ("eval.every=null", "base.eval.every: trials are compared by what they come to"),
        ("scheduler.grace_steps=500", "scheduler.grace_steps: 500 is more than train.steps 160"),
        ("search=grid", "search: grid takes every value, and space.optim.learning_rate is log_uniform"),
        ("search=tpe", "search: tpe chooses one value at a time, and space.model.image.pooling is a grid"),
        ("search=bayes", "search .*must be 'random', 'grid' or 'tpe'"),
        ("budget.trials=null", "budget.trials: say how many trials a random search takes"),
        ("budget.trial=3", "budget.trial .*no such field; did you mean 'trials'"),
        ("metrics=[{metric: loss}, {metric: loss}]", "metrics: names loss twice"),
        ("train.stepz=3", "train.stepz .*no such field; did you mean 'steps'"),
        ("base=shape", "neither a recipe's name.*did you mean 'shapes'"),
    ],
)
def test_mistakes_are_named(override: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_study("shapes-pooling", [override])
    assert any(re.search(sentence, problem) for problem in caught.value.problems), caught.value.problems
    assert len(caught.value.problems) == 1


def test_fields_of_study_and_base_are_set_by_the_same_words() -> None:
    study = load_study("shapes-pooling", ["name=mine", "budget.trials=4", "storage.url=s3://b/runs", "seed=7"])
    assert (study.name, study.budget.trials, study.budget.concurrency) == ("mine", 4, 2)
    assert study.base_recipe.seed == 7
    assert study.folder_url == "s3://b/runs/mine"
    changed = load_study("shapes-pooling", ["space.model.image.pooling.choice=[max]"])
    assert changed.space["model.image.pooling"].choice == ["max"]
    assert list(changed.space) == list(study.space)


def test_a_study_of_ones_own_builds_on_a_recipe_beside_it(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text("base: shapes\nname: small\ntrain: {steps: 60}\noptim: {warmup_steps: 5}\n")
    (tmp_path / "mine.yaml").write_text(
        "name: mine\nbase: small.yaml\noverrides: {eval: {every: 20}, checkpoint: {every: 20}}\n"
        "space: {model: {image: {pooling: {grid: [max, cls]}}}}\n"
        "metrics: [{metric: loss, direction: min}]\nsearch: grid\n"
    )
    study = load_study(str(tmp_path / "mine.yaml"))
    assert [point["model.image.pooling"] for point in study.points()] == ["max", "cls"]
    assert study.base_recipe.train.steps == 60


def test_what_may_change_between_two_starts() -> None:
    before = load_study("shapes-pooling")
    free = ["budget.trials=20", "budget.minutes=5", "scaling.num_workers=2", "tracking.enabled=false"]
    assert not before.differences(load_study("shapes-pooling", free))
    for override, named in [
        ("space.seed.choice=[1]", "space"),
        ("metrics=[{metric: loss, direction: min}]", "metrics"),
        ("optim.weight_decay=0.5", "base.optim.weight_decay"),
        ("eval.every=80", "base.eval.every"),
    ]:
        assert any(d.startswith(named) for d in before.differences(load_study("shapes-pooling", [override])))


def test_command_line(clippy_command: Clippy, clippy_process: Clippy) -> None:
    began = time.monotonic()
    refused = clippy_process("tune", "shapes-pooling", "budget.trial=3")
    assert time.monotonic() - began < 3  # an import of torch or ray would take longer
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "did you mean 'trials'?" in refused.stderr
    listed = clippy_command("tune", "list")
    assert [line.split()[0] for line in listed.stdout.splitlines()] == study_names()
    shown = clippy_command("tune", "show", "shapes-pooling", "budget.trials=4")
    assert Study.load("shown", shown.stdout).budget.trials == 4
    unknown = clippy_command("tune", "shapes-poolin")
    assert (unknown.returncode, unknown.stderr.count("did you mean 'shapes-pooling'")) == (2, 1)
