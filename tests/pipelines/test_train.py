"""Whole runs on Ray Train: what they leave behind, how they survive, and what stops them."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors.torch import load_file

from pipelines.checkpoints import CheckpointError, committed_steps
from pipelines.columns import DataError
from pipelines.console import Console
from pipelines.evaluate import Request, evaluate
from pipelines.prepare import prepare
from pipelines.prune import prune
from pipelines.recipe import load_recipe
from pipelines.report import write_report
from pipelines.runs import describe_run, find_runs
from pipelines.train import Summary, run
from pipelines.worker import _user_mistake
from tests.conftest import ALONE
from tests.pipelines import test_loop
from tests.pipelines.conftest import Run

pytestmark = pytest.mark.ray


def train(*overrides: str) -> Summary:
    return run(load_recipe("shapes", overrides), Console())


def losses(folder: Path) -> dict[int, float]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return {record["step"]: record["loss"] for record in map(json.loads, lines)}


def test_a_run_leaves_recipe_metrics_checkpoints_and_summary(undisturbed: Run) -> None:
    folder, overrides = undisturbed
    assert load_recipe(str(folder / "recipe.yaml")) == load_recipe("shapes", overrides)
    assert list(losses(folder)) == list(range(1, 31))
    assert [p.name for p in sorted((folder / "checkpoints").iterdir())] == ["step-00000025", "step-00000030"]
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["status"], summary["step"], summary["rows_seen"]) == ("finished", 30, 30 * 32)
    assert summary["loss"] == losses(folder)[30]
    assert summary["invalid_rows"] == summary["excluded_rows"] == {}
    assert summary["object_store_peak_bytes"] <= summary["object_store_limit_bytes"]
    assert summary["bytes_per_second"] > 0
    assert summary["verdict"]


def test_mlflow_has_one_run_with_parameters_metrics_dataset_and_files(undisturbed: Run) -> None:
    from mlflow import MlflowClient

    folder, _ = undisturbed
    summary = json.loads((folder / "summary.json").read_text())
    client = MlflowClient(tracking_uri=summary["mlflow_uri"])
    (experiment,) = client.search_experiments(filter_string="name = 'clippy'")
    (mlflow_run,) = client.search_runs([experiment.experiment_id])
    assert mlflow_run.info.run_id == summary["mlflow_run_id"]
    assert mlflow_run.info.status == "FINISHED"
    assert mlflow_run.data.params["optim.global_batch_size"] == "32"
    assert mlflow_run.inputs.dataset_inputs[0].dataset.digest == summary["manifest_digest"][:36]
    history = client.get_metric_history(mlflow_run.info.run_id, "train/loss")
    assert {metric.step: metric.value for metric in history} == losses(folder)
    assert len(history) == 30
    assert {"recipe.yaml", "summary.json"} <= {f.path for f in client.list_artifacts(mlflow_run.info.run_id)}


def mlflow_steps(folder: Path) -> list[int]:
    from mlflow import MlflowClient

    known = json.loads((folder / "run.json").read_text())
    history = MlflowClient(known["mlflow_uri"]).get_metric_history(known["mlflow_run_id"], "train/loss")
    return sorted(metric.step for metric in history)


def test_the_same_command_again_changes_nothing(undisturbed: Run) -> None:
    folder, overrides = undisturbed
    before = losses(folder)
    again = train(*overrides)
    assert (again.status, again.step, again.resumed_from) == ("finished", 30, 30)
    assert losses(folder) == before


def test_what_is_told_of_a_run(undisturbed: Run) -> None:
    from pipelines.storage import locate

    folder, _ = undisturbed
    (found,) = find_runs(locate(str(folder.parent)))
    assert (found.status, found.step, found.steps, found.loss) == ("finished", 30, 30, losses(folder)[30])
    assert [checkpoint.step for checkpoint in found.checkpoints] == [25, 30]
    values = describe_run(found, checked=True)
    assert [checkpoint["damage"] for checkpoint in values["checkpoints"]] == [None, None]
    told = prune(found.location, 1, dry_run=True)
    assert told[0].removed == ("step-00000025",)


def test_another_recipe_never_overwrites_a_run(undisturbed: Run) -> None:
    folder, overrides = undisturbed
    before = (folder / "recipe.yaml").read_bytes()
    with pytest.raises(ValueError, match=r"optim\.learning_rate: 0\.002 -> 0\.003"):
        train(*overrides, "optim.learning_rate=3e-3")
    assert (folder / "recipe.yaml").read_bytes() == before


def test_evaluation_and_report_of_a_run(undisturbed: Run) -> None:
    folder, _ = undisturbed
    result = evaluate(Request(str(folder)), Console())
    evaluated = folder / "evaluation" / "step-00000030" / "shapes"
    assert json.loads((evaluated / "evaluation.json").read_text()) == json.loads(json.dumps(result.as_dict()))
    assert result.images == {"single": 48, "multi": 40, "camouflage": 24, "spurious": 400}
    # The trivial answers are known whatever the model is.
    segmentation = result.tables["segmentation"]
    assert segmentation["all background"]["mIoU things"] == 0
    assert segmentation["all background"]["mIoU stuff"] > 0.7
    oracle, model = segmentation["patch-majority oracle"], segmentation["model"]
    assert all(oracle[name] >= model[name] for name in model)
    assert result.tables["grouping in camouflage"]["whole image"]["Jaccard"] == pytest.approx(0.5)  # object and ground
    assert sorted(p.name for p in (evaluated / "pictures").iterdir()) == sorted(p.file for p in result.pictures)
    assert Image.open(evaluated / "pictures" / "segmentation-multi-sample-000000.png").size[0] > 400

    page = Path(write_report(str(folder))).read_text()
    assert page.count("<img") == len(result.pictures) == 5 * 12
    assert "http://" not in page.replace("http://www.w3.org", "")  # namespaces of SVG are names, not requests
    assert "https://" not in page
    assert f"{model['mIoU']:.3f}" in page


def start(overrides: list[str]) -> subprocess.Popen[str]:
    """``clippy train`` as a user starts it, with a Ray of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "cluster.cli", "train", "shapes", *overrides],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for_step(folder: Path, step: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 180
    while not (folder / "metrics.jsonl").exists() or len(losses_so_far(folder)) < step:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "the run takes no step"
        time.sleep(0.02)


def losses_so_far(folder: Path) -> list[str]:
    return (folder / "metrics.jsonl").read_text().splitlines()


def descendants(pid: int) -> list[int]:
    """All processes below ``pid``, deepest last."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found, queue = [], [pid]
    while queue:
        children = parents.get(queue.pop(), [])
        found += children
        queue += children
    return found


def test_killed_and_started_again_equals_never_killed(undisturbed: Run, tmp_path: Path) -> None:
    whole, overrides = undisturbed
    folder = tmp_path / "shapes"
    mine = [*overrides, f"storage.url={tmp_path}", "train.ledger=false"]
    process = start(mine)
    wait_for_step(folder, random.choice([3, 6, 7, 8]), process)  # before or after the first checkpoint, at step 5
    for pid in [process.pid, *descendants(process.pid)]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()
    assert not (folder / "summary.json").exists()
    committed = [int(file.parent.name[5:]) for file in (folder / "checkpoints").glob("step-*/state.json")]

    again = train(*mine)
    assert again.resumed_from == max(committed, default=0) < again.step
    assert losses(folder) == losses(whole)  # to the bit
    assert mlflow_steps(folder) == list(range(1, 31))  # each step once, also those taken twice
    ours, theirs = (load_file(f / "checkpoints/step-00000030/model.safetensors") for f in (folder, whole))
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in ours)


def slow_shard(folder: Path) -> None:
    """Pictures that take so long that decoders are at work at any moment of a training."""
    stream = io.BytesIO()
    noise = Image.frombytes("RGB", (400, 400), random.Random(0).randbytes(400 * 400 * 3))
    noise.resize((1600, 1600)).save(stream, "JPEG", quality=95)
    folder.mkdir()
    rows = {"jpg": [stream.getvalue()] * 128, "caption": ["noise"] * 128, "key": [f"{i:09d}" for i in range(128)]}
    pq.write_table(pa.table(rows), folder / "00000.parquet", row_group_size=16)


def test_ctrl_c_saves_and_says_how_to_go_on(overrides: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "shapes"
    slow_shard(tmp_path / "slow")
    more = [f"data.url={tmp_path}/slow", "train.steps=2000", "checkpoint.every=2000", "tracking.enabled=false"]
    process = start([*overrides, *more])
    wait_for_step(folder, 3, process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 130, output
    assert "the same command goes on" in output
    assert "(raylet)" not in output  # neither of as many processes as there have to be, nor of decoders that end
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "stopped"
    assert summary["step"] == len(losses(folder)) >= 3
    assert (Path(summary["checkpoint"]) / "state.json").exists()


def dirty_shard(folder: Path, good: int) -> None:
    """``good`` pairs, three truncated JPEGs, a text named .jpg, a null caption, and a 20,000 x 20,000 PNG."""

    def encode(shade: int, kind: str, side: int = 64) -> bytes:
        stream = io.BytesIO()
        Image.new("L" if side > 64 else "RGB", (side, side), shade if side > 64 else (shade, 99, 10)).save(stream, kind)
        return stream.getvalue()

    whole = [encode(i % 256, "JPEG") for i in range(good)]
    bad = [encode(i, "JPEG")[:300] for i in range(3)] + [b"not found", whole[0], encode(0, "PNG", 20_000)]
    captions: list[str | None] = [f"number {i}" for i in range(good)] + ["a", "a", "a", "a", None, "a"]
    keys = [f"{i:09d}" for i in range(good + 6)]
    folder.mkdir()
    pq.write_table(
        pa.table({"jpg": whole + bad, "caption": captions, "key": keys}), folder / "00000.parquet", row_group_size=32
    )


@pytest.mark.usefixtures("ray_cluster")
def test_a_dirty_shard_trains_and_every_bad_row_is_counted_by_cause(
    overrides: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    dirty_shard(tmp_path / "dirty", good=123)  # 128 samples with a caption: one epoch is four batches
    more = [f"data.url={tmp_path}/dirty", "train.steps=4", "data.max_invalid_fraction=0.05"]
    summary = train(*overrides, *ALONE, *more)
    expected = {"truncated_image": 3, "not_an_image": 1, "too_large_image": 1}
    assert summary.invalid_rows == expected
    assert summary.excluded_rows == {"null_caption": 1}
    written: dict[str, Any] = json.loads((tmp_path / "runs/shapes/summary.json").read_text())
    assert written["invalid_rows"] == expected
    log = capfd.readouterr().err
    assert "null_caption 1" in log
    assert "too_large_image 1" in log

    from mlflow import MlflowClient

    assert summary.mlflow_uri is not None
    assert summary.mlflow_run_id is not None
    metrics = MlflowClient(tracking_uri=summary.mlflow_uri).get_run(summary.mlflow_run_id).data.metrics
    logged = {name.removeprefix("train/invalid_rows/"): n for name, n in metrics.items() if "invalid_rows" in name}
    assert logged == expected
    assert metrics["data/excluded_rows/null_caption"] == 1


def test_a_mistake_is_told_from_a_failure() -> None:
    """Only a mistake is raised as ValueError, which the next test sees from within a task of Ray Data."""
    assert _user_mistake(DataError("data.max_invalid_fraction: 8 of 32")) == "data.max_invalid_fraction: 8 of 32"
    assert _user_mistake(CheckpointError("the last checkpoint is damaged")) == "the last checkpoint is damaged"
    assert _user_mistake(RuntimeError("the stream ended")) is None


@pytest.mark.usefixtures("ray_cluster")
def test_a_shard_that_vanishes_during_training_is_named(overrides: list[str], tmp_path: Path, s3: str) -> None:
    """On object storage nothing is listed before the start: the task that reads finds out."""
    from pipelines.storage import locate

    bucket = locate("s3://bucket/vanishing")
    dirty_shard(tmp_path / "data", good=64)
    (bucket / "00000.parquet").write_bytes((tmp_path / "data/00000.parquet").read_bytes())
    mine = [
        *overrides,
        *ALONE,
        "data.url=s3://bucket/vanishing",
        "tracking.enabled=false",
        "data.max_invalid_fraction=1",
    ]
    from pipelines.index import index_dataset

    index_dataset(load_recipe("shapes", mine).data.datasets[0])
    bucket.filesystem.delete_file((bucket / "00000.parquet").path)
    with pytest.raises(ValueError, match=r"s3://bucket/vanishing/00000\.parquet: .* is gone"):
        train(*mine, "model.text.tokenizer=bytes")


@pytest.mark.usefixtures("s3")
def test_runs_can_lie_on_s3_and_resume_from_there(undisturbed: Run) -> None:
    whole, overrides = undisturbed
    mine = [*overrides, *ALONE, "train.micro_batch_size=16", "train.ledger=false"]
    mine += ["storage.url=s3://bucket/runs", "tracking.enabled=false"]
    job = prepare(load_recipe("shapes", mine), Console())
    assert test_loop.train(job, test_loop.new_state(job), test_loop.Recorder(job))  # in this process
    last = job.folder.checkpoints / "step-00000030"
    last.filesystem.delete_file((last / "state.json").path)  # as if killed while uploading
    before = committed_steps(job.folder.checkpoints)[-1]  # 25, or less if that was due while others were being written
    again = train(*mine)
    assert (again.resumed_from, again.checkpoint) == (before, last.url)
    assert 5 <= before <= 25
    assert last.url == "s3://bucket/runs/shapes/checkpoints/step-00000030"
    ours = {record["step"]: record["loss"] for record in job.folder.read_metrics()}
    assert ours == pytest.approx(losses(whole), rel=1e-5)
