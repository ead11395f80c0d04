"""What a training run is at one step, and how it becomes a checkpoint and comes back.

A checkpoint is a folder ``step-00000100``: a model that ``CLIPpy.from_pretrained`` reads, the optimizer's tensors, the
recipe, and ``state.json`` with the position and a checksum of each file. ``state.json`` is what commits it: locally
the folder is renamed into place when whole, on an object store ``state.json`` is uploaded last. All is safetensors,
JSON and YAML; nothing is unpickled. Random states need no saving: each step seeds its own from (seed, step, rank).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.fs as pafs
import torch
from safetensors.torch import load_file, load_model, save_file

from clippy.model import WEIGHTS_FILE, CLIPpy
from pipelines.recipe import Recipe
from pipelines.run_folder import RECIPE_FILE
from pipelines.samples import CAUSES
from pipelines.storage import Location

STATE_FILE, OPTIMIZER_FILE = "state.json", "optimizer.safetensors"


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or of other data."""


@dataclass
class TrainState:
    """The model, its optimizer and how far they have come."""

    model: CLIPpy
    optimizer: torch.optim.Optimizer
    step: int = 0
    """Completed optimizer steps."""
    rows: np.ndarray = field(default_factory=lambda: np.zeros(len(CAUSES), dtype=np.int64))
    """Rows of all workers so far by what became of them; index into ``CAUSES``."""


def checkpoint_name(step: int) -> str:
    """Folder name of the checkpoint after ``step`` steps."""
    return f"step-{step:08d}"


def committed_steps(checkpoints: Location) -> list[int]:
    """Steps of all whole checkpoints in the folder, oldest first."""
    names = [info.base_name for info in checkpoints.list() if info.base_name.startswith("step-")]
    return [int(name[5:]) for name in names if name[5:].isdigit() and (checkpoints / name / STATE_FILE).exists()]


def save_checkpoint(checkpoints: Location, state: TrainState, recipe: Recipe, manifest_digest: str) -> Location:
    """Write the checkpoint of ``state`` so that it appears whole or not at all; remove those beyond the policy."""
    destination = checkpoints / checkpoint_name(state.step)
    if checkpoints.is_local:
        Path(checkpoints.path).mkdir(parents=True, exist_ok=True)
        for left_behind in Path(checkpoints.path).glob(".writing-*"):  # by a kill
            shutil.rmtree(left_behind)
    staging = Path(tempfile.mkdtemp(prefix=".writing-", dir=checkpoints.path if checkpoints.is_local else None))
    try:
        _write(staging, state, recipe, manifest_digest)
        if checkpoints.is_local:
            destination.remove_folder()
            os.rename(staging, destination.path)
        else:
            _upload(staging, destination)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    for step in committed_steps(checkpoints)[: -recipe.train.keep_checkpoints]:
        _remove(checkpoints / checkpoint_name(step))
    return destination


def load_checkpoint(checkpoint: Location, state: TrainState, manifest_digest: str) -> None:
    """Put the checkpoint's weights, optimizer, position and counts into ``state``.

    Raises CheckpointError if a file is damaged, or the data is not what the checkpoint was trained on.
    """
    with local_folder(checkpoint) as folder:
        position = verify(folder, checkpoint.url)
        if position["manifest_digest"] != manifest_digest:
            raise CheckpointError(
                f"{checkpoint.url}: was trained on other data (manifest {position['manifest_digest'][:12]}, now "
                f"{manifest_digest[:12]}); restore the data, or give the run a new name"
            )
        load_model(state.model, str(folder / WEIGHTS_FILE))
        _load_optimizer(state, load_file(folder / OPTIMIZER_FILE))
    state.step = position["step"]
    state.rows = np.array([position["rows"].get(cause, 0) for cause in CAUSES], dtype=np.int64)


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
    for file, checksum in files.items():
        if not (folder / file).is_file() or _checksum(folder / file) != checksum:
            raise CheckpointError(f"{name}: {file} is damaged or missing; remove this checkpoint to use the one before")
    return position


def _write(folder: Path, state: TrainState, recipe: Recipe, manifest_digest: str) -> None:
    state.model.save_pretrained(folder)
    save_file(_optimizer_tensors(state), folder / OPTIMIZER_FILE)
    (folder / RECIPE_FILE).write_text(recipe.to_yaml(), encoding="utf-8")
    position = {
        "step": state.step,
        "manifest_digest": manifest_digest,
        "rows": dict(zip(CAUSES, state.rows.tolist(), strict=True)),
        "files": {path.name: _checksum(path) for path in sorted(folder.iterdir())},
    }
    with open(folder / STATE_FILE, "w", encoding="utf-8") as stream:
        json.dump(position, stream, indent=2)
        stream.flush()
        os.fsync(stream.fileno())


def _upload(folder: Path, destination: Location) -> None:
    for path in sorted(folder.iterdir(), key=lambda path: path.name == STATE_FILE):  # the marker last
        (destination / path.name).write_bytes(path.read_bytes())


def _remove(checkpoint: Location) -> None:
    """Take the commit back first, so that a half-removed checkpoint is none."""
    checkpoint.filesystem.delete_file((checkpoint / STATE_FILE).path)
    checkpoint.remove_folder()


def _checksum(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _optimizer_tensors(state: TrainState) -> dict[str, torch.Tensor]:
    """The optimizer's state as 'parameter name/key' tensors, whatever the order of its groups."""
    return {
        f"{name}/{key}": value.detach().contiguous()
        for name, parameter in state.model.named_parameters()
        for key, value in state.optimizer.state.get(parameter, {}).items()
    }


def _load_optimizer(state: TrainState, tensors: dict[str, torch.Tensor]) -> None:
    parameters = dict(state.model.named_parameters())
    state.optimizer.state.clear()
    for name, tensor in tensors.items():
        parameter_name, _, key = name.rpartition("/")
        parameter = parameters[parameter_name]
        device = "cpu" if key == "step" else parameter.device
        state.optimizer.state[parameter][key] = tensor.to(device)
