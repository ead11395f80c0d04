"""What is remembered of a local cluster, and what is left when it dies or does not start; no Ray runs here."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from cluster.local_cluster import (
    LocalCluster,
    find_local_cluster,
    start_local_cluster,
    state_folder,
    stop_local_cluster,
)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the user's own cluster."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_what_is_left_of_a_cluster_that_died_is_found_out_and_cleared(tmp_path: Path) -> None:
    """Its process ids may belong to others by now, such as this one's."""
    state = tmp_path / "cache" / "clippy" / "local-cluster"
    state.mkdir(parents=True)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    values = {"url": "http://127.0.0.1:9", "ray_address": "127.0.0.1:8", "scratch": str(scratch), "cpus_per_node": 1}
    values |= {"token_file": str(state / "token"), "pids": [os.getpid()]}
    (state / "state.json").write_text(json.dumps(values))
    assert find_local_cluster() is None
    stopped = stop_local_cluster()
    assert isinstance(stopped, LocalCluster)
    assert not state.exists()
    assert not scratch.exists()
    assert stop_local_cluster() is None


@pytest.mark.parametrize(
    ("error", "stay"), [(ValueError("the head did not come up"), True), (KeyboardInterrupt(), False)]
)
def test_of_a_cluster_that_does_not_start_the_logs_stay_unless_nobody_asks_for_them(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, stay: bool
) -> None:
    def start(cluster: LocalCluster, arguments: list[str]) -> LocalCluster:
        folders.append(cluster.scratch)
        raise error

    folders: list[Path] = []
    monkeypatch.setattr("cluster.local_cluster._check_installed", lambda: None)
    monkeypatch.setattr("cluster.local_cluster._with_node", start)
    with pytest.raises(type(error)):
        start_local_cluster(1, 1, lambda _: None)
    assert [folder.exists() for folder in folders] == [stay]
    assert not state_folder().exists()
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
