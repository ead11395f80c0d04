"""One optimizer step on one worker's part of a global batch.

Shapes: B rows of this worker, H W pixels, T tokens, D width.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from clippy.gather import gather_rows
from clippy.loss import contrastive_loss
from pipelines.optim import learning_rate, set_learning_rate
from pipelines.recipe import Recipe
from pipelines.state import TrainState


@dataclass(frozen=True)
class Inputs:
    """One worker's rows on its device."""

    images_B3HW: torch.Tensor
    ids_BT: torch.Tensor
    valid_B: torch.Tensor
    lengths: tuple[int, ...]
    """Tokens of each caption; plain numbers, so that nothing has to be read back from a device."""


@dataclass(frozen=True)
class StepResult:
    """Device tensors, so that nothing waits for the device until somebody reads them."""

    loss: torch.Tensor
    """This worker's share; the shares of all workers sum to the loss."""
    grad_norm: torch.Tensor
    logit_scale: torch.Tensor
    learning_rate: float


def to_device(pixels: np.ndarray, ids: np.ndarray, valid: np.ndarray, pad_id: int, device: torch.device) -> Inputs:
    """Arrays of a batch as tensors on the device; columns of nothing but padding are left behind."""
    lengths = (ids != pad_id).sum(axis=1)
    width = min(ids.shape[1], -(-max(1, int(lengths.max())) // 8) * 8)
    return Inputs(
        images_B3HW=_as_tensor(pixels).to(device, non_blocking=True).permute(0, 3, 1, 2),
        ids_BT=_as_tensor(np.ascontiguousarray(ids[:, :width])).to(device, non_blocking=True),
        valid_B=_as_tensor(valid).to(device, non_blocking=True),
        lengths=tuple(lengths.tolist()),
    )


def _as_tensor(array: np.ndarray) -> torch.Tensor:
    """A tensor over the array's own memory. That of Ray's object store is read-only, and nobody here writes to it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def train_step(
    state: TrainState,
    forward: Callable[..., tuple[torch.Tensor, ...]] | nn.Module,
    inputs: Inputs,
    recipe: Recipe,
    *,
    rank: int,
    world_size: int,
) -> StepResult:
    """Advance ``state`` by one step; ``forward`` is the model, wrapped for data parallelism where there are workers.

    Randomness (patch dropout, T5's dropout) is a function of (seed, step, rank), so a resumed run draws the same.
    """
    torch.manual_seed(_step_seed(recipe.seed, state.step, rank))
    rate = learning_rate(state.step, recipe.optim, recipe.train.steps)
    set_learning_rate(state.optimizer, rate)
    device = inputs.images_B3HW.device.type
    with torch.autocast(device, dtype=torch.bfloat16, enabled=recipe.train.precision == "bfloat16"):
        image_BD, text_BD, logit_scale = forward(inputs.images_B3HW, inputs.ids_BT, inputs.lengths)
    loss = contrastive_loss(image_BD, text_BD, logit_scale, inputs.valid_B, gather_rows)
    state.optimizer.zero_grad(set_to_none=True)
    (loss * world_size).backward()  # data parallelism averages gradients; the shares must add up
    grad_norm = nn.utils.clip_grad_norm_(state.model.parameters(), recipe.optim.max_grad_norm or float("inf"))
    state.optimizer.step()
    state.model.clamp_logit_scale()
    state.step += 1
    return StepResult(loss.detach(), grad_norm.detach(), logit_scale.detach(), rate)


def _step_seed(seed: int, step: int, rank: int) -> int:
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> np.uint64(1))
