"""Jobs on a Ray cluster: sent, followed, told of and stopped."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shlex
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.job_process import ENVIRONMENT_FILE, SETUP_HOOK
from cluster.job_server import JobServer, last_line
from cluster.package import Package
from cluster.submission import Submission

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

STOP_SECONDS = 120
"""So long a job may take to save a checkpoint and end when it is stopped; then it is killed."""
_INSTALL_SECONDS = 1800
_LOST_CONNECTIONS = 5
_OVER = ("SUCCEEDED", "FAILED", "STOPPED")
_COMMAND = "command"


@dataclass(frozen=True)
class Job:
    """A job, as the cluster tells of it."""

    name: str
    status: str
    command: str
    message: str
    started: float | None
    ended: float | None
    """Seconds since 1970."""

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes of it."""
        return self.status in _OVER

    @property
    def error(self) -> str:
        """Why it failed: the last line of its log, or what kept it from starting, such as pip's error."""
        _, logged, tail = self.message.partition("last available logs")
        lines = [line.strip() for line in (tail if logged else self.message).splitlines() if line.strip()]
        if not lines:
            return "it left no message"
        if logged:
            return lines[-1]
        return " ".join([lines[0], *(line for line in lines[1:] if line.startswith("ERROR:"))][:2])

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        told: dict[str, Any] = {"job": self.name, "status": self.status, "command": self.command}
        told |= {"started": self.started, "ended": self.ended}
        return told | ({"error": self.error} if self.status == "FAILED" else {})


def submit(
    server: JobServer,
    submission: Submission,
    package: Package | None,
    *,
    environment: Mapping[str, str],
    install: Sequence[str] = (),
    image: str | None = None,
) -> str:
    """Send the command, and the package that it runs in, and return the job's name.

    ``environment`` is set in all processes of the job; ``install`` is what pip installs first; an ``image`` has all
    it needs, and gets no package. Raises ValueError where the cluster refuses.
    """
    with tempfile.TemporaryDirectory(prefix="clippy-package-") as scratch:
        runtime_env: dict[str, Any] = {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)}}
        if image:
            runtime_env["image_uri"] = image
        if package:
            file = Path(scratch) / "package.zip"
            package.write(file, _environment_file(environment))
            runtime_env["working_dir"] = str(file)
            if environment:
                runtime_env["worker_process_setup_hook"] = SETUP_HOOK
        if install:
            runtime_env["pip"] = {"packages": list(install), "pip_check": False}
            runtime_env["config"] = {"setup_timeout_seconds": _INSTALL_SECONDS}
        with server.client() as client:
            name: str = client.submit_job(
                entrypoint="exec python -m cluster.job_process " + shlex.join(submission.words),
                submission_id=f"clippy-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}",
                runtime_env=runtime_env,
                metadata={_COMMAND: "clippy " + shlex.join(submission.words)},
            )
    return name


def read_environment(names: Sequence[str]) -> dict[str, str]:
    """These variables of this process. Raises ValueError for one that is not set."""
    for name in names:
        if "=" in name:
            raise ValueError(
                f"--env: {name.partition('=')[0]}=... would leave the value in the shell's history and in ps; set the "
                "variable here and give its name alone"
            )
        if name not in os.environ:
            raise ValueError(f"--env: {name} is not set here; set it, or leave the option out")
    return {name: os.environ[name] for name in names}


def requirements(folder: Path) -> list[str]:
    """What pip needs for the project in ``folder``: its dependencies, in the versions of its constraints file.

    The project's own code is the package. Raises ValueError where ``folder`` is not the project.
    """
    import hashlib
    import tomllib

    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        constraints = (folder / "constraints.txt").read_bytes()
        dependencies = [str(dependency) for dependency in project["dependencies"]]
        ours = project["name"] == "clippy-on-ray"
    except (OSError, ValueError, KeyError):
        ours = False
    if not ours:
        raise ValueError(
            "there is no pyproject.toml of this project and constraints.txt in this folder, from which a job's Python "
            "packages are installed; submit from the project's folder, or add --no-install where the cluster's nodes "
            "have clippy"
        )
    # Ray reuses an environment for the same words, so these tell one constraints file from another.
    digest = hashlib.sha256(constraints).hexdigest()[:12]
    return [*dependencies, "-c ${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}/constraints.txt", f"# constraints {digest}"]


def list_jobs(server: JobServer) -> list[Job]:
    """All jobs that were submitted to the cluster, the newest first."""
    with server.client() as client:
        jobs = [_job(details) for details in client.list_jobs() if details.submission_id]
    return sorted(jobs, key=lambda job: job.started or 0.0, reverse=True)


def find_job(server: JobServer, name: str) -> Job:
    """The job of that name. Raises ValueError if there is none."""
    with server.client() as client:
        try:
            details = client.get_job_info(name)
        except RuntimeError as error:
            if "404" not in str(error):
                raise
            details = None
    if details is None or not details.submission_id:
        raise ValueError(f"JOB: the cluster knows no job {name!r}; see: {server.command('list')}")
    return _job(details)


def stop(server: JobServer, name: str) -> Job:
    """Ask the job to save a checkpoint and end; the answer does not wait for it. Raises ValueError if it is over."""
    job = find_job(server, name)
    if job.is_over:
        raise ValueError(f"JOB: {name} is over already: {job.status.lower()}")
    with server.client() as client:
        client.stop_job(name)
    return job


def logs(server: JobServer, name: str) -> str:
    """What a job that is known printed so far."""
    with server.client() as client:
        return str(client.get_job_logs(name))


def follow(server: JobServer, name: str, write: Callable[[str], None]) -> Job:
    """Pass on what the job prints, from its start, until it is over; a connection that is lost is made again.

    Raises ValueError where the cluster is gone.
    """
    written, left = 0, _LOST_CONNECTIONS

    async def pass_on() -> None:
        nonlocal written, left
        seen = 0  # each connection tells everything from the start
        with server.client() as client:
            async with aclosing(client.tail_job_logs(name)) as chunks:
                async for chunk in chunks:
                    seen += len(chunk)
                    fresh = min(len(chunk), seen - written)
                    if fresh > 0:
                        write(chunk[-fresh:])
                        written += fresh
                        left = _LOST_CONNECTIONS  # these are in a row: a job may print for weeks
                    _stop_if_interrupted()
        _stop_if_interrupted()

    while True:
        try:
            asyncio.run(pass_on())
            job = find_job(server, name)
            if job.is_over:
                return job
        except (OSError, ValueError) as error:
            left -= 1
            if not left:
                raise ValueError(
                    f"lost the job server at {server.shown}; the job may go on ({last_line(error)})"
                ) from None
        time.sleep(1)


def _stop_if_interrupted() -> None:
    """Ctrl-C cancels the task once, and a client that loses its connection just then can swallow that."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _environment_file(environment: Mapping[str, str]) -> dict[str, bytes]:
    """The file that sets the variables; salted, because Ray shows a digest of the package."""
    if not environment:
        return {}
    return {ENVIRONMENT_FILE: json.dumps({"salt": secrets.token_hex(16), "variables": dict(environment)}).encode()}


def _job(details: JobDetails) -> Job:
    def seconds(milliseconds: int | None) -> float | None:
        return milliseconds / 1000 if milliseconds else None

    return Job(
        name=details.submission_id,
        status=getattr(details.status, "value", str(details.status)),
        command=(details.metadata or {}).get(_COMMAND, details.entrypoint),
        message=details.message or "",
        started=seconds(details.start_time),
        ended=seconds(details.end_time),
    )
