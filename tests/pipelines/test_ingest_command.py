"""``clippy data import`` as a user starts it: killed and started again, its summary, and every mistake."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.console import Console
from pipelines.ingest.config import ImportConfig
from pipelines.ingest.run import import_dataset
from tests.cluster.test_cli import Command
from tests.pipelines.test_ingest import picture, read, rejects, run, shard_bytes, tars, write_tars
from tests.pipelines.test_train import descendants

__all__ = ["tars"]
pytestmark = pytest.mark.ray


def start(source: Path, dest: Path) -> subprocess.Popen[str]:
    """``clippy data import`` as a user starts it, with a Ray of its own."""
    options = ["--shuffle", "3", "--deduplicate", "--row-group-rows", "8", "--shard-mib", "0.25"]
    return subprocess.Popen(
        [sys.executable, "-m", "cluster.cli", "data", "import", str(source), str(dest), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def kill_when(process: subprocess.Popen[str], happened: Callable[[], bool]) -> None:
    """SIGKILL to the process and all below it."""
    deadline = time.monotonic() + 120
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    for pid in [process.pid, *descendants(process.pid)]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.communicate()


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty tars of 25 pairs, one image in ten a twin, one a broken one."""

    def make(i: int) -> bytes:
        whole = picture(i - 1 if i % 10 == 4 else i, 480, 360)
        return whole[:900] if i % 10 == 7 else whole

    folder = tmp_path_factory.mktemp("larger") / "source"
    write_tars(folder, 20, 25, make)
    return folder


@pytest.mark.usefixtures("ray_cluster")
def test_killed_at_random_and_started_again_equals_never_killed(larger: Path, tmp_path: Path) -> None:
    undisturbed, dest = tmp_path / "undisturbed", tmp_path / "out"
    options: dict[str, Any] = {"shuffle": 3, "deduplicate": True, "row_group_rows": 8, "shard_mib": 0.25}
    expected = run(larger, undisturbed, **options)
    assert (expected.rows_read, expected.rejects) == (500, {"truncated_image": 50, "duplicate": 50})
    pattern, most = random.choice([("_import/part-*.json", 19), ("shard-*.parquet", expected.shards - 2)])
    enough = random.randint(1, most)
    kill_when(start(larger, dest), lambda: len(list(dest.glob(pattern))) >= enough)
    assert (dest / "_import" / "import.json").exists()
    assert not (dest / "_import.json").exists()
    there = {file.name: file.stat().st_mtime_ns for file in dest.glob("shard-*.parquet")}
    staged = len(list(dest.glob("_import/part-*.json")))

    log = io.StringIO()
    summary = import_dataset(ImportConfig(source=str(larger), dest=str(dest), **options), Console(log))
    assert f"going on: {staged} of 20 parts are staged already" in log.getvalue()
    for name in ("rows_read", "rows_written", "rejects", "shards", "bytes", "manifest_digest"):
        assert getattr(summary, name) == getattr(expected, name)
    assert shard_bytes(dest) == shard_bytes(undisturbed)
    assert rejects(dest) == rejects(undisturbed)
    assert {name: (dest / name).stat().st_mtime_ns for name in there} == there  # what was whole stays
    keys = read(dest).column("key").to_pylist() + [row["key"] for row in rejects(dest)]
    assert sorted(keys) == [f"{i:06d}" for i in range(500)]
    assert sorted(file.name for file in dest.iterdir() if not file.name.startswith("shard-")) == [
        "_import.json",
        "_manifest.parquet",
        "_rejects.parquet",
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere", "out"], "nowhere does not exist; name a folder"),
        (["{3..1}.tar", "out"], "counts down; write {1..3}"),
        (
            ["x", "out", "--row-group-rows", "0"],
            "row_group_rows (from the command line): must be greater than 0 (got 0)",
        ),
        (["x", "out", "--storage-option", "secret=1"], "credentials do not belong"),
        (["x", "out", "--dest-storage-option", "anon"], "must have the form"),
        (["s3://", "out"], "names no bucket"),
    ],
)
def test_mistakes_are_one_sentence(clippy_command: Command, arguments: list[str], sentence: str) -> None:
    result = clippy_command("data", "import", *arguments)
    assert result.returncode == 2, result.stderr
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr
    assert not Path("out").exists()


def test_the_command_prints_its_summary_as_json(
    tars: Path, tmp_path: Path, clippy_command: Command, clippy_process: Command
) -> None:
    arguments = ("data", "import", f"{tars}/00000.tar", str(tmp_path / "out"), "--max-short-side", "32")
    first = clippy_process(*arguments, "--json")
    summary = json.loads(first.stdout)
    assert (summary["rows_read"], summary["rows_written"], summary["resized"]) == (20, 20, 20), first.stderr
    assert "images/s" in first.stderr
    again = clippy_command(*arguments)
    assert "imported already" in again.stderr
    assert f"manifest_digest  {summary['manifest_digest']}" in again.stdout
