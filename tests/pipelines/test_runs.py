"""What is told of run folders, and which checkpoints pruning leaves; on a disk and on S3."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import pytest

from pipelines import checkpoints, runs, validation
from pipelines.prune import prune
from pipelines.recipe import load_recipe
from pipelines.run_folder import RunFolder
from pipelines.runs import describe_run, find_runs, read_run
from pipelines.sections import EvalConfig
from pipelines.storage import Location, locate

SAVED = "model.safetensors", "optimizer-00000-of-00002.safetensors", "optimizer-00001-of-00002.safetensors"


def write_checkpoint(run: Location, step: int, **more: Any) -> Location:
    """A checkpoint as ``pipelines.state`` lays it out, of 30 bytes and its ``state.json``."""
    folder = run / "checkpoints" / checkpoints.checkpoint_name(step)
    contents = {name: f"{step:010d}".encode() for name in SAVED}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    files = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    (folder / checkpoints.STATE_FILE).write_text(json.dumps({"step": step, "files": files, **more}))
    return folder


def write_run(run: Location, *, step: int, steps: int = 50, status: str | None = None, log_every: int = 10) -> Location:
    """A run that came to ``step``, with a checkpoint each ten steps."""
    fields = ["data.url=data", f"train.steps={steps}", "optim.warmup_steps=2", f"train.log_every={log_every}"]
    storage, _, name = run.url.rpartition("/")
    recipe = load_recipe("shapes", [*fields, f"name={name}", f"storage.url={storage}"])
    (run / "run.json").write_text(json.dumps({"mlflow_uri": "http://here", "mlflow_run_id": "abc"}))
    lines = [json.dumps({"step": i, "loss": math.nan if i == 3 else 1 / i}) for i in range(1, step)]
    figures = {"images_per_second": 200.0, "data_wait_fraction": 0.25, "invalid_rows": {"truncated_image": 4}}
    lines.append(json.dumps({"step": step, "loss": 0.5, **figures}))
    (run / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines) + '{"step": ')  # cut short by a kill
    for saved in range(10, step + 1, 10):
        write_checkpoint(run, saved)
    if status:
        (run / "summary.json").write_text(json.dumps({"status": status, "step": step, "steps": steps}))
    (run / "recipe.yaml").write_text(recipe.to_yaml())
    return run


def mark_best(run: Location, step: int) -> None:
    numbers = {"segmentation/model/mIoU": 0.5}
    assert validation.record(RunFolder(run), step, numbers, EvalConfig(), time_ms=0)


def leave_alone(run: Location, seconds: float) -> Location:
    """Let the run's files be so old."""
    then = time.time() - seconds
    for path in Path(run.path).rglob("*"):
        os.utime(path, (then, then))
    return run


def names(run: Location) -> list[str]:
    return [info.base_name for info in (run / "checkpoints").list()]


