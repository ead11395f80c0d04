"""The job server of a Ray cluster: where it is, the token it wants, and what the cluster has. Ray Jobs' REST API."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.local_cluster import find_local_cluster
from pipelines.credentials import without_credentials

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

_SECONDS = 10
"""So long the server may take for a small answer."""


@dataclass(frozen=True)
class Node:
    """A machine of the cluster."""

    node_id: str
    address: str
    is_head: bool
    resources: Mapping[str, float]
    used: Mapping[str, float] | None
    """None where the cluster does not tell."""

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        known = {"id": self.node_id, "address": self.address, "is_head": self.is_head}
        return known | {"resources": self.resources, "used": self.used}


class JobServer:
    """Speaks to the job server at ``url``, with ``token`` if it has one; ``address`` is how ``--address`` named it."""

    def __init__(self, url: str, token: str | None = None, is_local: bool = False, address: str | None = None) -> None:
        """Raises ValueError, within seconds, where no job server answers or the token is not the cluster's."""
        self.url, self.is_local, self._address = url, is_local, address
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        answer = self._get("/api/version")
        self.ray_version: str | None = answer.get("ray_version")
        if self.ray_version is None:
            raise ValueError(f"--address: what answers at {self.shown} is no Ray job server; {_REMEDY}")

    @property
    def shown(self) -> str:
        """The URL as it may be printed."""
        return without_credentials(self.url)

    def command(self, *words: str) -> str:
        """``clippy cluster`` with these words, for this cluster, as it may be printed and typed."""
        told = ["--address", without_credentials(self._address)] if self._address else []
        return shlex.join(["clippy", "cluster", words[0], *told, *words[1:]])

    def check_version(self) -> None:
        """Raises ValueError where the cluster's Ray is not the one that this program is for."""
        import ray

        ours = ray.__version__
        if ours.split(".")[:2] != str(self.ray_version).split(".")[:2]:
            raise ValueError(
                f"--address: the cluster at {self.shown} runs Ray {self.ray_version}, and this is for Ray {ours}; "
                f"start the cluster from an image of Ray {ours}"
            )

    def nodes(self) -> list[Node]:
        """The nodes that are alive, the head first. Raises ValueError where the cluster cannot tell."""
        try:
            listed = self._get("/api/v0/nodes?limit=10000")["data"]["result"]["result"]
        except (KeyError, TypeError):
            raise ValueError(
                f"the cluster at {self.shown} does not tell its nodes; look into its head's logs"
            ) from None
        summary = self._get("/nodes?view=summary").get("data") or {}
        usage = summary.get("nodeLogicalResources") or {}
        nodes = [
            Node(
                entry["node_id"],
                entry["node_ip"],
                entry["is_head_node"],
                {name: amount for name, amount in entry["resources_total"].items() if ":" not in name},
                read_usage(usage[entry["node_id"]]) if entry["node_id"] in usage else None,
            )
            for entry in listed
            if entry["state"] == "ALIVE"
        ]
        return sorted(nodes, key=lambda node: (not node.is_head, node.address, node.node_id))

    @contextmanager
    def client(self) -> Iterator[JobSubmissionClient]:
        """Ray's own client, for jobs and packages. Raises ValueError for what the server refuses."""
        import aiohttp
        import requests
        from ray.exceptions import AuthenticationError
        from ray.job_submission import JobSubmissionClient

        for name in ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            with _told("RAY_API_SERVER_ADDRESS", self.url):  # or RAY_ADDRESS would have the last word
                client = JobSubmissionClient(self.url, headers=dict(self._headers))
            yield client
        except AuthenticationError:
            raise ValueError(self._unauthorised(403)) from None
        except (requests.RequestException, aiohttp.ClientError, ConnectionError) as error:
            raise ValueError(self._unreachable(error)) from None
        except RuntimeError as error:  # a status code and what the server says, often with a traceback
            raise ValueError(f"the cluster at {self.shown} refused: {last_line(error)}") from None

    def _get(self, path: str) -> dict[str, Any]:
        import requests

        try:
            response = requests.get(self.url + path, headers=self._headers, timeout=_SECONDS)
        except requests.RequestException as error:
            raise ValueError(self._unreachable(error)) from None
        if response.status_code in (401, 403):
            raise ValueError(self._unauthorised(response.status_code))
        try:
            values = response.json() if response.ok else {}
        except ValueError:
            values = {}
        return values if isinstance(values, dict) else {}

    def _unreachable(self, error: Exception) -> str:
        problem = "it takes too long to answer" if "timed out" in str(error).lower() else "no connection"
        return f"--address: no Ray job server answers at {self.shown} ({problem}); {_REMEDY}"

    def _unauthorised(self, status: int) -> str:
        told = "set RAY_AUTH_TOKEN_PATH to a file that holds it, or RAY_AUTH_TOKEN"
        if self._headers and status == 403:
            return f"the cluster at {self.shown} does not accept the token; {told} to the cluster's own"
        return f"the cluster at {self.shown} asks for its token; {told}"


