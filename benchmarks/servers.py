"""A folder of this machine as a bucket of object storage on loopback: nginx where it is installed, else moto."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

from storage_proxy import Address, connect

BUCKET = "bucket"

_NGINX = """
daemon off;
pid {scratch}/pid;
error_log stderr error;
worker_processes 1;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 1000000;
  keepalive_timeout 600s;
  open_file_cache max=20000;
  client_body_temp_path {scratch}/body;
  proxy_temp_path {scratch}/proxy;
  fastcgi_temp_path {scratch}/fastcgi;
  uwsgi_temp_path {scratch}/uwsgi;
  scgi_temp_path {scratch}/scgi;
  default_type binary/octet-stream;
  server {{
    listen unix:{scratch}/socket;
    location /{bucket}/ {{ alias {folder}/; }}
  }}
}}
"""


@contextmanager
def serve_folder(folder: Path) -> Iterator[str]:
    """Where ``start_proxy`` finds ``s3://bucket/...`` with what ``folder`` holds; needs no credentials."""
    if shutil.which("nginx") or Path("/usr/sbin/nginx").exists():
        with _nginx(folder) as endpoint:
            yield endpoint
    else:
        with _moto(folder) as endpoint:
            yield endpoint


def clean_up_when_terminated() -> None:
    """Let SIGTERM end this program as Ctrl-C does: servers stopped, folders removed."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def storage_options(endpoint: str) -> str:
    """The recipe override value for ``data.storage_options`` that reads from ``endpoint``."""
    return f"{{endpoint_url: '{endpoint}', anon: true, region: us-east-1}}"


@contextmanager
def _nginx(folder: Path) -> Iterator[str]:
    """nginx knows byte ranges and HEAD, which is all of S3 that reading by a manifest needs; it cannot list.

    It listens on a socket file, a quarter of the CPU of TCP: what it takes, those lack who are measured.
    """
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    with tempfile.TemporaryDirectory(prefix="nginx") as scratch:
        config = Path(scratch) / "nginx.conf"
        user = "user root;\n" if os.geteuid() == 0 else ""  # or it would read the files as nobody
        content = user + _NGINX.format(scratch=scratch, bucket=BUCKET, folder=folder.resolve())
        config.write_text(content, encoding="utf-8")
        with _process([program, "-p", scratch, "-e", "stderr", "-c", str(config)], f"{scratch}/socket"):
            yield f"unix:{scratch}/socket"


@contextmanager
def _moto(folder: Path) -> Iterator[str]:
    import pyarrow.fs as pafs

    port = _free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile())
        stack.enter_context(_process(command, ("127.0.0.1", port), stderr=log))
        bucket = pafs.S3FileSystem(
            access_key="any",
            secret_key="any",
            endpoint_override=f"127.0.0.1:{port}",
            scheme="http",
            region="us-east-1",
            allow_bucket_creation=True,
        )
        bucket.create_dir(BUCKET)
        if any(folder.iterdir()):
            pafs.copy_files(str(folder), BUCKET, pafs.LocalFileSystem(), bucket)
        yield f"http://127.0.0.1:{port}"


@contextmanager
def serve_bucket() -> Iterator[str]:
    """The endpoint of an empty bucket that can be written to, with any credentials."""
    with tempfile.TemporaryDirectory() as nothing, _moto(Path(nothing)) as endpoint:
        yield endpoint


class Server:
    """A server on a port of its own that can be stopped and started again there."""

    def __init__(self, *command: str) -> None:
        """``command`` starts it; the port is appended."""
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._command = [sys.executable, *command, "--port", str(self.port)]
        self._running = ExitStack()

    def start(self, *more: str) -> None:
        """Start it, and wait until it answers."""
        command, address = [*self._command, *more], ("127.0.0.1", self.port)
        self._running.enter_context(_process(command, address, stderr=subprocess.DEVNULL, group=True))

    def stop(self) -> None:
        """Kill it, and what it started."""
        self._running.close()

    def restart(self, *more: str) -> None:
        """Go on with other options."""
        self.stop()
        self.start(*more)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *reason: object) -> None:
        self.stop()


class Proxy(Server):
    """``storage_proxy.py`` in front of a server."""

    def __init__(self, upstream: str) -> None:
        super().__init__(str(Path(__file__).parent / "storage_proxy.py"), "--upstream", upstream)


class MlflowServer(Server):
    """An MLflow server whose store lies in ``folder``."""

    def __init__(self, folder: Path) -> None:
        store = ["--backend-store-uri", f"sqlite:///{folder}/mlflow-server.db"]
        store += ["--artifacts-destination", f"{folder}/artifacts"]
        super().__init__("-m", "mlflow", "server", "--host", "127.0.0.1", "--workers", "1", *store)

    def steps(self, run_id: str) -> list[int]:
        """The steps of a run's losses."""
        from mlflow import MlflowClient

        history = MlflowClient(tracking_uri=self.url).get_metric_history(run_id, "train/loss")
        return [metric.step for metric in history]


@contextmanager
def _process(command: list[str], address: Address, stderr: object = None, group: bool = False) -> Iterator[None]:
    """Run a server while the context lasts, from when it answers there; at last kill it, or all its group."""
    with subprocess.Popen(  # type: ignore[call-overload]
        command, stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=group
    ) as process:
        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    connect(address).close()
                    break
                except OSError:
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise RuntimeError(f"no server at {address}: {' '.join(command)}") from None
                    time.sleep(0.05)
            yield
        finally:
            if group:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.terminate()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
