"""A Ray cluster of several nodes on this machine, to try everything on: started, found again, and stopped.

Each node is one ``ray start --block``, whose servers and workers the kernel ends with it; so a node is one process id.
What is known of the cluster, its token too, lies in a folder that only its owner may read.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

START_SECONDS = 180
_STOP_SECONDS = 15
_STORE_SHARE = 0.3
"""Of the memory, for the object stores of all nodes; Ray would give each node as much."""
_STORE_BYTES = (96 << 20, 2 << 30)
"""Least and most for one node's."""


@dataclass(frozen=True)
class LocalCluster:
    """A cluster as it was started."""

    url: str
    """Of its job server and dashboard."""
    ray_address: str
    scratch: Path
    """Ray's own files and logs."""
    token_file: Path
    pids: tuple[int, ...]
    """The head's process, then one for each node."""
    cpus_per_node: int

    def running(self) -> list[int]:
        """The processes that still run, and are this cluster's: an id may have passed on to another process."""
        return [pid for pid in self.pids if str(self.scratch) in _command(pid)]

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        named = {"address": self.url, "ray_address": self.ray_address, "token_file": str(self.token_file)}
        return named | {"pids": list(self.pids), "logs": str(self.scratch)}


def state_folder() -> Path:
    """Where the cluster of this user is remembered."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "clippy" / "local-cluster"


def find_local_cluster() -> LocalCluster | None:
    """The cluster that was started here, if its head still runs."""
    cluster = _remembered()
    return cluster if cluster and set(cluster.pids[:1]) & set(cluster.running()) else None


def start_local_cluster(nodes: int, cpus_per_node: int, progress: Callable[[str], None]) -> LocalCluster:
    """Start a head without CPUs of its own, and ``nodes`` nodes; they go on when this process ends.

    Raises ValueError where one runs already, or it does not come up.
    """
    _check_installed()
    known = find_local_cluster()
    if known:
        raise ValueError(
            f"a local cluster of {len(known.pids) - 1} nodes runs already, at {known.url}; "
            "to have another one, run clippy cluster down first"
        )
    stop_local_cluster()  # what is left of one whose head died
    token = secrets.token_hex(32)
    cluster = _new_cluster(token, cpus_per_node)
    port, dashboard = cluster.ray_address.rpartition(":")[2], cluster.url.rpartition(":")[2]
    memory = f"--object-store-memory={_store_bytes(nodes)}"
    head = ["--head", f"--port={port}", f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1"]
    head += ["--include-dashboard=true", "--disable-usage-stats"]
    head += ["--num-cpus=0", "--num-gpus=0", f"--ray-client-server-port={_free_port()}"]
    try:
        progress("starting the head")
        cluster = _with_node(cluster, [*head, f"--object-store-memory={_STORE_BYTES[0]}"])
        _wait(cluster, lambda: _alive(cluster.url, token) == 1, "the head did not come up")
        progress(f"starting {nodes} nodes")
        for number in range(1, nodes + 1):
            arguments = [f"--address={cluster.ray_address}", f"--num-cpus={cpus_per_node}", memory]
            arguments += [] if number == 1 else ["--num-gpus=0"]  # the first has those of the machine
            cluster = _with_node(cluster, arguments)
        _wait(cluster, lambda: _alive(cluster.url, token) == nodes + 1, "not all nodes came up")
    except ValueError:  # it names the logs
        stop_local_cluster(keep_logs=True)
        raise
    except BaseException:
        stop_local_cluster()
        shutil.rmtree(cluster.scratch, ignore_errors=True)  # if no node was remembered yet
        raise
    return cluster


def stop_local_cluster(keep_logs: bool = False) -> LocalCluster | None:
    """Stop the processes of the cluster that is remembered, and nothing else; forget it. None if there is none."""
    cluster = _remembered()
    if cluster:
        for pid in reversed(cluster.running()):
            _signal(pid, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_SECONDS
        while cluster.running() and time.monotonic() < deadline:
            time.sleep(0.1)
        for pid in cluster.running():
            _signal(pid, signal.SIGKILL)
        if not keep_logs:
            shutil.rmtree(cluster.scratch, ignore_errors=True)
    shutil.rmtree(state_folder(), ignore_errors=True)
    return cluster


def _check_installed() -> None:
    from importlib.util import find_spec

    missing = [name for name in ("aiohttp_cors", "opencensus", "virtualenv") if find_spec(name) is None]
    if missing:
        raise ValueError(
            "--local: Ray's dashboard, which takes the jobs, is not installed; run: pip install 'ray[default]'"
        )


def _remembered() -> LocalCluster | None:
    try:
        values = json.loads((state_folder() / "state.json").read_text(encoding="utf-8"))
        paths = {name: Path(values[name]) for name in ("scratch", "token_file")}
        return LocalCluster(**{**values, **paths, "pids": tuple(values["pids"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _environment(token_file: Path) -> dict[str, str]:
    """The nodes': this process's, so that jobs find the same programs, with a token to ask for."""
    spoiling = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN")
    kept = {name: value for name, value in os.environ.items() if name not in spoiling}
    return kept | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_file),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        # A head without CPUs would start one process at a time, and a job has several there.
        "RAY_worker_maximum_startup_concurrency": "4",
        "RAY_prestart_worker_first_driver": "0",  # a process for each CPU, and these CPUs are only counted
    }


def _new_cluster(token: str, cpus_per_node: int) -> LocalCluster:
    """One without processes yet, its token written down."""
    folder = state_folder()
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    _write_private(folder / "token", token)
    return LocalCluster(
        url=f"http://127.0.0.1:{_free_port()}",
        ray_address=f"127.0.0.1:{_free_port()}",
        scratch=Path(tempfile.mkdtemp(prefix="clippy-ray-", dir="/tmp")),  # short: Ray's sockets lie in it
        token_file=folder / "token",
        pids=(),
        cpus_per_node=cpus_per_node,
    )


def _with_node(cluster: LocalCluster, arguments: list[str]) -> LocalCluster:
    """The cluster with one node more, started and remembered."""
    name = _node_name(len(cluster.pids))
    folder = cluster.scratch / name  # of its own: nodes that share one get in each other's way
    folder.mkdir()
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--node-ip-address=127.0.0.1"]
    command += [f"--node-name={name}", f"--temp-dir={folder}", f"--dashboard-agent-listen-port={_free_port()}"]
    command += ["--min-worker-port=0", "--max-worker-port=0", *arguments]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            command,
            env=_environment(cluster.token_file),
            cwd=folder,  # or the folder of whoever started it would be importable in every job
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C in this terminal is not meant for it
        )
    grown = replace(cluster, pids=(*cluster.pids, process.pid))
    _write_private(state_folder() / "state.json", json.dumps(asdict(grown), default=str))
    return grown


def _node_name(number: int) -> str:
    return f"node-{number}" if number else "head"


def _wait(cluster: LocalCluster, is_so: Callable[[], bool], problem: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not is_so():
        ended = set(cluster.pids) - set(cluster.running())
        if ended or time.monotonic() > deadline:
            names = [_node_name(number) for number, pid in enumerate(cluster.pids) if pid in ended]
            reason = f"{names[0]} ended by itself" if names else f"waited for {START_SECONDS} s"
            raise ValueError(f"--local: {problem}: {reason}; why is in the logs in {cluster.scratch}")
        time.sleep(0.2)


def _alive(url: str, token: str) -> int:
    """How many nodes the head knows of; 0 before it answers."""
    import requests

    try:
        headers = {"Authorization": f"Bearer {token}"}
        answer = requests.get(f"{url}/api/v0/nodes?limit=10000", headers=headers, timeout=5).json()
        return sum(node["state"] == "ALIVE" for node in answer["data"]["result"]["result"])
    except (requests.RequestException, ValueError, KeyError, TypeError):
        return 0


def _store_bytes(nodes: int) -> int:
    """Of one node's object store."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if os.path.isdir("/dev/shm"):
        memory = min(memory, shutil.disk_usage("/dev/shm").free)
    least, most = _STORE_BYTES
    return max(least, min(most, int(memory * _STORE_SHARE / nodes)))


def _command(pid: int) -> str:
    """The command line of a process; empty where there is none, or it has ended."""
    if os.path.isdir("/proc/self"):
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        except OSError:
            return ""
    return subprocess.run(["ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, text=True).stdout


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _write_private(file: Path, text: str) -> None:
    """Whole or not at all, and never readable by others."""
    fresh = file.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
        stream.write(text)
    os.replace(fresh, file)
