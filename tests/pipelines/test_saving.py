"""Checkpoints written beside training: whole or not at all, kept by policy, through storage that fails and is slow."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import fsspec
import pyarrow.fs as pafs
import pytest
import torch

from pipelines import saving
from pipelines.checkpoints import CheckpointError, checkpoint_name, clear_remains, committed_steps
from pipelines.console import Console
from pipelines.job import Job
from pipelines.prepare import prepare
from pipelines.recipe import load_recipe
from pipelines.saving import CheckpointWriter, Share
from pipelines.sections import CheckpointConfig
from pipelines.session import RunReporter, restore
from pipelines.state import TrainState, load_checkpoint, take_snapshot
from pipelines.storage import Location, locate
from tests.pipelines.test_loop import Recorder, new_state, train

CPU = torch.device("cpu")


@pytest.fixture
def job(overrides: list[str]) -> Job:
    return prepare(load_recipe("shapes", [*overrides, "scaling.num_workers=1"]), Console())


@pytest.fixture
def trained(job: Job) -> TrainState:
    """A state whose optimizer has something to remember."""
    state = new_state(job)
    train(job, state, Recorder(job))
    return state


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries again at once."""
    monkeypatch.setattr(saving, "_FIRST_PAUSE", 0.01)


def put(writer: CheckpointWriter, state: TrainState, job: Job, *steps: int, shard: int = 0, shards: int = 1) -> None:
    for step in steps:
        state.step = step
        writer.submit(take_snapshot(state, job.recipe, job.source.digest, shard=shard, shards=shards))


def assert_same(state: TrainState, restored: TrainState) -> None:
    for name, tensor in state.model.state_dict().items():
        assert torch.equal(tensor, restored.model.state_dict()[name]), name
    ours, theirs = state.optimizer.state_dict()["state"], restored.optimizer.state_dict()["state"]
    assert ours.keys() == theirs.keys()
    for i, values in ours.items():
        assert all(torch.equal(value, theirs[i][key]) for key, value in values.items())


def test_what_is_kept_follows_the_policy(job: Job, trained: TrainState, tmp_path: Path) -> None:
    folder = locate(str(tmp_path / "kept"))
    config = CheckpointConfig(keep_last=2, keep_every=20)
    writer = CheckpointWriter(folder, config, Share(), keep=lambda: {15})
    for step in range(5, 51, 5):
        put(writer, trained, job, step)
        writer.wait()
    assert committed_steps(folder) == [15, 20, 40, 45, 50]


def test_a_snapshot_does_not_follow_the_training(job: Job, trained: TrainState) -> None:
    snapshot = take_snapshot(trained, job.recipe, job.source.digest)
    before = {name: tensor.clone() for name, tensor in snapshot.tensors["model.safetensors"].items()}
    with torch.no_grad():
        for parameter in trained.model.parameters():
            parameter.add_(1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in snapshot.tensors["model.safetensors"].items())


@pytest.mark.usefixtures("hasty")
def test_storage_that_fails_is_tried_again_and_forgiven(job: Job, trained: TrainState, tmp_path: Path) -> None:
    place = tmp_path / "fragile"
    place.write_text("a file where the folder should be")
    failed: list[int] = []
    config = CheckpointConfig(max_failures=1)
    writer = CheckpointWriter(locate(str(place)), config, Share(), on_failed=lambda step, _: failed.append(step))
    put(writer, trained, job, 5)
    writer.settle()
    place.unlink()
    put(writer, trained, job, 6)
    writer.wait()
    assert (failed, committed_steps(locate(str(place)))) == ([5], [6])


@pytest.mark.usefixtures("hasty")
def test_storage_that_keeps_failing_stops_the_run(job: Job, trained: TrainState, tmp_path: Path) -> None:
    place = tmp_path / "broken"
    place.write_text("a file where the folder should be")
    writer = CheckpointWriter(locate(str(place)), CheckpointConfig(max_failures=1), Share())
    for step in (5, 6):
        put(writer, trained, job, step)
        writer.settle()
    with pytest.raises(CheckpointError, match=r"broken: no checkpoint could be written, 2 in a row failed \(\w+Error"):
        put(writer, trained, job, 7)
    with pytest.raises(CheckpointError):
        writer.wait()


@pytest.mark.usefixtures("hasty")
def test_a_checkpoint_that_fails_leaves_nothing_on_the_disk(job: Job, trained: TrainState, tmp_path: Path) -> None:
    def refuse() -> None:
        raise OSError("no space left on device")

    failed: list[int] = []
    writer = CheckpointWriter(
        locate(str(tmp_path / "full")),
        CheckpointConfig(),
        Share(),
        before_commit=refuse,
        on_failed=lambda step, _: failed.append(step),
    )
    put(writer, trained, job, 5)
    writer.settle()
    assert failed == [5]
    assert list((tmp_path / "full").iterdir()) == []


def test_all_of_a_checkpoint_is_on_the_disk_before_it_counts(
    job: Job, trained: TrainState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a machine that loses its power keeps the marker, and of the weights an empty file."""
    synced: set[int] = set()
    fsync, rename = os.fsync, os.rename

    def note(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def check(source: Path, destination: str) -> None:
        assert {path.stat().st_ino for path in source.iterdir()} <= synced
        rename(source, destination)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(os, "rename", check)
    writer = CheckpointWriter(locate(str(tmp_path / "safe")), CheckpointConfig(), Share())
    put(writer, trained, job, 5)
    writer.wait()
    assert committed_steps(locate(str(tmp_path / "safe"))) == [5]


@pytest.mark.usefixtures("hasty")
def test_a_checkpoint_counts_though_older_ones_cannot_be_removed(job: Job, trained: TrainState, tmp_path: Path) -> None:
    def keep() -> set[int]:
        raise PermissionError("no right to list or to delete")

    folder, saved, complaints = locate(str(tmp_path / "grows")), list[str](), list[str]()
    config = CheckpointConfig(max_failures=0)
    writer = CheckpointWriter(folder, config, Share(), on_saved=saved.append, on_unpruned=complaints.append, keep=keep)
    for step in (5, 6, 7):
        put(writer, trained, job, step)
        writer.wait()
    assert committed_steps(folder) == [5, 6, 7]
    assert [url.rpartition("-")[2] for url in saved] == ["00000005", "00000006", "00000007"]
    assert complaints == ["PermissionError: no right to list or to delete"] * 3


class Noticed(Recorder):
    """Hears after a step that its machine will be taken, while storage is away; it is back two steps later."""

    def __init__(self, job: Job, step: int) -> None:
        super().__init__(job)
        self._now, self._notice = 0, step

    def took(self, step: int, keys: list[str]) -> None:
        super().took(step, keys)
        self._now = step
        place = Path(self._job.folder.checkpoints.path)
        if step == self._notice:
            place.rmdir()
            place.write_text("a file where the folder should be")
        if step == self._notice + 2:
            place.unlink()
            place.mkdir()

    def notice_is_due(self) -> bool:
        return True

    def preemption_noticed(self) -> bool:
        return self._now == self._notice


@pytest.mark.usefixtures("hasty")
def test_one_checkpoint_that_fails_on_notice_of_preemption_does_not_end_the_run(job: Job) -> None:
    Path(job.folder.checkpoints.path).mkdir()
    recorder = Noticed(job, 3)
    assert train(job, new_state(job), recorder)
    assert [event["checkpoint_failed"] for event in recorder.told if "checkpoint_failed" in event] == [3]
    assert committed_steps(job.folder.checkpoints) == [10, 12]


@pytest.mark.usefixtures("hasty")
def test_it_is_told_which_worker_could_not_write_its_part_and_why(job: Job, trained: TrainState) -> None:
    config = job.recipe.checkpoint.model_copy(update={"sharded": True})
    job = Job(job.recipe.model_copy(update={"checkpoint": config}), job.source, job.decoding)
    job.folder.checkpoints.remove_folder()
    Path(job.folder.checkpoints.path).write_text("a file where the folder should be")
    told: list[dict[str, Any]] = []
    reporter = RunReporter(job, Share(1, 2), 0, 1, tell=told.append)
    reporter.log([{"step": 12}])  # the first worker's to tell
    reporter.save(trained, wait=True, last=False)
    (failed,) = told
    assert failed["checkpoint_failed"] == 12
    assert failed["reason"].startswith("worker 1: NotADirectoryError")


def shard_writers(folder: Location, workers: int, start: str = "1") -> list[CheckpointWriter]:
    config = CheckpointConfig(sharded=True)
    return [CheckpointWriter(folder, config, Share(rank, workers, start, parts=True)) for rank in range(workers)]


@pytest.fixture(params=["disk", "s3"])
def parts_folder(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """An empty folder for checkpoints of several workers, on a disk and on an object store."""
    if request.param == "disk":
        return locate(str(tmp_path / "parts"))
    request.getfixturevalue("s3")
    return locate(f"s3://bucket/{request.function.__name__}")


def test_workers_write_their_parts_and_the_first_commits(job: Job, trained: TrainState, parts_folder: Location) -> None:
    folder = parts_folder
    writers = shard_writers(folder, 3)
    put(writers[0], trained, job, 8, shard=0, shards=3)  # first, and so must wait
    time.sleep(0.3)
    assert committed_steps(folder) == []
    for rank in (1, 2):
        put(writers[rank], trained, job, 8, shard=rank, shards=3)
    for writer in writers:
        writer.wait()
    names = {info.base_name for info in (folder / checkpoint_name(8)).list()}
    assert {f"optimizer-0000{rank}-of-00003.safetensors" for rank in range(3)} < names
    assert not any("part" in name for name in names)
    restored = new_state(job)
    load_checkpoint(folder / checkpoint_name(8), restored, job.source.digest)
    assert_same(trained, restored)


@pytest.mark.usefixtures("hasty")
def test_the_first_worker_does_not_wait_for_a_part_that_will_not_come(
    job: Job, trained: TrainState, parts_folder: Location
) -> None:
    folder = parts_folder
    is_away, told = True, []

    def flush_ledger() -> None:
        if is_away:
            raise OSError("storage is away")

    config = CheckpointConfig(sharded=True)
    first, second = (
        CheckpointWriter(
            folder,
            config,
            Share(rank, 2, "1", parts=True),
            before_commit=flush_ledger if rank else lambda: None,
            on_failed=lambda step, reason, rank=rank: told.append((rank, step, reason)),
        )
        for rank in (0, 1)
    )
    put(first, trained, job, 8, shard=0, shards=2)
    put(second, trained, job, 8, shard=1, shards=2)
    with pytest.raises(CheckpointError, match="PartMissing: worker 1: OSError: storage is away"):
        first.wait()
    assert told == [(1, 8, "OSError: storage is away")]  # once
    is_away = False
    put(first, trained, job, 9, shard=0, shards=2)
    put(second, trained, job, 9, shard=1, shards=2)
    first.wait()
    assert committed_steps(folder) == [9]


class Flaky(pafs.FSSpecHandler):
    """Storage that refuses every other look at a file, reading of one, and removal of one."""

    asked = 0

    def _ask(self) -> None:
        self.asked += 1
        if self.asked % 2:
            raise ConnectionResetError("by peer")

    def get_file_info(self, paths: list[str]) -> list[pafs.FileInfo]:
        self._ask()
        return list(super().get_file_info(paths))

    def open_input_stream(self, path: str) -> Any:
        self._ask()
        return super().open_input_stream(path)

    def delete_file(self, path: str) -> None:
        self._ask()
        super().delete_file(path)


@pytest.mark.usefixtures("hasty")
def test_storage_that_stutters_while_parts_are_waited_for_is_asked_again(
    job: Job, trained: TrainState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    handler = Flaky(fsspec.filesystem("file", auto_mkdir=True))
    folder = Location("flaky://parts", pafs.PyFileSystem(handler), str(tmp_path / "parts"))
    writers = shard_writers(folder, 2)
    for rank in (0, 1):
        put(writers[rank], trained, job, 8, shard=rank, shards=2)
    for writer in writers:
        writer.wait()
    assert committed_steps(locate(str(tmp_path / "parts"))) == [8]
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == []


def test_parts_of_a_killed_start_are_not_taken_for_new_ones(job: Job, trained: TrainState, tmp_path: Path) -> None:
    folder = locate(str(tmp_path / "parts"))
    killed = shard_writers(folder, 2, "1")
    put(killed[1], trained, job, 8, shard=1, shards=2)  # the first worker dies before it writes
    killed[1].wait()
    clear_remains(folder)
    writers = shard_writers(folder, 2, "2")
    put(writers[0], trained, job, 8, shard=0, shards=2)
    time.sleep(0.3)
    assert committed_steps(folder) == []
    put(writers[1], trained, job, 8, shard=1, shards=2)
    writers[0].wait()
    assert committed_steps(folder) == [8]


def test_training_goes_on_while_a_checkpoint_is_slowly_written(
    overrides: list[str], storage_proxy: ModuleType, s3: str
) -> None:
    """Each request to storage takes 0.2 s, a checkpoint some twenty of them: the steps do not feel it."""
    with storage_proxy.start_proxy(s3, delay_ms=200) as endpoint:
        options = f'storage.storage_options={{"endpoint_url": "{endpoint}"}}'
        mine = ["name=slow", "storage.url=s3://bucket/slow", options, "tracking.enabled=false"]
        more = ["train.steps=60", "checkpoint.every=40", "scaling.num_workers=1"]
        job = prepare(load_recipe("shapes", [*overrides, *mine, *more]), Console())
        recorder, state = StepClock(job), new_state(job)
        assert train(job, state, recorder)
        restored = restore(job, CPU, 60)
    assert_same(state, restored)
    first_saved = recorder.saved_at[0]
    assert first_saved > 45  # several steps after the checkpoint was due, at step 40
    seconds = {step: recorder.times[step + 1] - recorder.times[step] for step in range(10, first_saved)}
    during, before = ([seconds[step] for step in steps] for steps in (range(41, first_saved), range(10, 40)))
    assert statistics.median(during) < statistics.median(before) + 0.2  # not one request's time, on a busy machine too
    assert max(during) < 1.5


class StepClock(Recorder):
    """Notes when each step began, and at which step each checkpoint was whole."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.times: dict[int, float] = {}
        self.saved_at: list[int] = []
        self._tell = lambda event: self.saved_at.append(max(self.times)) if "saved" in event else None

    def took(self, step: int, keys: list[str]) -> None:
        self.times[step] = time.perf_counter()
