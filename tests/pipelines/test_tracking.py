"""Tracking by a real MLflow server that goes away: training goes on, and afterwards nothing is missing or twice."""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pipelines import mlflow_outbox, tracking
from pipelines.console import Console
from pipelines.mlflow_outbox import Outbox, Request
from pipelines.prepare import find_datasets, make_source
from pipelines.recipe import Recipe, load_recipe
from pipelines.run_folder import RunFolder
from pipelines.samples import Source
from pipelines.storage import locate
from pipelines.tracking import Tracker
from tests.conftest import ALONE


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Server:
    """``mlflow server`` on a free port of loopback; killed and started again it has the same port and store."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self._folder}/mlflow.db"]
        command += ["--artifacts-destination", str(self._folder / "artifacts")]
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with open(self._folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, start_new_session=True
            )  # a session of its own: what answers is a child of the command
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
                return
            except OSError:
                assert self._process.poll() is None, (self._folder / "log").read_text()
                assert time.monotonic() < deadline, "the MLflow server does not start"
                time.sleep(0.1)

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("mlflow"))
    server.start()
    yield server
    server.kill()


class Line:
    """The way to a server; while it is cut, the server is away, and whatever was under way is lost."""

    def __init__(self, start_proxy: Callable[..., AbstractContextManager[str]], uri: str) -> None:
        self._proxy = partial(start_proxy, uri, port=free_port())
        self._open = ExitStack()
        self.uri = self._open.enter_context(self._proxy())

    def cut(self) -> None:
        self._open.close()

    def mend(self) -> None:
        self._open.enter_context(self._proxy())


@pytest.fixture
def line(server: Server, storage_proxy: ModuleType) -> Iterator[Line]:
    line = Line(storage_proxy.start_proxy, server.uri)
    yield line
    line.cut()


@pytest.fixture
def said() -> Iterator[list[str]]:
    """What the tracker says to the user."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("pipelines").addHandler(handler)
    yield lines
    logging.getLogger("pipelines").removeHandler(handler)


Track = Callable[..., tuple[Tracker, Recipe, Source]]


@pytest.fixture
def track(overrides: list[str]) -> Track:
    """A tracker of the store at ``uri`` for a run in this test's folder, with its recipe and data."""

    def make(uri: str) -> tuple[Tracker, Recipe, Source]:
        recipe = load_recipe("shapes", [*overrides, f"tracking.uri={uri}"])
        source = make_source(recipe.absolute(), find_datasets(recipe, Console()))
        return Tracker(recipe, RunFolder(locate(recipe.run_url))), recipe, source

    return make


def record(step: int) -> dict[str, Any]:
    return {
        "step": step,
        "loss": math.nan if step % 7 == 0 else 1 / step,
        "learning_rate": 1e-3,
        "grad_norm": math.inf if step % 7 == 0 else 2.0,
        "invalid_rows": {"truncated_image": step},
    }


