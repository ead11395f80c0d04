"""A study on Ray, killed and gone on with: what is stopped, what fails, what is free again, and what MLflow has."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray

from pipelines.checkpoints import committed_steps
from pipelines.console import Console
from pipelines.prepare import prepare
from pipelines.storage import locate
from tests.conftest import ALONE, TINY
from tests.pipelines import test_loop
from tuning.records import TrialRecords
from tuning.results import load_results
from tuning.search import run_study
from tuning.study import Study, load_study

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

STUDY = """
name: small
base: shapes
space:
  model.logit_scale_init: {grid: [1.0, 100.0]}
  train.steps: {grid: [1200], when: {model.logit_scale_init: 100.0}}
  model.image.name: {grid: [vit_tiny_patch16_224, no_such_tower], when: {model.logit_scale_init: 100.0}}
metrics:
  - {metric: loss, direction: min}
  - {metric: segmentation/model/mIoU, direction: max}
search: grid
scheduler: {name: asha, grace_steps: 80}
budget: {concurrency: 2}
"""
STEPS = ("train.steps=80", "eval.every=80", "checkpoint.every=20")
MIOU = "segmentation/model/mIoU"


@pytest.fixture
def arguments(shapes: Path, tmp_path: Path) -> list[str]:
    (tmp_path / "small.yaml").write_text(STUDY)
    places = [f"data.url={shapes}/train", f"eval.url={shapes}", f"storage.url={tmp_path}/runs"]
    return [str(tmp_path / "small.yaml"), *TINY, *ALONE, *STEPS, *places]


def as_a_kill_leaves_it(study: Study, folder: Path) -> None:
    """Trial 0 finished, and trial 1 is at a checkpoint after 20 steps, its files as of a trial that runs."""
    records = TrialRecords(locate(str(folder)))
    (folder / "study.yaml").write_text(study.to_yaml())
    records.add(study.points())
    records.measured(0, 80, {"loss": 0.5, MIOU: 0.6})
    records.end(0, status="finished")
    begun = records.start(1)
    recipe = study.trial_recipe(begun.parameters, {"name": "0001", "storage": {"url": str(folder / "trials")}})
    job = prepare(recipe, Console())
    test_loop.train(job, test_loop.new_state(job), test_loop.Recorder(job, stop_at=20))
    assert job.resume_step() == 20


def wait_for(condition: Callable[[], Any], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def all_cpus_are_free() -> bool:
    return ray.available_resources().get("CPU", 0) == ray.cluster_resources()["CPU"]


def test_a_study_that_was_killed_goes_on(
    arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "runs" / "small"
    folder.mkdir(parents=True)
    study = load_study(arguments[0], arguments[1:])
    as_a_kill_leaves_it(study, folder)
    capfd.readouterr()

    outcome = run_study(study, Console())
    wait_for(all_cpus_are_free, 5)  # also those of the trial that was stopped early

    results = load_results(str(folder))
    assert results.trials == outcome.results.trials
    assert [trial.status for trial in results.trials] == ["finished", "stopped", "failed"]
    before, stopped, failed = results.trials
    assert outcome.status == "finished"
    assert outcome.results.ranked()[0] == before
    assert os.listdir(folder / "trials" / "0000") == ["trial.json"]  # it was not run again
    assert json.loads((folder / "trials" / "0001" / "summary.json").read_text())["resumed_from"] == 20
    assert 80 <= stopped.steps < 1200
    assert committed_steps(locate(str(folder / "trials" / "0001" / "checkpoints")))[-1] == stopped.steps
    assert failed.error is not None
    assert "no_such_tower" in failed.error
    assert stopped.history[0]["step"] == 80
    assert set(stopped.history[0]) > {"step", "loss", MIOU}
    said, printed = capfd.readouterr()[::-1]
    assert printed == ""
    assert "trial 1 goes on: " in said
    assert "trial 1 stopped early at step" in said
    assert "trial 2 failed: " in said
    assert stopped.mlflow_run_id is not None
    check_mlflow(folder, stopped.mlflow_run_id)

    again = run_study(study, Console())
    assert again.results.trials == outcome.results.trials


def check_mlflow(folder: Path, child: str) -> None:
    """The trial is below the study, with its parameters, and its numbers by step."""
    from mlflow import MlflowClient

    known = json.loads((folder / "run.json").read_text())
    client = MlflowClient(tracking_uri=known["mlflow_uri"])
    parent = client.get_run(known["mlflow_run_id"])
    assert parent.info.status == "FINISHED"
    assert parent.data.params["search"] == "grid"
    assert "study.yaml" in [file.path for file in client.list_artifacts(parent.info.run_id)]
    run = client.get_run(child)
    assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert run.data.params["model.logit_scale_init"] == "100.0"
    assert 80 in [metric.step for metric in client.get_metric_history(child, f"eval/shapes/{MIOU}")]
    trials = client.get_metric_history(parent.info.run_id, "trials/loss")
    assert sorted(metric.step for metric in trials) == [1]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("scaling.use_gpu=true", "1 worker need 1 GPU, and this machine has 0"),
        ("tracking.uri=http://127.0.0.1:9", "no MLflow store answers at http://127.0.0.1:9"),
        ("data.url=/nowhere", "/nowhere"),
        ("eval.url=/nowhere", "/nowhere"),
    ],
)
def test_what_no_trial_could_do_is_refused_at_once(
    arguments: list[str], tmp_path: Path, override: str, sentence: str
) -> None:
    began = time.monotonic()
    with pytest.raises(ValueError, match=sentence):
        run_study(load_study(arguments[0], [*arguments[1:], override]), Console())
    assert time.monotonic() - began < 15  # tries MLflow three times
    assert not (tmp_path / "runs" / "small" / "study.yaml").exists()
    assert not (tmp_path / "runs" / "small" / "trials").exists()


def test_another_study_in_the_folder_is_left_alone(arguments: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "small"
    folder.mkdir(parents=True)
    (folder / "study.yaml").write_text(load_study(arguments[0], [*arguments[1:], "search_seed=5"]).to_yaml())
    with pytest.raises(ValueError, match=r"holds another study.*\n.*search_seed: 5 -> 0"):
        run_study(load_study(arguments[0], arguments[1:]), Console())
