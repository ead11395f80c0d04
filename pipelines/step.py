"""One optimizer step on one worker's part of a global batch.

Shapes: B rows of a micro-batch, b rows of this worker, H W pixels, T tokens, D width.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from clippy.gather import gather_rows, sum_over_workers
from clippy.loss import contrastive_loss
from pipelines.optim import learning_rate, set_learning_rate
from pipelines.recipe import Recipe
from pipelines.state import TrainState
from pipelines.timing import StepTimer


class MicroBatch(Protocol):
    """Rows that run through the towers at once; ``pipelines.stream.MicroBatch`` is one."""

    @property
    def pixels(self) -> np.ndarray: ...
    @property
    def ids(self) -> np.ndarray: ...
    @property
    def valid(self) -> np.ndarray: ...


@dataclass(frozen=True)
class Inputs:
    """Rows on the device of a worker."""

    images_B3HW: torch.Tensor
    ids_BT: torch.Tensor
    valid_B: torch.Tensor
    lengths: tuple[int, ...]
    """Tokens of each caption; plain numbers, so that nothing has to be read back from a device."""


@dataclass(frozen=True)
class StepResult:
    """What a step came to."""

    loss: torch.Tensor
    """This worker's share, on the device; the shares of all workers sum to the loss."""
    grad_norm: float
    logit_scale: torch.Tensor
    learning_rate: float
    skipped: bool
    """Loss or gradient was not finite on some worker, so no weight changed on any."""


