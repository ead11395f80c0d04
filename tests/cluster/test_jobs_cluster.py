"""A cluster of several nodes on this machine, and real jobs on it: followed, disturbed, refused, stopped."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from pipelines.checkpoints import committed_steps
from pipelines.ledger import read_ledger
from pipelines.run_folder import RunFolder
from pipelines.storage import locate
from tests.conftest import ALONE, TINY
from tests.pipelines.test_tracking import Server

pytestmark = pytest.mark.ray
Command = Callable[..., subprocess.CompletedProcess[str]]
STEPS = 240
"""So many that a training goes on for seconds after its first steps were read."""
SECRET = "hunter2-for-the-object-store"
PASSED_ON = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION")


@dataclass
class Setting:
    """The cluster, as ``up --json`` told of it, and the folder that jobs are submitted from."""

    told: dict[str, Any]
    project: Path
    environment: dict[str, str]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """``clippy cluster ...`` in a process of its own, both outputs as one."""
        command = [sys.executable, "-m", "cluster.cli", "cluster", *arguments]
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.project,
            env={**os.environ, **self.environment},
        )


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("mlflow"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory, s3: str) -> Iterator[Setting]:
    """A head and two nodes that know nothing of the object store's credentials."""
    project = tmp_path_factory.mktemp("project")
    (project / "mine.yaml").write_text("base: shapes\nname: mine\n")
    (project / ".env").write_text("PASSWORD=1234\n")
    environment = {"XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache"))}
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RAY_AUTH"))}
    command = [sys.executable, "-m", "cluster.cli", "cluster"]
    up = [*command, "up", "--local", "--nodes", "2", "--cpus-per-node", "3", "--json"]
    result = subprocess.run(up, env={**bare, **environment}, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    try:
        yield Setting(json.loads(result.stdout), project, environment)
    finally:
        subprocess.run([*command, "down"], env={**os.environ, **environment}, check=True, capture_output=True)


def processes() -> dict[int, tuple[int, str]]:
    """Parent and command line by process id."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            found[int(folder.name)] = parent, (folder / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
    return found


def node_that_trains(nodes: list[int]) -> int:
    """The process of a node which a training worker belongs to."""
    known = processes()
    for pid, (_, command) in known.items():
        if command.startswith("ray::RayTrainWorker"):
            while pid in known and pid not in nodes:
                pid = known[pid][0]
            if pid in nodes:
                return pid
    raise AssertionError("no node has a training worker")


def read_until(process: subprocess.Popen[str], pattern: str) -> str:
    """What the process prints up to a line that fits."""
    lines = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if re.search(pattern, line):
            return "".join(lines)
    raise AssertionError(f"{pattern} did not come:\n{''.join(lines)}")


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"RAY_AUTH_MODE": "disabled"}, "asks for its token; set RAY_AUTH_TOKEN_PATH"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "wrong"}, "does not accept the token"),
    ],
)
def test_without_the_token_a_job_is_refused(
    setting: Setting, clippy_command: Command, tmp_path: Path, environment: dict[str, str], sentence: str
) -> None:
    arguments = ("cluster", "submit", "--address", setting.told["address"], "--", "train", "shapes")
    result = clippy_command(*arguments, XDG_CACHE_HOME=str(tmp_path), **environment)
    assert result.returncode == 2
    assert sentence in result.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["submit", "--", "train", "mine.yaml", "scaling.num_workers=64", "optim.global_batch_size=64"],
            "64 workers and 1 decoder need 65 CPU, and the cluster at http://127.0.0.1",
        ),
        (
            ["submit", "--", "train", "mine.yaml", "scaling.num_workers=1", "scaling.resources_per_worker={CPU: 5}"],
            "a worker needs 5 CPU on one node, and no node",
        ),
        (["submit", "--max-mib", "0.00001", "--", "train", "mine.yaml"], "the largest are mine.yaml"),
        (["submit", "--exclude", "*.yaml", "--", "train", "mine.yaml"], "RECIPE: mine.yaml: is left out"),
        (["status", "nobody"], "the cluster knows no job 'nobody'"),
        (["logs", "nobody"], "the cluster knows no job 'nobody'"),
        (["stop", "nobody"], "the cluster knows no job 'nobody'"),
        (["up", "--local"], "a local cluster of 2 nodes runs already"),
    ],
)
def test_mistakes_are_one_sentence(
    setting: Setting,
    clippy_command: Command,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(setting.project)
    result = clippy_command("cluster", *arguments, **setting.environment)
    assert result.returncode == 2
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr


def test_a_job_that_fails_says_why(setting: Setting) -> None:
    failing = setting.start("submit", "--follow", "--", "data", "index", "/no/such/folder")
    printed, _ = failing.communicate(timeout=240)
    assert failing.returncode == 1, printed
    assert re.search(
        r"^clippy: job \S+ failed: clippy: data.url: /no/such/folder does not exist", printed, re.MULTILINE
    )


def test_a_job_that_is_stopped_saves_first(setting: Setting, shapes: Path, tmp_path: Path) -> None:
    fields = [*TINY, *ALONE, f"data.url={shapes}/train", f"storage.url={tmp_path}", "tracking.enabled=false"]
    fields += ["train.steps=100000", "checkpoint.every=90000", "eval.benchmark=null"]
    submitted = setting.start("submit", "--json", "--", "train", "mine.yaml", *fields)
    printed, _ = submitted.communicate(timeout=240)
    job = json.loads(printed[printed.index("{") : printed.rindex("}") + 1])["job"]
    follower = setting.start("logs", "--follow", job)
    read_until(follower, r"^step 3/")
    stopped, _ = setting.start("stop", job).communicate(timeout=240)
    assert "saves a checkpoint first" in stopped
    rest, _ = follower.communicate(timeout=240)
    assert follower.returncode == 130, rest
    assert f"job {job} was stopped" in rest
    assert committed_steps(RunFolder(locate(str(tmp_path / "mine"))).checkpoints)
    named = setting.told["address"].replace("127.0.0.1", "localhost")
    listed = json.loads(setting.start("list", "--json", "--address", named).communicate()[0])
    assert (listed[0]["job"], listed[0]["status"]) == (job, "STOPPED")


def test_a_job_whose_node_is_killed_finishes_with_no_sample_lost(
    setting: Setting, mlflow: Server, shapes: Path, s3: str
) -> None:
    from mlflow import MlflowClient

    fields = [*TINY, f"data.url={shapes}/train", "storage.url=s3://bucket/jobs", f"tracking.uri={mlflow.uri}"]
    fields += [*ALONE, f"train.steps={STEPS}", "checkpoint.every=40", "train.ledger=true", "eval.benchmark=null"]
    passed_on = [argument for name in PASSED_ON for argument in ("--env", name)]
    setting.environment |= {"AWS_SECRET_ACCESS_KEY": SECRET}
    follower = setting.start("submit", "--follow", *passed_on, "--", "train", "mine.yaml", *fields)
    printed = read_until(follower, r"^step 8/")
    assert "lead out of this folder: .env" in printed
    os.kill(node_that_trains(setting.told["pids"][1:]), signal.SIGKILL)
    follower.send_signal(signal.SIGINT)
    rest, _ = follower.communicate(timeout=120)
    assert "the job goes on" in rest
    assert follower.returncode == 130
    job = re.search(r"job (clippy-\S+) is sent to", printed)
    assert job is not None

    again = setting.start("logs", "--follow", job[1])
    printed, _ = again.communicate(timeout=300)
    assert again.returncode == 0, printed
    assert "started again on 1 worker at step " in printed
    assert f"step {STEPS}/{STEPS}" in printed
    assert f"job {job[1]} succeeded" in printed

    folder = RunFolder(locate("s3://bucket/jobs/mine"))
    ledger = read_ledger(folder)
    taken = [key for step in sorted(ledger) for key in ledger[step]]
    assert sorted(ledger) == list(range(1, STEPS + 1))
    assert len(taken) == STEPS * 32
    assert len(set(taken[:200])) == 200  # each pair of the first epoch once
    assert max(committed_steps(folder.checkpoints)) == STEPS
    client = MlflowClient(tracking_uri=mlflow.uri)
    (run,) = client.search_runs([client.get_experiment_by_name("clippy").experiment_id])
    assert run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert sorted(metric.step for metric in history) == list(range(1, STEPS + 1))

    token = Path(setting.told["token_file"]).read_text()
    details = requests.get(
        f"{setting.told['address']}/api/jobs/{job[1]}", headers={"Authorization": f"Bearer {token}"}, timeout=30
    )
    assert details.json()["status"] == "SUCCEEDED"
    assert SECRET not in details.text
    for file in Path(setting.told["logs"]).rglob("*"):
        if file.name == "environment.json":
            assert file.stat().st_mode & 0o777 == 0o600
        elif file.is_file():
            assert SECRET.encode() not in file.read_bytes(), file