_REMEDY = "check that the cluster runs, and name its dashboard's address and port, as in http://HOST:8265"


def connect(address: str | None) -> JobServer:
    """The job server at ``address``, else as the environment says, else the local cluster's.

    Raises ValueError where there is none, or it does not answer.
    """
    variables = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
    named = {"--address": address, **{name: os.environ.get(name) for name in variables}}
    name, told = next(((name, value) for name, value in named.items() if value), ("--address", None))
    local = find_local_cluster()
    if not told:
        if local is None:
            raise ValueError(
                "--address: names no cluster, and none runs here; give http://HOST:8265, or start one on this machine "
                "with clippy cluster up --local"
            )
        told = local.url
    url = _url(told, name)
    is_local = local is not None and local.url == url.replace("://localhost:", "://127.0.0.1:")
    return JobServer(url, _token(local.token_file if local and is_local else None), is_local, address)


def _url(address: str, name: str) -> str:
    """The HTTP address of what ``name`` gives. Raises ValueError where it is of another kind."""
    scheme, separator, rest = address.partition("://")
    if not separator:
        scheme, rest = "http", address
    host, colon, port = rest.rstrip("/").rpartition(":")
    if scheme not in ("http", "https") or not rest.strip("/") or (rest == "auto") or (colon and not host):
        raise ValueError(f"{name}: {without_credentials(address)!r} is no address of a job server; {_REMEDY}")
    return f"{scheme}://{rest.rstrip('/')}"


def _token(local: Path | None) -> str | None:
    """The cluster's token: ``local`` for the one on this machine, else from where Ray itself looks.

    Raises ValueError where the file that is named cannot be read.
    """
    mode, named = os.environ.get("RAY_AUTH_MODE", "").lower(), os.environ.get("RAY_AUTH_TOKEN_PATH")
    if local is None and mode == "disabled":
        return None
    if local is None and (token := os.environ.get("RAY_AUTH_TOKEN")):
        return token.strip()
    file = local or (Path(named).expanduser() if named else None)
    if file is None and mode == "token":
        usual = Path("~/.ray/auth_token").expanduser()
        file = usual if usual.exists() else None
    if file is None:
        return None
    try:
        return file.read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError) as error:
        problem = getattr(error, "strerror", None) or "not a text file"
        raise ValueError(f"RAY_AUTH_TOKEN_PATH: {file} cannot be read ({problem}); name the token's file") from None


def read_usage(text: str) -> dict[str, float]:
    """The used amounts in what Ray's dashboard writes of a node, a line each: ``1.0/4.0 CPU``, ``0B/2.1GiB memory``."""
    used = {}
    for line in text.splitlines():
        amount, _, rest = line.strip().partition("/")
        name = rest.split(" ", 1)[-1].split(" (", 1)[0]
        try:
            used[name] = float(amount)
        except ValueError:
            continue  # bytes, written for people
    return used


def last_line(error: BaseException) -> str:
    """The last line of an error, which of a traceback is the one that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else type(error).__name__


@contextmanager
def _told(name: str, value: str) -> Iterator[None]:
    """An environment variable for the while."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
