"""Shared fixtures: one small dataset, one Ray for all tests that need it, two object stores; all on loopback."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import settings

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Models this small gain nothing from more threads, which wait for each other wherever other processes want the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray would run its workers at niceness 15, where they wait for whatever else the machine does.
os.environ.setdefault("RAY_worker_niceness", "0")
# Ray Train's controller looks after its workers that often, and a run ends, or starts again, when it looks.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

# A model and run small enough that a training test lasts seconds once Ray is up.
TINY = (
    "scaling.decode_cores=2",
    "model.image.arguments={patch_size: 16, embed_dim: 24, depth: 1, num_heads: 2}",
    "model.text.arguments={d_model: 24, d_kv: 12, num_heads: 2, d_ff: 32, num_layers: 1, dropout_rate: 0.1}",
    "model.image.patch_dropout=0.25",
    "optim.global_batch_size=32",
    "optim.warmup_steps=2",
    "train.steps=12",
    "train.log_every=1",
    "checkpoint.every=5",
)
# One worker and one decoder: half the processes of Ray, where how many there are is not what a test is about.
ALONE = ("scaling.num_workers=1", "scaling.decode_cores=1")


# The shapes benchmark in small: 13 row groups of two training shards, and all evaluation splits.
SMALL_SHAPES = {
    "rows": 200,
    "row_group_rows": 16,
    "shard_rows": 112,
    "single_rows": 48,
    "multi_rows": 40,
    "camouflage_rows": 24,
    "workers": 1,
}


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shapes benchmark in small."""
    from pipelines.shapes import generate

    out = tmp_path_factory.mktemp("data") / "shapes"
    generate(str(out), **SMALL_SHAPES)
    return out


@pytest.fixture
def overrides(shapes: Path, tmp_path: Path) -> list[str]:
    """Recipe overrides for a tiny run in this test's own folder."""
    places = [f"data.url={shapes}/train", f"eval.url={shapes}", f"storage.url={tmp_path}/runs"]
    return [*TINY, *places]


@pytest.fixture(scope="session")
def ray_cluster(s3: str) -> Iterator[None]:
    """One Ray for the whole session; its workers see the environment that names the S3 server."""
    import ray

    ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The endpoint of a moto server with a bucket named 'bucket'; credentials and endpoint are in the environment."""
    port, log = _free_port(), tmp_path_factory.mktemp("moto") / "log"
    endpoint = f"http://127.0.0.1:{port}"
    environment = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with _serving(["moto.server", "-H", "127.0.0.1", "-p", str(port)], port, log, environment):
        from pyarrow.fs import S3FileSystem

        S3FileSystem(
            endpoint_override=f"127.0.0.1:{port}", scheme="http", allow_bucket_creation=True, region="us-east-1"
        ).create_dir("bucket")
        yield endpoint


@pytest.fixture(scope="session")
def gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The endpoint of an emulator of Google's storage with a bucket named 'bucket'; the environment names it."""
    port, log = _free_port(), tmp_path_factory.mktemp("gcs") / "log"
    endpoint = f"http://127.0.0.1:{port}"
    arguments = ["--host=127.0.0.1", f"--port={port}", "--in-memory", "--default-bucket=bucket"]
    with _serving(["gcp_storage_emulator", "start", *arguments], port, log, {"STORAGE_EMULATOR_HOST": endpoint}):
        yield endpoint


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def _serving(module: list[str], port: int, log: Path, environment: dict[str, str]) -> Iterator[None]:
    """A Python module that serves a port, and the environment that names it."""
    with pytest.MonkeyPatch.context() as patch, log.open("w") as stream:
        for name, value in environment.items():
            patch.setenv(name, value)
        server = subprocess.Popen([sys.executable, "-m", *module], stdout=stream, stderr=stream)
        try:
            _wait_for(lambda: socket.create_connection(("127.0.0.1", port), timeout=1).close())
            yield
        finally:
            server.kill()
            server.wait()


@pytest.fixture(scope="session")
def storage_proxy() -> ModuleType:
    """``benchmarks/storage_proxy.py``: its ``start_proxy(endpoint, ...)`` puts latency and faults before a server."""
    path = Path(__file__).parents[1] / "benchmarks" / "storage_proxy.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def _wait_for(attempt: Callable[[], None], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            return attempt()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


@pytest.fixture
def clippy_command(capsys: pytest.CaptureFixture[str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run ``clippy`` in this process, which has imported what it needs; return what it printed and its exit code."""
    from cluster.cli import main

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        capsys.readouterr()
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            try:
                code = main(arguments)
            except SystemExit as leaving:  # of argparse
                code = int(leaving.code or 0)
        printed = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, code, printed.out, printed.err)

    return run


@pytest.fixture
def clippy_process() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run ``clippy`` as a user would, in a process of its own, which takes seconds where it imports torch or Ray."""

    def run(*arguments: str, timeout: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "cluster.cli", *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, **environment},
        )

    return run