def to_device(batch: MicroBatch, pad_id: int, device: torch.device) -> Inputs:
    """A micro-batch as tensors on the device; columns of nothing but padding are left behind."""
    lengths = (batch.ids != pad_id).sum(axis=1)
    width = min(batch.ids.shape[1], -(-max(1, int(lengths.max())) // 8) * 8)
    return Inputs(
        images_B3HW=_as_tensor(batch.pixels).to(device, non_blocking=True).permute(0, 3, 1, 2),
        ids_BT=_as_tensor(np.ascontiguousarray(batch.ids[:, :width])).to(device, non_blocking=True),
        valid_B=_as_tensor(batch.valid).to(device, non_blocking=True),
        lengths=tuple(lengths.tolist()),
    )


def _as_tensor(array: np.ndarray) -> torch.Tensor:
    """A tensor over the array's own memory. That of Ray's object store is read-only, and nobody here writes to it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


@dataclass(frozen=True)
class Stepper:
    """Takes steps. ``forward`` is the model, wrapped for data parallelism where there are workers."""

    state: TrainState
    forward: Callable[..., tuple[torch.Tensor, ...]] | nn.Module
    recipe: Recipe
    device: torch.device
    timer: StepTimer
    rank: int = 0
    world_size: int = 1

    def __call__(self, batches: Sequence[MicroBatch]) -> StepResult:
        """Advance the state by one step on this worker's micro-batches, equally many on every worker.

        Several are embedded first, and each is run again for its part of the gradient of the whole batch (gradient
        caching, arXiv 2101.06983). Randomness (patch dropout, T5's dropout) is a function of (seed, step, micro-batch),
        so both runs, a resumed training, and one on another number of workers draw the same.
        """
        state, timer = self.state, self.timer
        rate = learning_rate(state.step, self.recipe.optim, self.recipe.train.steps)
        set_learning_rate(state.optimizer, rate)
        state.optimizer.zero_grad(set_to_none=True)
        statistics = [(b, b.clone()) for norm in _batch_norms(state.model) for b in norm.buffers()]
        if len(batches) == 1:
            loss, scale = self._whole(batches[0])
        else:
            loss, scale = self._cached(batches)
        with timer("optimizer"):
            norm = nn.utils.clip_grad_norm_(state.model.parameters(), self.recipe.optim.max_grad_norm or math.inf)
            grad_norm = norm.item()
        with timer("communication"):
            unwell = not (math.isfinite(grad_norm) and bool(torch.isfinite(loss)))
            skipped = bool(sum_over_workers(torch.tensor(int(unwell))).item())
        if not skipped:
            with timer("optimizer"):
                state.optimizer.step()
                state.model.clamp_logit_scale()
        else:
            for statistic, before in statistics:
                statistic.copy_(before)
        state.step += 1
        return StepResult(loss, grad_norm, scale, rate, skipped)

    def _whole(self, batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss and logit scale of one micro-batch; its gradient goes to the parameters."""
        inputs = self._load(batch)
        image_BD, text_BD, scale = self._embed(inputs, 0, self.forward)
        with self.timer("loss"):
            loss = contrastive_loss(image_BD, text_BD, scale, inputs.valid_B, self._gather)
        with self.timer("backward"):
            (loss * self.world_size).backward()  # data parallelism averages gradients; the shares must add up
        return loss.detach(), scale.detach()

    def _cached(self, batches: Sequence[MicroBatch]) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss and logit scale of several micro-batches, of which one at a time holds activations."""
        image_bD, text_bD, scale, valid_b = self._embed_all(batches)
        with self.timer("loss"):
            leaves = image_bD.requires_grad_(), text_bD.requires_grad_(), scale.requires_grad_()
            loss = contrastive_loss(*leaves, valid_b, self._gather)
            of_image_bD, of_text_bD, of_scale = torch.autograd.grad(loss * self.world_size, leaves)
        sizes = [len(batch.valid) for batch in batches]
        parts = zip(of_image_bD.split(sizes), of_text_bD.split(sizes), strict=True)
        for i, (batch, part) in enumerate(zip(batches, parts, strict=True)):
            last = i == len(batches) - 1
            with nullcontext() if last else self._no_sync():  # workers add up their gradients once
                outputs = self._embed(self._load(batch), i, self.forward)
                with self.timer("backward"):
                    # The scale has its whole gradient already, and data parallelism wants every parameter in each pass.
                    given = zip(outputs, (*part, of_scale if last else torch.zeros_like(of_scale)), strict=True)
                    pairs = [(output, gradient) for output, gradient in given if output.requires_grad]
                    torch.autograd.backward([output for output, _ in pairs], [gradient for _, gradient in pairs])
        return loss.detach(), scale.detach()

    def _embed_all(self, batches: Sequence[MicroBatch]) -> tuple[torch.Tensor, ...]:
        """Embeddings of all micro-batches, the logit scale, and which rows are valid.

        Without gradients, unless compiled: of a pass without, torch.compile would make other code, which takes as long
        again to translate and does not round alike.
        """
        images, texts, valid = [], [], []
        with _statistics_kept(self.state.model), torch.set_grad_enabled(self.recipe.train.compile):
            for i, batch in enumerate(batches):
                inputs = self._load(batch)
                outputs = self._embed(inputs, i, self.state.model)
                image_BD, text_BD, scale = (output.detach() for output in outputs)
                del outputs  # and with it the activations
                images.append(image_BD)
                texts.append(text_BD)
                valid.append(inputs.valid_B)
        return torch.cat(images), torch.cat(texts), scale, torch.cat(valid)

    def _no_sync(self) -> AbstractContextManager[None]:
        return self.forward.no_sync() if isinstance(self.forward, DistributedDataParallel) else nullcontext()

    def _load(self, batch: MicroBatch) -> Inputs:
        with self.timer("host_to_device"):
            return to_device(batch, self.state.model.tokenizer.pad_id, self.device)

    def _embed(self, inputs: Inputs, index: int, forward: Callable[..., Any]) -> tuple[torch.Tensor, ...]:
        """Embeddings of this step's ``index``-th micro-batch of this worker."""
        # What is drawn must not depend on how many workers share the batch: count micro-batches over all of them.
        torch.manual_seed(_seed(self.recipe.seed, self.state.step, index + self._first_micro_batch))
        precision = self.recipe.train.precision
        with (
            self.timer("forward"),
            torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"),
        ):
            return forward(inputs.images_B3HW, inputs.ids_BT, inputs.lengths)

    @property
    def _first_micro_batch(self) -> int:
        in_all = self.recipe.optim.global_batch_size // self.recipe.micro_batch_size
        return self.rank * -(-in_all // self.world_size)

    def _gather(self, rows: torch.Tensor) -> tuple[torch.Tensor, int]:
        with self.timer("communication"):
            return gather_rows(rows)


def _batch_norms(model: nn.Module) -> list[_BatchNorm]:
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


@contextmanager
def _statistics_kept(model: nn.Module) -> Iterator[None]:
    """Batch norms normalise as in training but leave their running statistics to the second run."""
    norms = _batch_norms(model)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