@pytest.fixture(params=["disk", "s3", "gcs"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    if request.param == "disk":
        return locate(str(tmp_path / "runs"))
    request.getfixturevalue(request.param)
    return locate(f"{'gs' if request.param == 'gcs' else 's3'}://bucket/{tmp_path.name}")


def test_a_list_tells_how_far_each_run_came(storage: Location) -> None:
    write_run(storage / "done", step=50, status="finished")
    write_run(storage / "paused", step=23, status="stopped")
    write_run(storage / "going", step=15)
    write_run(storage / "alone", step=50)  # trained without a driver that writes summaries
    (storage / "mlflow.db").write_text("no run")
    (storage / "other" / "file").write_text("no run")
    alone, done, going, paused = find_runs(storage)
    assert (alone.status, alone.step) == ("finished", 50)
    assert (done.name, done.status, done.step, done.steps) == ("done", "finished", 50, 50)
    assert (done.loss, done.images_per_second) == (0.5, 200.0)
    assert [c.step for c in done.checkpoints] == [10, 20, 30, 40, 50]
    assert done.checkpoint_bytes == sum(c.bytes for c in done.checkpoints) > 5 * 30
    assert (going.status, going.step, going.steps) == ("running", 15, 50)
    assert (paused.status, paused.step) == ("stopped", 23)
    assert find_runs(storage / "done") == [done]
    with pytest.raises(ValueError, match="nowhere: there is no such folder"):
        find_runs(storage / "nowhere")
    json.dumps([run.as_dict() for run in find_runs(storage)], allow_nan=False)


def test_a_run_is_running_as_long_as_its_files_change_when_they_should(tmp_path: Path) -> None:
    place = locate(str(tmp_path))
    write_run(place / "quick", step=15)
    write_run(place / "slow", step=15, log_every=1000)  # a line each 1000 * 128 / 200 seconds
    write_run(place / "resumed", step=15, status="stopped")
    write_checkpoint(place / "resumed", 20)  # newer than its summary
    write_run(place / "odd", step=15)
    (place / "odd" / "recipe.yaml").write_text("name: 3")
    for name in ("quick", "slow", "resumed", "odd"):
        leave_alone(place / name, 400)
    status = {run.name: (run.status, run.steps) for run in find_runs(place)}
    assert status["quick"] == ("unfinished", 50)
    assert status["slow"] == ("running", 50)
    assert status["resumed"] == ("unfinished", 50)
    assert status["odd"] == ("unfinished", None)
    leave_alone(place / "slow", 1500)
    assert {run.status for run in find_runs(place)} == {"unfinished"}


def test_the_end_of_long_metrics_is_enough(tmp_path: Path) -> None:
    run = write_run(locate(str(tmp_path / "long")), step=9, steps=30_000)
    last = (run / "metrics.jsonl").read_text().splitlines()[-2].replace('"step": 9', '"step": 20000')
    lines = [json.dumps({"step": step, "loss": 1.0}) for step in range(1, 20_000)]
    (run / "metrics.jsonl").write_text("\n".join([*lines, last, ""]))
    found = read_run(run)
    assert found is not None
    assert (found.step, found.loss, found.images_per_second) == (20_000, 0.5, 200.0)


def test_details_of_a_run(tmp_path: Path) -> None:
    location = leave_alone(write_run(locate(str(tmp_path / "mine")), step=33), 400)
    (location / "checkpoints" / "step-00000020" / SAVED[0]).write_bytes(b"damaged")
    run = read_run(location)
    assert run is not None
    values = describe_run(run, checked=True)
    json.dumps(values, allow_nan=False)
    assert values["recipe"]["model.image.pooling"] == "max"
    assert values["recipe"]["data"] == "data"
    assert (values["invalid_rows"], values["steps_without_finite_loss"]) == ({"truncated_image": 4}, 1)
    assert (values["mlflow_uri"], values["mlflow_run_id"]) == ("http://here", "abc")
    first, second, third = (checkpoint["damage"] for checkpoint in values["checkpoints"])
    assert first is third is None
    assert f"{SAVED[0]} is damaged" in second
    assert values["resume"] == f"clippy train {tmp_path}/mine/recipe.yaml"
    os.rename(tmp_path / "mine", tmp_path / "moved")
    moved = read_run(locate(str(tmp_path / "moved")))
    assert moved is not None
    assert describe_run(moved)["resume"] == f"clippy train {tmp_path}/moved/recipe.yaml storage.url={tmp_path}"


def test_names_are_those_of_checkpoints() -> None:
    assert runs._CHECKPOINT_NAME.fullmatch(checkpoints.checkpoint_name(123_456_789))


def test_pruning_keeps_the_newest_and_the_best(storage: Location) -> None:
    run = write_run(storage / "run", step=50, status="finished")
    mark_best(run, 20)
    (run / "checkpoints" / "step-00000045" / "model.safetensors").write_bytes(b"half")  # its state.json never came
    before = names(run)
    told = prune(run, 1, 40, dry_run=True)
    assert names(run) == before
    (result,) = prune(run, 1, 40)
    assert told == [result]
    assert names(run) == list(result.kept) == ["step-00000020", "step-00000040", "step-00000050"]
    assert result.removed == ("step-00000010", "step-00000030", "step-00000045")
    assert result.freed_bytes > 2 * 30 + 4
    found = read_run(run)
    assert found is not None
    assert [c.step for c in found.checkpoints] == [20, 40, 50]
    (again,) = prune(run, 5)
    assert (again.removed, again.freed_bytes) == ((), 0)


def test_pruning_counts_no_damaged_checkpoint_and_follows_a_best_step(tmp_path: Path) -> None:
    run = write_run(locate(str(tmp_path / "run")), step=40, status="finished")
    mark_best(run, 10)
    os.unlink(Path(run.path) / "checkpoints" / "step-00000040" / SAVED[2])
    prune(run, 1)
    assert names(run) == ["step-00000010", "step-00000030", "step-00000040"]


def test_pruning_keeps_a_checkpoint_to_go_back_to(tmp_path: Path) -> None:
    run = write_run(locate(str(tmp_path / "run")), step=30, status="stopped")
    write_checkpoint(run, 40, healthy=False)
    write_checkpoint(run, 50, healthy=False)
    leave_alone(run, 400)
    (result,) = prune(run, 1)
    assert result.kept == ("step-00000030", "step-00000050")


def test_pruning_leaves_a_running_run_alone(storage: Location) -> None:
    write_run(storage / "done", step=30, status="finished")
    going = write_run(storage / "going", step=30)
    with pytest.raises(ValueError, match="going: seems to be running, its files changed"):
        prune(going, 1)
    done, left = prune(storage, 1)
    assert (done.removed, left.removed) == (("step-00000010", "step-00000020"), ())
    assert left.left_alone
    assert len(names(going)) == 3
    (forced,) = prune(going, 1, force=True)
    assert forced.kept == ("step-00000030",)
    with pytest.raises(ValueError, match=r"--keep-last: must be at least 1 \(got 0\)"):
        prune(going, 0)
    with pytest.raises(ValueError, match=r"done/checkpoints: no run lies here|there is no such folder"):
        prune(storage / "done" / "checkpoints", 1)


def test_what_a_kill_left_of_a_checkpoint_goes(tmp_path: Path) -> None:
    run = write_run(locate(str(tmp_path / "run")), step=15)
    (run / "checkpoints" / ".writing-x1" / "model.safetensors").write_bytes(b"half")
    leave_alone(run, 400)
    (result,) = prune(run, 1)
    assert (result.removed, result.freed_bytes) == ((".writing-x1",), 4)
    assert names(run) == ["step-00000010"]
