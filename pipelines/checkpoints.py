"""Where checkpoints lie, which of them count, and which are kept. Imports no torch.

A checkpoint is a folder ``step-00000100``: a model that ``CLIPpy.from_pretrained`` reads, the optimizer's tensors, the
recipe, and ``state.json`` with the position and a checksum of each file. ``state.json`` is what commits it: locally
the folder is renamed into place when whole, on an object store ``state.json`` is uploaded last.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from pipelines.sections import CheckpointConfig
from pipelines.storage import Location

STATE_FILE = "state.json"
WRITING = ".writing-"
"""What begins the name of a checkpoint that is not whole yet."""


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or of other data."""


def checkpoint_name(step: int) -> str:
    """Folder name of the checkpoint after ``step`` steps."""
    return f"step-{step:08d}"


def committed_steps(checkpoints: Location) -> list[int]:
    """Steps of all whole checkpoints in the folder, oldest first."""
    names = [info.base_name for info in checkpoints.list() if info.base_name.startswith("step-")]
    return [int(name[5:]) for name in names if name[5:].isdigit() and (checkpoints / name / STATE_FILE).exists()]


def last_good_step(checkpoints: Location) -> int:
    """The newest checkpoint that was not saved amid steps that were skipped; 0 without one."""
    return _last_good(checkpoints, committed_steps(checkpoints))


def _last_good(checkpoints: Location, steps: list[int]) -> int:
    for step in reversed(steps):
        if json.loads((checkpoints / checkpoint_name(step) / STATE_FILE).read_text()).get("healthy", True):
            return step
    return 0


@contextmanager
def staging(checkpoints: Location, name: str, rank: int) -> Iterator[Path]:
    """A folder of this machine to write files of a checkpoint into, gone when they are not to become one.

    On a disk it lies beside those that are whole, and all workers share it; for an object store each has its own, of
    the same name every time, so that a worker that is killed leaves no more than one.
    """
    if checkpoints.is_local:
        folder = Path(checkpoints.path) / f"{WRITING}{name}"
        folder.mkdir(parents=True, exist_ok=True)
    else:
        run = hashlib.sha256(checkpoints.url.encode()).hexdigest()[:16]
        folder = Path(tempfile.gettempdir()) / f"checkpoint-{os.getuid()}-{run}-{rank}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
    done = False
    try:
        yield folder
        done = True
    finally:
        if not (done and checkpoints.is_local):
            shutil.rmtree(folder, ignore_errors=True)


def clear_remains(checkpoints: Location) -> None:
    """Remove what a kill left half-written on a disk; call before anybody writes."""
    if checkpoints.is_local:
        for left_behind in Path(checkpoints.path).glob(f"{WRITING}*"):
            shutil.rmtree(left_behind)


def commit(folder: Path, destination: Location, state: dict[str, Any]) -> None:
    """Make the files in ``folder`` the checkpoint ``destination``: whole or not at all."""
    text = json.dumps(state, indent=2)
    if destination.is_local:
        (folder / STATE_FILE).write_text(text, encoding="utf-8")
        for path in folder.iterdir():
            _keep_through_power_loss(path)
        destination.remove_folder()
        os.rename(folder, destination.path)
    else:
        upload(folder, destination)
        (destination / STATE_FILE).write_text(text)


def _keep_through_power_loss(path: Path) -> None:
    with open(path, "rb") as stream:
        os.fsync(stream.fileno())


def upload(folder: Path, destination: Location) -> None:
    """Copy the files of a folder."""
    for path in sorted(folder.iterdir()):
        (destination / path.name).write_bytes(path.read_bytes())


def prune(checkpoints: Location, config: CheckpointConfig, keep: Collection[int] = ()) -> list[int]:
    """Remove the checkpoints that the policy does not keep, nor ``keep``; returns their steps.

    The one that a run would go back to stays, whatever the policy.
    """
    steps = committed_steps(checkpoints)
    kept = {*steps[-config.keep_last :], _last_good(checkpoints, steps), *keep}
    if config.keep_every:
        kept |= {step for step in steps if step % config.keep_every == 0}
    removed = [step for step in steps if step not in kept]
    for step in removed:
        remove(checkpoints / checkpoint_name(step))
    return removed


def remove(checkpoint: Location) -> None:
    """Take the commit back first, so that a half-removed checkpoint is none."""
    checkpoint.filesystem.delete_file((checkpoint / STATE_FILE).path)
    checkpoint.remove_folder()


@contextmanager
def local_folder(location: Location) -> Iterator[Path]:
    """The folder itself, or a copy of a remote one that lasts as long as the context."""
    if location.is_local:
        yield Path(location.path)
        return
    with tempfile.TemporaryDirectory() as folder:
        for info in location.list():
            if info.type == pafs.FileType.File:
                (Path(folder) / info.base_name).write_bytes((location / info.base_name).read_bytes())
        yield Path(folder)


def verify(folder: Path, name: str) -> dict[str, Any]:
    """The content of ``state.json``, once every file has the checksum it states. Raises CheckpointError."""
    try:
        position = json.loads((folder / STATE_FILE).read_text())
        files: dict[str, str] = position["files"]
    except (OSError, ValueError, KeyError, TypeError):
        raise CheckpointError(f"{name}: no whole checkpoint, {STATE_FILE} is missing or damaged") from None
    for file, digest in files.items():
        if not (folder / file).is_file() or checksum(folder / file) != digest:
            raise CheckpointError(f"{name}: {file} is damaged or missing; remove this checkpoint to use the one before")
    return position


def checksum(path: Path) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
