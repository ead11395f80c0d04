"""The report as its reader gets it: a page with real pictures, tables, and a recipe that can be trained."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
import torch
from PIL import Image

from clippy import CLIPpy
from clippy.draw import MARGIN
from clippy.tokens import build_tokenizer
from pipelines.checkpoints import STATE_FILE
from pipelines.recipe import load_recipe
from tests.tuning.made_up import MIOU, TOP1, trial, write_study
from tuning.report.study_report import StudyReport, run_of
from tuning.report.write import Request, write_report
from tuning.results import StudyResults, Trial

Command = Callable[..., CompletedProcess[str]]
POOLING, RATE = "model.image.pooling", "optim.learning_rate"
TINY_MODEL = {
    "image": {"arguments": {"patch_size": 16, "embed_dim": 24, "depth": 1, "num_heads": 2}},
    "text": {
        "tokenizer": "bytes",
        "arguments": {"d_model": 24, "d_kv": 12, "num_heads": 2, "d_ff": 32, "num_layers": 1},
    },
}
ERROR = "the worker <b>died</b> | out of memory; lower train.micro_batch_size"


def save_checkpoint(results: StudyResults, one: Trial) -> None:
    """A model of the trial's recipe as it starts, as if it had been trained."""
    run = run_of(results, one)
    torch.manual_seed(one.number)
    recipe = run.read_recipe()
    folder = run.checkpoints / f"step-{one.steps:08d}"
    CLIPpy(recipe.model, build_tokenizer(recipe.model.text)).save_pretrained(folder.path)
    (folder / STATE_FILE).write_text(json.dumps({"step": one.steps}))


@pytest.fixture(scope="module")
def reported(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StudyReport, dict[str, str]]:
    """A study that was killed: three trials have numbers, one failed, one ran, one waited."""
    folder = tmp_path_factory.mktemp("studies")
    trials = [
        trial(0, {POOLING: "cls", RATE: 1e-3}, 0.1, 0.08, status="stopped"),
        trial(1, {POOLING: "max", RATE: 2e-3}, 0.2, 0.5, 0.45, 0.4),
        trial(2, {POOLING: "mean", RATE: 1e-3}, 0.05, status="stopped"),
        trial(3, {POOLING: "max", RATE: 4e-3}, status="failed", error=ERROR),
        trial(4, {POOLING: "cls", RATE: 2e-3}, 0.9, status="running"),
        trial(5, {POOLING: "mean", RATE: 4e-3}, status="waiting"),
    ]
    for one in trials:
        for entry in one.history:
            entry[TOP1] = 1 - entry[MIOU]
    overrides = {"eval": {"every": 10, "url": str(shapes)}, "model": TINY_MODEL}
    space = {POOLING: {"choice": ["max", "mean", "cls"]}, RATE: {"log_uniform": [1e-3, 1e-2]}}
    metrics = [{"metric": MIOU}, {"metric": TOP1}]
    results = write_study(folder, trials, overrides=overrides, space=space, metrics=metrics)
    for number in (1, 2):  # the best and the worst
        save_checkpoint(results, trials[number])
    return folder, *write_report(Request(results.folder.url, pictures=3))


def test_the_page_has_everything_in_it_and_asks_for_nothing(reported: tuple[Path, StudyReport, dict[str, str]]) -> None:
    folder, report, files = reported
    assert {Path(file).name for file in files.values()} == {"report.html", "report.md", "report.csv", "best.yaml"}
    assert {Path(file).parent for file in files.values()} == {folder / "study"}
    page = Path(files["report.html"]).read_text()
    assert not re.search(r"https?://|<script|<link|url\(", page)
    assert "the worker &lt;b&gt;died&lt;/b&gt; | out of memory" in page
    assert page.count("<polyline") == 2 * 4 + 3 + 1  # curves of two metrics, parallel coordinates, the front
    assert "trial 1 is best so far, mIoU 0.400" in page
    assert "3 trials with a value are too few to tell what 2 parameters do; it takes 10" in page
    assert [one.number for one in report.trials] == [1, 0, 2, 4, 5, 3]
    assert [one.number for one in report.front] == [1, 0, 2]
    markdown = Path(files["report.md"]).read_text()
    assert (
        r"| 3 | failed (the worker \<b\>died\</b\> \| out of memory; lower train.micro\_batch\_size) | 0 |" in markdown
    )
    assert "| **1** | finished | 40 | 0.400 (best 0.500) | 0.600 (best 0.800) | max | 0.002 |" in markdown


def test_the_best_and_the_worst_trial_are_drawn_on_the_same_pictures(
    reported: tuple[Path, StudyReport, dict[str, str]],
) -> None:
    _, report, files = reported
    assert [[(a.number, a.step) for a in drawn] for drawn in report.gallery.pictures] == [[(1, 40), (2, 10)]] * 3
    encoded = re.findall(r'src="data:image/png;base64,([^"]+)"', Path(files["report.html"]).read_text())
    shown = [np.asarray(Image.open(io.BytesIO(base64.b64decode(content)))) for content in encoded]
    assert len(shown) == 6
    side = (shown[0].shape[1] - MARGIN) // 3
    inside = slice(MARGIN + 32, MARGIN + 200)
    for best, worst in zip(shown[::2], shown[1::2], strict=True):
        picture, answer, truth = ((inside, slice(MARGIN + i * side, i * side + side - MARGIN)) for i in range(3))
        assert np.array_equal(best[picture], worst[picture])
        assert not np.array_equal(best[answer], worst[answer])
        assert not np.array_equal(best[answer], best[truth])
    assert not np.array_equal(shown[0][picture], shown[2][picture])


