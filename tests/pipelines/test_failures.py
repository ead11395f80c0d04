"""What happens to a run from outside: workers that die, checkpoints validated beside it, clusters too small for it."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from pipelines import validation
from pipelines.checkpoints import committed_steps
from pipelines.console import Console
from pipelines.ledger import read_ledger
from pipelines.listener import Listener
from pipelines.prepare import prepare
from pipelines.recipe import load_recipe
from pipelines.run_folder import RunFolder
from pipelines.storage import locate
from pipelines.summary import Heard
from pipelines.train import run
from tests.conftest import ALONE
from tests.pipelines import test_loop
from tests.pipelines.conftest import Run
from tests.pipelines.test_stream import pids
from tests.pipelines.test_train import losses

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def kill_a_worker(folder: Path, step: int) -> threading.Thread:
    """SIGKILL to a worker as soon as the run has written that step; who it is is found out before."""

    def has_written(wanted: int) -> bool:
        return (folder / "metrics.jsonl").exists() and len(losses(folder)) >= wanted

    def watch() -> None:
        deadline, victim = time.monotonic() + 120, None
        while time.monotonic() < deadline:
            if victim is None and has_written(1):
                victim = max(pids("ray::RayTrainWorker"))
            if victim is not None and has_written(step):
                os.kill(victim, signal.SIGKILL)
                return
            time.sleep(0.01)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def test_a_run_whose_worker_is_killed_is_the_run_that_nothing_disturbed(
    undisturbed: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole, overrides = undisturbed
    folder = tmp_path / "shapes"
    blow = kill_a_worker(folder, 8)
    mine = [*overrides, f"storage.url={tmp_path}", "tracking.enabled=false"]
    summary = run(load_recipe("shapes", mine), Console())
    blow.join()
    assert (summary.status, summary.starts, summary.rows_seen) == ("finished", 2, 30 * 32)
    assert "started again on 2 workers at step " in capfd.readouterr().err
    assert losses(folder) == losses(whole)  # to the bit
    ours, theirs = (read_ledger(RunFolder(locate(str(place)))) for place in (folder, whole))
    assert {step: sorted(keys) for step, keys in ours.items()} == {s: sorted(keys) for s, keys in theirs.items()}
    taken = [key for step in sorted(ours) for key in ours[step]]
    assert len(taken) == 30 * 32
    assert len(set(taken[:200])) == 200  # each pair of the first epoch once


def test_checkpoints_are_validated_while_training_goes_on(overrides: list[str], tmp_path: Path) -> None:
    from mlflow import MlflowClient

    more = ["eval.every=5", "checkpoint.keep_last=1", "train.steps=20", "name=validated"]
    summary = run(load_recipe("shapes", [*overrides, *ALONE, *more]), Console())
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
    """The driver hears of two checkpoints, made in this process."""
    more = ["eval.every=5", f"eval.url={tmp_path}/nowhere", *ALONE]
    job = prepare(load_recipe("shapes", [*overrides, *more]), Console())
    test_loop.train(job, test_loop.new_state(job), test_loop.Recorder(job))
    listener = Listener(job, Console(), None, Heard())
    listener.listen([{"saved": "step 5"}, {"saved": "step 10"}])
    listener.finish_validation(lambda: False)
    for step in (5, 10):
        result = json.loads((job.folder.location / "validation" / f"step-{step:08d}.json").read_text())
        assert "nowhere" in result["error"]
    assert validation.best(job.folder) == {}


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
