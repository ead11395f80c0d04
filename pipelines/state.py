"""What a training run is at one step, how it becomes the files of a checkpoint, and how it comes back.

All is safetensors, JSON and YAML; nothing is unpickled. Random states need no saving: each step seeds its own from
(seed, step, micro-batch).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, load_model, save_file
from torch import nn

from clippy.model import WEIGHTS_FILE, CLIPpy
from pipelines.checkpoints import CheckpointError, local_folder, verify
from pipelines.health import Health
from pipelines.recipe import Recipe
from pipelines.run_folder import RECIPE_FILE
from pipelines.samples import CAUSES
from pipelines.storage import Location

OPTIMIZER_FILE = "optimizer.safetensors"


@dataclass
class TrainState:
    """The model, its optimizer and how far they have come."""

    model: CLIPpy
    optimizer: torch.optim.Optimizer
    step: int = 0
    """Steps done, those that were skipped among them: the position in the stream."""
    rows: np.ndarray = field(default_factory=lambda: np.zeros(len(CAUSES), dtype=np.int64))
    """Rows of all workers so far by what became of them; index into ``CAUSES``."""
    health: Health = field(default_factory=Health)


@dataclass(frozen=True)
class Snapshot:
    """A copy of a state in the memory of the CPU, which training does not touch as it goes on."""

    step: int
    texts: dict[str, str]
    """Small files by name."""
    tensors: dict[str, dict[str, torch.Tensor]]
    """Files of tensors by name."""
    position: dict[str, Any]
    """Of ``state.json``, all but the checksums."""


def take_snapshot(
    state: TrainState, recipe: Recipe, manifest_digest: str, *, shard: int = 0, shards: int = 1
) -> Snapshot:
    """Copy what a checkpoint holds; of several shards, the part of worker ``shard``, the first with all the rest."""
    optimizer = optimizer_tensors(state.model, state.optimizer)
    part = sorted(optimizer)[shard::shards]
    name = OPTIMIZER_FILE if shards == 1 else f"optimizer-{shard:05d}-of-{shards:05d}.safetensors"
    tensors = {name: {key: _copy(optimizer[key]) for key in part}}
    texts: dict[str, str] = {}
    if shard == 0:
        tensors[WEIGHTS_FILE] = _weights(state.model)
        texts = {**state.model.description(), RECIPE_FILE: recipe.to_yaml()}
    position = {
        "step": state.step,
        "manifest_digest": manifest_digest,
        "rows": dict(zip(CAUSES, state.rows.tolist(), strict=True)),
        "healthy": state.health.skipped_in_row == 0,
        "health": state.health.as_dict(),
    }
    return Snapshot(state.step, texts, tensors, position)


def write_snapshot(snapshot: Snapshot, folder: Path) -> list[Path]:
    """Write the snapshot's files; ``state.json`` is not among them."""
    written = []
    for name, tensors in snapshot.tensors.items():
        written.append(folder / name)
        save_file(tensors, written[-1], metadata={"format": "pt"})
    for name, text in snapshot.texts.items():
        written.append(folder / name)
        written[-1].write_text(text, encoding="utf-8")
    return written


def load_checkpoint(checkpoint: Location, state: TrainState, manifest_digest: str) -> None:
    """Put the checkpoint's weights, optimizer, position and counts into ``state``.

    Raises CheckpointError if a file is damaged, or the data is not what the checkpoint was trained on.
    """
    position = load_weights(checkpoint, state)
    if position["manifest_digest"] != manifest_digest:
        raise CheckpointError(
            f"{checkpoint.url}: was trained on other data (manifest {position['manifest_digest'][:12]}, now "
            f"{manifest_digest[:12]}); restore the data, or give the run a new name"
        )
    state.step = position["step"]
    state.rows = np.array([position["rows"].get(cause, 0) for cause in CAUSES], dtype=np.int64)
    state.health = Health.from_dict(position.get("health", {}))


def load_weights(checkpoint: Location, state: TrainState) -> dict[str, Any]:
    """Put weights and optimizer alone into ``state``; returns ``state.json``. Raises CheckpointError."""
    with local_folder(checkpoint) as folder:
        position = verify(folder, checkpoint.url)
        load_model(state.model, str(folder / WEIGHTS_FILE))
        tensors: dict[str, torch.Tensor] = {}
        for name in position["files"]:
            if name.startswith("optimizer") and name.endswith(".safetensors"):
                tensors |= load_file(folder / name)
        load_optimizer(state.model, state.optimizer, tensors)
    return position


def _weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Every weight once, under the first of the names that share it: safetensors holds no tensor twice."""
    seen: set[tuple[int, torch.Size]] = set()
    weights = {}
    for name, tensor in sorted(model.state_dict().items()):
        identity = (tensor.data_ptr(), tensor.shape)
        if tensor.numel() == 0 or identity not in seen:
            seen.add(identity)
            weights[name] = _copy(tensor)
    return weights


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimizer's state as 'parameter name/key' tensors, whatever the order of its groups."""
    return {
        f"{name}/{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """Take ``optimizer_tensors`` back, through the optimizer's own loading, which knows where each part belongs."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    by_name: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        parameter_name, _, key = name.rpartition("/")
        by_name.setdefault(parameter_name, {})[key] = tensor
    ordered = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    packed = {i: by_name[name] for i, name in enumerate(ordered) if name in by_name}
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": packed, "param_groups": groups})