def test_the_best_recipe_is_the_best_trials_under_another_name(
    reported: tuple[Path, StudyReport, dict[str, str]],
) -> None:
    folder, report, files = reported
    best = load_recipe(files["best.yaml"])
    own = run_of(report.results, report.best).read_recipe()
    assert best.differences(own) == ["name: 'study-trial-1' -> '0001'"]
    assert (best.model.image.pooling, best.optim.learning_rate) == ("max", 2e-3)
    assert best.eval == own.eval
    assert best.run_url == f"{folder}/study-trial-1"
    comment = " ".join(re.findall(r"^# (.*)$", Path(files["best.yaml"]).read_text(), re.MULTILINE))
    assert comment.startswith("Trial 1 of the study study (6 trials: 1 finished, 2 stopped early, 1 running, 1 waiting")
    assert comment.endswith(f"{MIOU}: 0.400 at step 40, with {POOLING}=max, {RATE}=0.002.")


def test_the_command_ranks_by_another_metric_into_another_folder(
    reported: tuple[Path, StudyReport, dict[str, str]], clippy_command: Command, tmp_path: Path
) -> None:
    folder, _, files = reported
    before = Path(files["report.html"]).read_bytes()
    done = clippy_command(
        *("tune", "report", f"{folder}/study", "--metric", "top-1", "--pictures", "0", "--out", str(tmp_path), "--json")
    )
    assert done.returncode == 0
    told = json.loads(done.stdout)
    assert (told["best"], told["front"], told["metrics"][0]["metric"]) == (2, [2, 0, 1], TOP1)
    assert told["no_pictures"] == "pictures were not asked for"
    rows = list(csv.DictReader((tmp_path / "report.csv").open()))
    assert [(row["trial"], row[TOP1], row[f"best {TOP1}"]) for row in rows[:3]] == [
        *(("2", "0.95", "0.95"), ("0", "0.92", "0.92"), ("1", "0.6", "0.8")),
    ]
    assert rows[-1]["error"] == ERROR
    assert (tmp_path / "best.yaml").exists()
    assert Path(files["report.html"]).read_bytes() == before


def test_what_cannot_be_reported_is_refused_in_one_sentence(clippy_command: Command, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    failed = [trial(0, {POOLING: "max"}, status="failed", error="no data there"), trial(1, {POOLING: "cls"})]
    for name, trials, why in (
        ("waiting", [trial(0, {POOLING: "max"}, status="waiting")], "(1 trial: 1 waiting); go on with: clippy tune "),
        ("failed", failed[:1], "(1 trial: 1 failed); trial 0 failed: no data there; go on with: clippy tune "),
        ("valueless", failed, "(2 trials: 1 finished, 1 failed); trial 0 failed: no data there; go on with"),
    ):
        (tmp_path / name).mkdir()
        write_study(tmp_path / name, trials)
        refused = clippy_command("tune", "report", f"{tmp_path}/{name}/study")
        assert (refused.returncode, refused.stdout) == (2, "")
        assert f"no trial has come to a value of {MIOU} yet {why}" in refused.stderr
        assert not (tmp_path / name / "study" / "report.html").exists()
    nothing = clippy_command("tune", "report", f"{tmp_path}/empty")
    assert nothing.returncode == 2
    assert "empty: 1 problem\n  no study lies here: it has no study.yaml" in nothing.stderr


def test_without_data_or_checkpoint_the_page_says_why_it_has_no_pictures(tmp_path: Path) -> None:
    overrides = {"eval": {"every": 10, "url": f"{tmp_path}/nowhere"}, "model": TINY_MODEL}
    trials = [trial(0, {POOLING: "max"}, 0.3), trial(1, {POOLING: "cls"}, 0.2)]
    results = write_study(tmp_path, trials, overrides=overrides)
    report, files = write_report(Request(results.folder.url))
    assert report.gallery.why_none == "trial 0 has no checkpoint"
    assert "No pictures: trial 0 has no checkpoint." in Path(files["report.html"]).read_text()
    save_checkpoint(results, results.trials[0])
    report, _ = write_report(Request(results.folder.url))
    assert report.gallery.why_none.endswith("nowhere: no shapes benchmark here, evaluation/classes.json is missing")


def test_a_lucky_seed_is_told(tmp_path: Path) -> None:
    values = {("max", 0): 0.5, ("max", 1): 0.5, ("cls", 0): 0.6, ("cls", 1): 0.1}
    trials = [trial(i, {POOLING: p, "seed": s}, value) for i, ((p, s), value) in enumerate(values.items())]
    page = Path(write_report(Request(write_study(tmp_path, trials).folder.url))[1]["report.html"]).read_text()
    assert "Trial 2 is the best, but the best mean over seeds has another setting, that of trial 0" in page
    assert "<td>0.500 ± 0.000</td>" in page
