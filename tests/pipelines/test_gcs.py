"""Google's object store, which lists, refuses and removes in its own way: data, checkpoints and runs on an emulator."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from pipelines.checkpoints import checkpoint_name, committed_steps
from pipelines.columns import DataError
from pipelines.console import Console
from pipelines.direct import run_direct
from pipelines.index import index_dataset
from pipelines.prune import prune
from pipelines.recipe import load_recipe
from pipelines.run_folder import RunFolder
from pipelines.runs import find_runs
from pipelines.sections import DatasetConfig
from pipelines.storage import Location, locate
from tests.conftest import ALONE, TINY


@pytest.fixture
def place(gcs: str, tmp_path: Path) -> Location:
    return locate(f"gs://bucket/{tmp_path.name}")


def train(data: str, storage: str) -> RunFolder:
    fields = [f"data.url={data}", f"storage.url={storage}", "eval.benchmark=null"]
    assert run_direct(load_recipe("shapes", [*TINY, *ALONE, *fields]), Console(io.StringIO()))
    return RunFolder(locate(storage) / "shapes")


def losses(run: RunFolder) -> dict[int, float]:
    return {record["step"]: record["loss"] for record in run.read_metrics()}


def test_training_from_and_to_google_is_that_of_a_disk_and_goes_on(
    place: Location, shapes: Path, tmp_path: Path
) -> None:
    pafs.copy_files(
        str(shapes / "train"), f"{place.path}/train", destination_filesystem=place.filesystem, use_threads=False
    )
    expected = train(f"{shapes}/train", f"{tmp_path}/runs")
    run = train(f"{place.url}/train", f"{place.url}/runs")
    assert losses(run) == losses(expected)
    assert committed_steps(run.checkpoints) == committed_steps(expected.checkpoints) == [10, 12]
    (run.checkpoints / checkpoint_name(12)).remove_folder()
    train(f"{place.url}/train", f"{place.url}/runs")
    assert losses(run) == losses(expected)
    (found,) = find_runs(place / "runs")
    assert (found.status, found.step) == ("finished", 12)
    prune(place / "runs", 1)
    assert committed_steps(run.checkpoints) == [12]


def test_folders_are_told_and_removed_though_there_are_none(place: Location) -> None:
    assert place.list() == []
    assert not place.exists()
    place.remove_folder()
    for name in ("a/b/c", "a/d", "e", "ab/f"):
        (place / name).write_text(name)
    assert [(info.base_name, info.type) for info in place.list()] == [
        ("a", pafs.FileType.Directory),
        ("ab", pafs.FileType.Directory),
        ("e", pafs.FileType.File),
    ]
    assert [info.base_name for info in (place / "a").list()] == ["b", "d"]
    (place / "a").remove_folder()
    assert [info.base_name for info in place.list()] == ["ab", "e"]
    assert (place / "ab/f").read_text() == "ab/f"
    with pytest.raises(FileNotFoundError):
        (place / "a/d").read_bytes()


def test_what_is_not_there_is_one_sentence(gcs: str) -> None:
    for url in ("gs://bucket/nothing", "gs://nobodys/train"):
        with pytest.raises(DataError, match=rf"{url}: there is no such|{url} does not exist"):
            index_dataset(DatasetConfig(url=url))