def check_complete(uri: str, run_id: str, steps: int) -> None:
    """Each metric of each step is there once, as it was."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    for name, value in (("loss", lambda r: r["loss"]), ("invalid_rows/truncated_image", lambda r: r["step"])):
        history = sorted(client.get_metric_history(run_id, f"train/{name}"), key=lambda metric: metric.step)
        assert [metric.step for metric in history] == list(range(1, steps + 1))
        assert [metric.value for metric in history] == pytest.approx(
            [value(record(step)) for step in range(1, steps + 1)], abs=0, nan_ok=True
        )


def test_a_server_killed_and_started_again_has_everything_once(server: Server, track: Track, said: list[str]) -> None:
    from mlflow import MlflowClient

    tracker, recipe, source = track(server.uri)
    restart = threading.Thread(target=server.start)
    for step in range(1, 301):
        tracker.log([record(step)])
        time.sleep(0.005)
        if step == 100:
            server.kill()
            tracker.describe(recipe, source)
            tracker.log_values({"eval/accuracy": 0.5}, step)
        if step == 200:  # never reached if logging waited for the server
            restart.start()
    tracker.finish("FINISHED")
    restart.join()
    check_complete(server.uri, tracker.run_id, 300)
    client = MlflowClient(server.uri)
    run = client.get_run(tracker.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["train.steps"] == "12"
    assert run.data.metrics["eval/accuracy"] == 0.5
    assert math.isnan(client.get_metric_history(tracker.run_id, "train/grad_norm")[6].value)  # not 1.8e308
    assert run.inputs.dataset_inputs[0].dataset.digest == source.digest[:36]
    assert [file.path for file in client.list_artifacts(tracker.run_id)] == ["recipe.yaml"]
    assert "does not answer" in said[0]
    assert "answers again" in said[-1]


def test_what_a_server_that_stays_away_lacks_is_said_and_sent_at_the_next_start(
    line: Line, track: Track, said: list[str]
) -> None:
    from mlflow import MlflowClient

    tracker, recipe, source = track(line.uri)
    tracker.log([record(step) for step in range(1, 6)])
    while len(MlflowClient(line.uri).get_metric_history(tracker.run_id, "train/loss")) < 5:
        time.sleep(0.05)
    line.cut()
    tracker.log([record(step) for step in range(6, 10)])
    tracker.log_text("{}", "summary.json")
    started = time.monotonic()
    tracker.finish("FINISHED", patience=2)
    assert time.monotonic() - started < 10
    assert said[-1].endswith(
        "lacks metrics of steps 6 to 9, summary.json, the run's end; the same command again sends it"
    )
    line.mend()
    again, _, _ = track(line.uri)
    assert again.run_id == tracker.run_id
    for _ in range(2):
        again.describe(recipe, source)
        again.log([record(step) for step in range(1, 13)])
    again.finish("KILLED")
    check_complete(line.uri, again.run_id, 12)
    assert MlflowClient(line.uri).get_run(again.run_id).info.status == "KILLED"


def test_answers_lost_on_the_way_leave_nothing_twice(
    server: Server, track: Track, storage_proxy: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the faults of the proxy, 'reset' breaks off the answer to a request that the server has carried out."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with storage_proxy.start_proxy(server.uri, fail_every=4, faults=["reset", "503"]) as uri:
        tracker, recipe, source = track(uri)
        tracker.describe(recipe, source)
        for start in range(1, 1001, 100):
            tracker.log([record(step) for step in range(start, start + 100)])
        tracker.finish("FINISHED")
        assert storage_proxy.read_counts(uri)["faults"]["reset"] > 0
    check_complete(server.uri, tracker.run_id, 1000)


def test_a_password_in_the_address_is_not_shown(monkeypatch: pytest.MonkeyPatch, overrides: list[str]) -> None:
    monkeypatch.setattr(tracking, "_PAUSES_AT_THE_START", ())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:pass@127.0.0.1:9")
    recipe = load_recipe("shapes", overrides)
    with pytest.raises(ValueError, match=r"no MLflow store answers at http://127\.0\.0\.1:9 \(.*//127") as error:
        Tracker(recipe, RunFolder(locate(recipe.run_url)))
    assert "pass" not in str(error.value)


def test_what_the_store_refuses_is_named_and_nothing_else_is_lost(
    track: Track, tmp_path: Path, said: list[str]
) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    tracker, _, _ = track(uri)
    tracker.log([record(1)])  # may go out together with what follows
    tracker.log_values({"no such name!": 1.0}, 1)
    tracker.log_file(tmp_path / "gone.png")
    tracker.log([record(2)])
    tracker.finish("FINISHED")
    check_complete(uri, tracker.run_id, 2)
    assert ["metrics of step 1" in line or "gone.png" in line for line in said] == [True, True]


def test_a_request_that_always_fails_holds_up_no_other(said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_outbox, "_TRIES", 2)
    sent: list[str] = []

    def fail() -> None:
        raise ConnectionError("no artifact store")

    outbox = Outbox("here", sent.append, lambda: None)
    outbox.put(Request("picture.png", fail))
    outbox.put(Request("the rest", lambda: sent.append("the rest")))
    assert outbox.close(patience=30) == []
    assert sent == ["the rest"]
    assert "picture.png" in said[-2]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_training_whose_server_goes_away_and_comes_back_lacks_no_metric(
    line: Line, overrides: list[str], tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    from pipelines.train import run

    folder, steps = RunFolder(locate(f"{tmp_path}/runs/shapes")), 60

    def reach(step: int) -> None:
        while len(folder.read_metrics()) < step:
            time.sleep(0.02)

    def cut_and_mend() -> None:
        reach(10)
        line.cut()
        reach(30)  # training goes on meanwhile
        line.mend()

    disturber = threading.Thread(target=cut_and_mend, daemon=True)
    disturber.start()
    more = [f"tracking.uri={line.uri}", f"train.steps={steps}", "checkpoint.every=30"]
    summary = run(load_recipe("shapes", [*overrides, *ALONE, *more]), Console())
    disturber.join(timeout=120)
    assert summary.status == "finished"
    assert summary.mlflow_run_id is not None
    client = MlflowClient(line.uri)
    losses = {record["step"]: record["loss"] for record in folder.read_metrics()}
    for name in ("loss", "learning_rate", "images_per_second"):
        history = client.get_metric_history(summary.mlflow_run_id, f"train/{name}")
        assert sorted(metric.step for metric in history) == list(range(1, steps + 1))
        assert name != "loss" or {metric.step: metric.value for metric in history} == losses
    assert client.get_run(summary.mlflow_run_id).info.status == "FINISHED"
    artifacts = {file.path for file in client.list_artifacts(summary.mlflow_run_id)}
    assert artifacts == {"recipe.yaml", "summary.json"}
