"""What happens to a run from outside: workers that die, checkpoints validated beside it, clusters too small for it."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines import validation
from pipelines.checkpoints import committed_steps
from pipelines.console import Console
from pipelines.ledger import read_ledger
from pipelines.recipe import load_recipe
from pipelines.run_folder import RunFolder
from pipelines.storage import locate
from pipelines.train import run
from tests.pipelines.test_stream import pids
from tests.pipelines.test_train import losses

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def at_step(folder: Path, step: int, action: Callable[[], None]) -> threading.Thread:
    """Do something as soon as the run has written that step."""

    def watch() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            if (folder / "metrics.jsonl").exists() and len(losses(folder)) >= step:
                action()
                return
            time.sleep(0.01)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def test_a_run_whose_worker_is_killed_is_the_run_that_nothing_disturbed(
    overrides: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    mine = [*overrides, "train.ledger=true", "tracking.enabled=false", "train.steps=30"]
    assert run(load_recipe("shapes", [*mine, "name=undisturbed"]), Console()).starts == 1
    folder = tmp_path / "runs" / "killed"
    blow = at_step(folder, 8, lambda: os.kill(max(pids("ray::RayTrainWorker")), signal.SIGKILL))
    summary = run(load_recipe("shapes", [*mine, "name=killed"]), Console())
    blow.join()
    assert (summary.status, summary.starts, summary.rows_seen) == ("finished", 2, 30 * 32)
    assert "started again on 2 workers at step " in capfd.readouterr().err
    undisturbed = tmp_path / "runs" / "undisturbed"
    assert losses(folder) == losses(undisturbed)  # to the bit
    ours, theirs = (read_ledger(RunFolder(locate(str(place)))) for place in (folder, undisturbed))
    assert {step: sorted(keys) for step, keys in ours.items()} == {s: sorted(keys) for s, keys in theirs.items()}
    taken = [key for step in sorted(ours) for key in ours[step]]
    assert len(taken) == 30 * 32
    assert len(set(taken[:200])) == 200  # each pair of the first epoch once


def test_checkpoints_are_validated_while_training_goes_on(overrides: list[str], tmp_path: Path) -> None:
    from mlflow import MlflowClient

    more = ["eval.every=5", "checkpoint.keep_last=1", "train.steps=20", "name=validated"]
    summary = run(load_recipe("shapes", [*overrides, *more]), Console())
    folder = RunFolder(locate(str(tmp_path / "runs" / "validated")))
    results = {}
    for step in (5, 10, 15, 20):
        result = json.loads((folder.location / "validation" / f"step-{step:08d}.json").read_text())
        assert result["error"] == ""
        results[step] = result["numbers"]["segmentation/model/mIoU"]
    best = validation.best(folder)
    assert best["value"] == max(results.values()) == summary.best_value
    assert results[best["step"]] == best["value"]
    assert summary.best_step == best["step"]
    assert {best["step"], 20} <= set(committed_steps(folder.checkpoints))
    assert summary.mlflow_uri is not None
    client = MlflowClient(tracking_uri=summary.mlflow_uri)
    assert summary.mlflow_run_id is not None
    history = client.get_metric_history(summary.mlflow_run_id, "eval/shapes/segmentation/model/mIoU")
    assert {metric.step: metric.value for metric in history} == pytest.approx(results)


def test_a_benchmark_that_cannot_be_read_does_not_end_a_run(overrides: list[str], tmp_path: Path) -> None:
    more = ["eval.every=5", "eval.url=" + str(tmp_path / "nowhere"), "name=blind", "tracking.enabled=false"]
    summary = run(load_recipe("shapes", [*overrides, *more]), Console())
    assert (summary.status, summary.best_step) == ("finished", None)
    result = json.loads((tmp_path / "runs" / "blind" / "validation" / "step-00000005.json").read_text())
    assert "nowhere" in result["error"]


@pytest.mark.parametrize(
    ("overrides_", "sentence"),
    [
        (["scaling.use_gpu=true"], r"2 workers need 2 GPU, and this machine has 0"),
        (["eval.every=5", "eval.resources={GPU: 1}"], r"a validation needs 1 GPU, and this machine has 0"),
        (["scaling.resources_per_worker={CPU: 100}"], r"2 workers and 2 decoders need 202 CPU, and this machine has 8"),
    ],
)
def test_more_than_the_cluster_can_ever_have_is_refused_at_once(
    overrides: list[str], overrides_: list[str], sentence: str
) -> None:
    started = time.monotonic()
    with pytest.raises(ValueError, match=sentence):
        run(load_recipe("shapes", [*overrides, *overrides_, "tracking.enabled=false"]), Console())
    assert time.monotonic() - started < 20
