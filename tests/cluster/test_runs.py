"""``clippy runs`` as a user calls it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from pipelines.storage import locate
from tests.cluster.test_cli import Command
from tests.pipelines.test_runs import leave_alone, write_run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = locate(str(tmp_path / "runs"))
    write_run(place / "done", step=50, status="finished")
    leave_alone(write_run(place / "killed", step=25), 3 * 24 * 3600)
    write_run(place / "going", step=15)
    return tmp_path / "runs"


def test_list_show_and_prune(clippy_command: Command, folder: Path) -> None:
    listed = clippy_command("runs", "list", str(folder)).stdout.splitlines()
    assert listed[0].split() == ["run", "status", "step", "loss", "images/s", "checkpoints", "changed"]
    assert [line.split()[:5] for line in listed[1:]] == [
        ["done", "finished", "50/50", "0.500", "200"],
        ["going", "running", "15/50", "0.500", "200"],
        ["killed", "unfinished", "25/50", "0.500", "200"],
    ]
    as_json = json.loads(clippy_command("runs", "list", str(folder), "--json").stdout)
    assert [(run["name"], len(run["checkpoints"])) for run in as_json] == [("done", 5), ("going", 1), ("killed", 2)]

    shown = clippy_command("runs", "show", str(folder / "killed"), "--verify").stdout
    assert "unfinished, step 25 of 50" in shown
    assert shown.count("verified") == 2
    assert f"to go on: clippy train {folder}/killed/recipe.yaml" in shown
    assert json.loads(clippy_command("runs", "show", str(folder / "done"), "--json").stdout)["resume"] is None

    told = clippy_command("runs", "prune", str(folder), "--keep-last", "1", "--dry-run").stdout
    assert "would free" in told
    assert "going: seems to be running" in told
    pruned = json.loads(clippy_command("runs", "prune", str(folder), "--keep-last", "1", "--json").stdout)
    assert [len(run["removed"]) for run in pruned["runs"]] == [4, 0, 1]
    assert pruned["freed_bytes"] > 5 * 30
    assert [path.name for path in (folder / "done" / "checkpoints").iterdir()] == ["step-00000050"]


def test_runs_on_s3_with_an_endpoint_told(clippy_command: Command, s3: str, tmp_path: Path) -> None:
    place = f"s3://bucket/{tmp_path.name}"
    write_run(locate(place) / "done", step=20, status="finished")
    told = f"endpoint_url={s3}"
    result = clippy_command("runs", "list", place, "--storage-option", told, "--json", AWS_ENDPOINT_URL="")
    assert [run["run"] for run in json.loads(result.stdout)] == [f"{place}/done"]
    pruned = clippy_command("runs", "prune", f"{place}/done", "--keep-last", "1")
    assert "removes step-00000010" in pruned.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["list", "nowhere"], "nowhere: there is no such folder"),
        (["show", "{folder}"], "no run lies here"),
        (["prune", "{folder}/going", "--keep-last", "1"], "give --force"),
        (["prune", "{folder}/done", "--keep-last", "0"], "--keep-last: must be at least 1"),
        (["prune", "{folder}/done"], "--keep-last"),
        (["list", "x", "--storage-option", "secret=y"], "credentials do not belong"),
    ],
)
def test_mistakes_are_one_sentence(clippy_command: Command, folder: Path, arguments: list[str], sentence: str) -> None:
    result: subprocess.CompletedProcess[str] = clippy_command("runs", *(a.format(folder=folder) for a in arguments))
    assert result.returncode == 2
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr
