"""Checkpoints written beside training: a thread writes, uploads and commits while the next steps run."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipelines import checkpoints
from pipelines.checkpoints import CheckpointError, checkpoint_name, checksum
from pipelines.sections import CheckpointConfig
from pipelines.state import Snapshot, write_snapshot
from pipelines.storage import Location, locate

MOST_WAITING = 2
"""Snapshots in memory at most, the one that is being written among them."""
_TRIES, _FIRST_PAUSE = 4, 1.0
_PATIENCE = 600.0
"""Seconds that the first worker waits for the parts of the others."""
_EXCUSE_PAUSE = 5.0
"""Seconds after which a worker tries again to say that it could not write its part."""


_EXCUSE = "could not be written"
"""In a worker's note in place of the names of its files."""


class PartMissing(Exception):
    """Another worker could not write its part, and said so."""


@dataclass(frozen=True)
class Share:
    """Which part of each checkpoint a worker writes."""

    rank: int = 0
    world_size: int = 1
    start: str = "0"
    """Of all workers since they were started together: parts of an earlier start are not taken for their own."""
    parts: bool = False
    """Whether every worker has something to write before a checkpoint may count, or the first one alone."""


class CheckpointWriter:
    """Writes snapshots in order, each tried several times; never makes training wait unless it is asked to.

    Locally all files of a checkpoint are gathered in one folder and that is renamed; on an object store each worker
    uploads its own, and the first worker commits once everybody's are there.
    """

    def __init__(
        self,
        folder: Location,
        config: CheckpointConfig,
        share: Share,
        *,
        before_commit: Callable[[], None] = lambda: None,
        on_saved: Callable[[str], None] = lambda url: None,
        on_failed: Callable[[int, str], None] = lambda step, reason: None,
        on_unpruned: Callable[[str], None] = lambda reason: None,
        keep: Callable[[], Collection[int]] = lambda: (),
    ) -> None:
        """All are called in the thread: ``before_commit`` is done before a checkpoint counts, ``on_saved`` hears its
        URL, ``on_failed`` step and reason, ``on_unpruned`` why older ones stay, and steps of ``keep`` are never
        removed."""
        self._folder, self._config, self._share = folder, config, share
        self._before_commit = before_commit
        self._on_saved, self._on_failed, self._on_unpruned, self._keep = on_saved, on_failed, on_unpruned, keep
        self._failed_in_row, self._last_error = 0, ""
        self._excuses: dict[int, str] = {}
        self._snapshots: queue.Queue[Snapshot] = queue.Queue()
        threading.Thread(target=self._work, daemon=True, name="checkpoints").start()

    def is_full(self) -> bool:
        """Whether as many snapshots wait as memory is meant for."""
        return self._snapshots.unfinished_tasks >= MOST_WAITING

    def submit(self, snapshot: Snapshot) -> None:
        """Have it written. Raises CheckpointError when too many in a row before it could not be."""
        self._check()
        self._snapshots.put(snapshot)

    def wait(self, must_be_written: bool = True) -> None:
        """Until all is written, or could not be. Raises CheckpointError where the last one ``must_be_written``."""
        self.settle()
        if must_be_written and self._failed_in_row:
            raise CheckpointError(self._complaint())

    def settle(self) -> None:
        """Until nothing is being written any more, well or not."""
        self._snapshots.join()

    def _check(self) -> None:
        if self._failed_in_row > self._config.max_failures:
            raise CheckpointError(self._complaint())

    def _complaint(self) -> str:
        return (
            f"{self._folder.url}: no checkpoint could be written, {self._failed_in_row} in a row failed "
            f"({self._last_error}); the last good one is kept, so mend the storage and run the same command again"
        )

    def _work(self) -> None:
        while True:
            self._send_excuses()
            try:
                snapshot = self._snapshots.get(timeout=_EXCUSE_PAUSE if self._excuses else None)
            except queue.Empty:
                continue
            try:
                self._write(snapshot)
                self._failed_in_row = 0
            except Exception as error:  # a full disk, a storage that is away, a part that never came
                self._failed_in_row += 1
                self._last_error = _in_one_line(error)
                if not isinstance(error, PartMissing):  # of which the other worker told
                    self._on_failed(snapshot.step, self._last_error)
                if self._share.rank:
                    self._excuses[snapshot.step] = self._last_error
            finally:
                self._snapshots.task_done()

    def _send_excuses(self) -> None:
        """Tell the first worker of parts that it would wait for; later, where that cannot be written either."""
        for step, reason in list(self._excuses.items()):
            name, note = checkpoint_name(step), self._note(self._share.rank)
            place = self._folder / name / note
            if self._folder.is_local:
                place = self._folder / f"{checkpoints.WRITING}{name}-{self._share.start}" / note
            try:
                place.write_text(json.dumps({_EXCUSE: reason}))
            except Exception:  # whatever it is, this thread has further checkpoints to write
                return
            del self._excuses[step]

    def _write(self, snapshot: Snapshot) -> None:
        name = checkpoint_name(snapshot.step)
        destination = self._folder / name
        with checkpoints.staging(self._folder, f"{name}-{self._share.start}", self._share.rank) as folder:
            files = {path.name: checksum(path) for path in _patiently(lambda: write_snapshot(snapshot, folder))}
            parts = folder if self._folder.is_local else None
            _patiently(self._before_commit)
            if self._share.rank:
                _patiently(lambda: self._hand_in(folder, files, destination))
                return
            files |= self._others(destination, parts)
            state = {**snapshot.position, "files": dict(sorted(files.items()))}
            _patiently(lambda: checkpoints.commit(folder, destination, state))
        self._on_saved(destination.url)
        self._prune(snapshot.step)

    def _prune(self, step: int) -> None:
        """What cannot be removed takes up room, but makes no checkpoint fail."""
        try:
            _patiently(lambda: checkpoints.prune(self._folder, self._config, {step, *self._keep()}))
        except Exception as error:
            self._on_unpruned(_in_one_line(error))

    def _hand_in(self, folder: Path, files: dict[str, str], destination: Location) -> None:
        """A further worker's files, and a note that they are whole."""
        if not self._folder.is_local:
            checkpoints.upload(folder, destination)
            (destination / self._note(self._share.rank)).write_text(json.dumps(files))
            return
        unfinished = folder / f"{self._note(self._share.rank)}.part"
        unfinished.write_text(json.dumps(files))
        unfinished.rename(folder / self._note(self._share.rank))

    def _others(self, destination: Location, parts: Path | None) -> dict[str, str]:
        """Checksums of the other workers' files, once they are all there; their notes are taken away."""
        files: dict[str, str] = {}
        deadline = time.monotonic() + _PATIENCE
        for rank in range(1, self._share.world_size if self._share.parts else 1):
            note = self._note(rank)
            place = locate(str(parts / note)) if parts else destination / note
            while not _patiently(place.exists):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"worker {rank} did not write its part within {_PATIENCE:.0f} s")
                time.sleep(0.05 if parts else 0.5)
            handed_in = json.loads(_patiently(place.read_text))
            _patiently(partial(place.filesystem.delete_file, place.path))
            if _EXCUSE in handed_in:
                raise PartMissing(f"worker {rank}: {handed_in[_EXCUSE]}")
            files |= handed_in
        return files

    def _note(self, rank: int) -> str:
        return f"part-{rank:05d}.{self._share.start}.json"


def _in_one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]


def _patiently(action: Callable[[], Any]) -> Any:
    """Try again, after longer and longer pauses, what storage refuses."""
    for attempt in range(_TRIES):
        try:
            return action()
        except OSError:
            if attempt == _TRIES - 1:
                raise
            time.sleep(_FIRST_PAUSE * 2**attempt)
    return None
