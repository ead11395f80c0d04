"""A study on Ray, killed and gone on with: what is stopped, what fails, what is free again, and what MLflow has."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray

from pipelines.checkpoints import committed_steps
from pipelines.console import Console
from pipelines.storage import locate
from tests.conftest import ALONE, TINY
from tuning.results import load_results
from tuning.search import run_study
from tuning.study import load_study

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
budget: {concurrency: 1}
"""
STEPS = ("train.steps=80", "eval.every=80", "checkpoint.every=20", "train.log_every=10")


@pytest.fixture
def arguments(shapes: Path, tmp_path: Path) -> list[str]:
    (tmp_path / "small.yaml").write_text(STUDY)
    places = [f"data.url={shapes}/train", f"eval.url={shapes}", f"storage.url={tmp_path}/runs"]
    return [str(tmp_path / "small.yaml"), *TINY, *ALONE, *STEPS, *places]


def wait_for(condition: Callable[[], Any], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def all_cpus_are_free() -> bool:
    return ray.available_resources().get("CPU", 0) == ray.cluster_resources()["CPU"]


def status(folder: Path, number: int) -> str | None:
    file = folder / "trials" / f"{number:04d}" / "trial.json"
    return json.loads(file.read_text())["status"] if file.exists() else None


def test_a_study_killed_goes_on(arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "runs" / "small"
    address = f"scaling.ray_address={ray.get_runtime_context().gcs_address}"
    driver = subprocess.Popen([sys.executable, "-m", "cluster.cli", "tune", *arguments, address])
    checkpoints = locate(str(folder / "trials" / "0001" / "checkpoints"))
    try:
        wait_for(lambda: driver.poll() is not None or committed_steps(checkpoints))
        assert driver.poll() is None
    finally:
        driver.kill()
        driver.wait()
    assert [status(folder, number) for number in range(3)] == ["finished", "running", "waiting"]
    before = (folder / "trials" / "0000" / "summary.json").read_bytes()
    wait_for(all_cpus_are_free)

    outcome = run_study(load_study(arguments[0], arguments[1:]), Console())
    wait_for(all_cpus_are_free, 5)

    results = load_results(str(folder))
    assert results.trials == outcome.results.trials
    finished, stopped, failed = results.trials
    assert [trial.status for trial in results.trials] == ["finished", "stopped", "failed"]
    assert outcome.status == "finished"
    assert outcome.results.ranked()[0] == finished
    assert (folder / "trials" / "0000" / "summary.json").read_bytes() == before
    assert [record["step"] for record in finished.history] == [80]
    assert set(finished.history[0]) > {"step", "loss", "segmentation/model/mIoU"}
    resumed = json.loads((folder / "trials" / "0001" / "summary.json").read_text())
    assert resumed["resumed_from"] >= 20
    assert 80 <= stopped.steps < 1200
    assert committed_steps(checkpoints)[-1] == stopped.steps
    assert failed.error is not None
    assert "no_such_tower" in failed.error
    said = capfd.readouterr().err
    assert "trial 1 stopped early at step" in said
    assert "trial 2 failed: " in said

    check_mlflow(folder, finished.mlflow_run_id, stopped.mlflow_run_id)
    again = run_study(load_study(arguments[0], arguments[1:]), Console())
    assert again.results.trials == outcome.results.trials


def check_mlflow(folder: Path, *children: str | None) -> None:
    """The trials are below the study, with their parameters, and their numbers by step."""
    from mlflow import MlflowClient

    known = json.loads((folder / "run.json").read_text())
    client = MlflowClient(tracking_uri=known["mlflow_uri"])
    parent = client.get_run(known["mlflow_run_id"])
    assert parent.info.status == "FINISHED"
    assert parent.data.params["search"] == "grid"
    assert "study.yaml" in [file.path for file in client.list_artifacts(parent.info.run_id)]
    for number, child in enumerate(children):
        assert child is not None
        run = client.get_run(child)
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.data.params["model.logit_scale_init"] == ["1.0", "100.0"][number]
        history = client.get_metric_history(child, "eval/shapes/segmentation/model/mIoU")
        assert 80 in [metric.step for metric in history]
    trials = client.get_metric_history(parent.info.run_id, "trials/loss")
    assert sorted(metric.step for metric in trials) == [0, 1]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("scaling.use_gpu=true", "1 worker need 1 GPU, and this machine has 0"),
        ("data.url=/nowhere", "/nowhere"),
        ("eval.url=/nowhere", "/nowhere"),
    ],
)
def test_what_no_trial_could_do_is_refused_at_once(arguments: list[str], override: str, sentence: str) -> None:
    began = time.monotonic()
    with pytest.raises(ValueError, match=sentence):
        run_study(load_study(arguments[0], [*arguments[1:], "tracking.enabled=false", override]), Console())
    assert time.monotonic() - began < 5


def test_another_study_in_the_folder_is_left_alone(arguments: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "small"
    folder.mkdir(parents=True)
    (folder / "study.yaml").write_text(load_study(arguments[0], [*arguments[1:], "search_seed=5"]).to_yaml())
    with pytest.raises(ValueError, match=r"holds another study.*\n.*search_seed: 5 -> 0"):
        run_study(load_study(arguments[0], arguments[1:]), Console())
