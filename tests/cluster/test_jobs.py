"""What is asked of a job server and told of its jobs, before a server that answers from memory."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster import jobs
from cluster.job_server import JobServer, Node

Command = Callable[..., subprocess.CompletedProcess[str]]
ADDRESS = "http://me:hunter2@head:8265"


class Server(JobServer):
    """A job server with one job; it counts what it is asked."""

    def __init__(self, address: str | None = None, status: str = "SUCCEEDED") -> None:
        self.url, self.is_local, self._address = address or "http://127.0.0.1:1", False, address
        self.ray_version, self.status, self.asked = "2.60.0", status, []
        self.chunks: list[str | Exception] = ["step 1\n"]

    @contextmanager
    def client(self) -> Iterator[Server]:
        yield self

    def submit_job(self, **told: Any) -> str:
        self.asked.append("submit")
        with zipfile.ZipFile(told["runtime_env"]["working_dir"]) as package:
            self.package = {name: package.read(name).decode() for name in package.namelist()}
        self.told = json.dumps(told)
        return "clippy-1"

    def get_job_info(self, name: str) -> SimpleNamespace:
        self.asked.append("job")
        if name != "clippy-1":
            raise RuntimeError("Request failed with status code 404")
        return SimpleNamespace(
            submission_id=name, status=self.status, metadata={}, entrypoint="x", message="", start_time=1, end_time=2
        )

    def get_job_logs(self, name: str) -> str:
        self.asked.append("logs")
        return "step 1\n"

    async def tail_job_logs(self, name: str) -> AsyncIterator[str]:
        """Everything from the start, up to an error, which comes once."""
        for number, chunk in enumerate(self.chunks):
            if isinstance(chunk, Exception):
                del self.chunks[number]
                raise chunk
            yield chunk


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    """The one that every verb connects to."""
    made = Server(ADDRESS)
    monkeypatch.setattr("cluster.job_server.connect", lambda address: made)
    return made


@pytest.mark.parametrize("more", [(), ("--follow",)])
def test_a_submitted_job_is_told_alike_and_its_variables_travel_in_the_package_alone(
    clippy_command: Command, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STORE_PASSWORD", "open sesame")
    monkeypatch.setattr(server, "check_version", lambda: None)
    monkeypatch.setattr(server, "nodes", lambda: [])
    (tmp_path / "train.py").touch()
    options = ("--no-install", "--env", "STORE_PASSWORD", "--json", *more)
    sent = clippy_command("cluster", "submit", *options, "--", "data", "index", "s3://b/a b")
    assert sent.returncode == 0, sent.stderr
    told = json.loads(sent.stdout)
    assert told["job"] == "clippy-1"
    assert told["command"] == ["clippy", "data", "index", "s3://b/a b"]
    assert json.loads(server.told)["entrypoint"] == "exec python -m cluster.job_process data index 's3://b/a b'"
    assert set(server.package) == {"train.py", ".clippy-job/environment.json"}
    assert "open sesame" in server.package[".clippy-job/environment.json"]
    assert "open sesame" not in server.told + sent.stdout + sent.stderr
    assert "hunter2" not in sent.stdout + sent.stderr


def test_logs_look_the_job_up_once(clippy_command: Command, server: Server) -> None:
    result = clippy_command("cluster", "logs", "clippy-1", "--json")
    assert (result.returncode, json.loads(result.stdout)["logs"]) == (0, "step 1\n")
    assert server.asked == ["job", "logs"]


def test_hints_name_the_cluster_again_and_no_password(
    clippy_command: Command, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cluster.jobs.follow", interrupted)
    stopped = clippy_command("cluster", "logs", "--follow", "clippy-1", "--address", ADDRESS)
    assert stopped.returncode == 130
    assert "clippy cluster logs --address http://head:8265 --follow clippy-1\n" in stopped.stderr
    assert "clippy cluster stop --address http://head:8265 clippy-1\n" in stopped.stderr
    unknown = clippy_command("cluster", "stop", "nobody", "--address", ADDRESS)
    assert unknown.returncode == 2
    assert "knows no job 'nobody'; see: clippy cluster list --address http://head:8265\n" in unknown.stderr
    assert "hunter2" not in stopped.stderr + unknown.stderr
    assert Server().command("stop", "a b") == "clippy cluster stop 'a b'"


def test_status_tells_the_nodes(clippy_command: Command, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node("0a", "10.0.0.1", True, {"CPU": 4.0}, {"CPU": 1.0})
    monkeypatch.setattr(server, "nodes", lambda: [node])
    told = json.loads(clippy_command("cluster", "status", "--json").stdout)
    nodes = [{"id": "0a", "address": "10.0.0.1", "is_head": True, "resources": {"CPU": 4.0}, "used": {"CPU": 1.0}}]
    assert told == {"address": "http://head:8265", "ray_version": "2.60.0", "nodes": nodes}
    text = clippy_command("cluster", "status").stdout
    assert "Ray 2.60.0 at http://head:8265, 1 nodes" in text
    assert "3 of 4" in text


@pytest.mark.parametrize("chunks", [["step 1\n", "step 2\n"], []])
def test_following_is_interrupted_where_the_client_swallows_that(server: Server, chunks: list[str]) -> None:
    async def tail(name: str) -> AsyncIterator[str]:
        os.kill(os.getpid(), signal.SIGINT)
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(10)
        for chunk in chunks:
            yield chunk

    server.tail_job_logs = tail  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        jobs.follow(server, "clippy-1", lambda text: None)


def test_following_outlives_any_number_of_lost_connections_but_not_of_those_in_a_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    server, printed = Server(), []
    server.chunks = [part for step in range(9) for part in (f"step {step}\n", OSError("reset"))]
    assert jobs.follow(server, "clippy-1", printed.append).status == "SUCCEEDED"
    assert "".join(printed) == "".join(f"step {step}\n" for step in range(9))
    server.chunks = ["step 1\n", *[OSError("reset")] * 9]
    with pytest.raises(ValueError, match=r"lost the job server at .*; the job may go on"):
        jobs.follow(server, "clippy-1", printed.append)
