"""When to step, log, save and stop. Knows no Ray: it takes batches and a reporter."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from clippy.gather import sum_over_workers
from pipelines.columns import DataError
from pipelines.recipe import Recipe
from pipelines.samples import CAUSES
from pipelines.state import TrainState
from pipelines.step import StepResult, to_device, train_step


class WorkerBatch(Protocol):
    """What the loop needs of a batch; ``pipelines.stream.Batch`` is one."""

    @property
    def pixels(self) -> np.ndarray: ...
    @property
    def ids(self) -> np.ndarray: ...
    @property
    def valid(self) -> np.ndarray: ...
    def count_causes(self) -> np.ndarray: ...


class Reporter(Protocol):
    """Where a run speaks and saves. Every worker calls it equally often; most only listen on rank 0."""

    def log(self, records: list[dict[str, Any]]) -> None:
        """One record a step since the last call, the last with speed and time left."""

    def save(self, state: TrainState) -> None:
        """Write a checkpoint."""

    def stop_requested(self) -> bool:
        """Whether a person asked to stop; may differ between workers, the loop makes them agree."""


def train_loop(
    state: TrainState,
    forward: Callable[..., Any] | nn.Module,
    batches: Iterable[WorkerBatch],
    recipe: Recipe,
    reporter: Reporter,
    *,
    device: torch.device,
    rows_per_epoch: int,
    rank: int = 0,
    world_size: int = 1,
) -> bool:
    """Train from ``state.step`` to ``recipe.train.steps``; True when that is reached, False when asked to stop.

    Raises DataError when too many rows are invalid, and RuntimeError when the stream ends early or a loss is not
    finite.
    """
    stream = iter(batches)
    window = _Window(recipe)
    state.model.train()
    while state.step < recipe.train.steps:
        batch = window.fetch(stream, state.step)
        stop = _exchange(state, batch, reporter.stop_requested())
        _check_invalid(state, recipe, rows_per_epoch)
        inputs = to_device(batch.pixels, batch.ids, batch.valid, state.model.tokenizer.pad_id, device)
        result = train_step(state, forward, inputs, recipe, rank=rank, world_size=world_size)
        window.add(state, result)
        done = stop or state.step == recipe.train.steps
        save = done or state.step % recipe.train.checkpoint_every == 0
        if save or state.step % recipe.train.log_every == 0:
            reporter.log(window.records(state))
        if save:
            reporter.save(state)
            window.restart()
        if stop:
            break
    return state.step == recipe.train.steps


def _exchange(state: TrainState, batch: WorkerBatch, stop: bool) -> bool:
    """Add up all workers' rows by cause, and agree whether to stop after this step."""
    mine = torch.from_numpy(np.append(batch.count_causes(), int(stop)))
    everyone = sum_over_workers(mine).numpy()
    state.rows = state.rows + everyone[:-1]
    return bool(everyone[-1])


def _check_invalid(state: TrainState, recipe: Recipe, rows_per_epoch: int) -> None:
    """Stop as soon as the rows seen so far, or one epoch or 10,000 rows if fewer were seen, hold too many bad ones."""
    seen, invalid = int(state.rows.sum()), int(state.rows[1:].sum())
    limit = recipe.data.max_invalid_fraction
    if invalid > limit * max(seen, min(rows_per_epoch, 10_000)):
        by_cause = ", ".join(f"{cause} {n}" for cause, n in invalid_rows(state.rows).items())
        raise DataError(
            f"data.max_invalid_fraction: {invalid} of {seen} rows so far are no usable pair ({by_cause}), more than "
            f"the {limit:g} allowed; mend the data or raise the limit"
        )


def invalid_rows(rows: np.ndarray) -> dict[str, int]:
    """Rows that were no usable pair, by cause."""
    return {cause: int(n) for cause, n in zip(CAUSES[1:], rows[1:], strict=True) if n}


class _Window:
    """Steps since the last log line: their results, the time they took and the time spent waiting for data."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._results: list[tuple[int, StepResult]] = []
        self.restart()

    def restart(self) -> None:
        """Count time from here."""
        self._started, self._waited, self._steps = time.perf_counter(), 0.0, 0

    def fetch(self, stream: Iterator[WorkerBatch], step: int) -> WorkerBatch:
        """The next batch, its wait counted."""
        started = time.perf_counter()
        batch = next(stream, None)
        if batch is None:
            raise RuntimeError(f"the stream of samples ended at step {step} of {self._recipe.train.steps}")
        self._waited += time.perf_counter() - started
        return batch

    def add(self, state: TrainState, result: StepResult) -> None:
        """Keep a step's results, still on the device."""
        self._results.append((state.step, result))
        self._steps += 1

    def records(self, state: TrainState) -> list[dict[str, Any]]:
        """One record a step, global losses, the last with the window's speed; then start a new window."""
        losses = sum_over_workers(torch.stack([result.loss.double() for _, result in self._results]).cpu())
        records = [
            {
                "step": step,
                "loss": loss,
                "learning_rate": result.learning_rate,
                "logit_scale": result.logit_scale.item(),
                "grad_norm": result.grad_norm.item(),
            }
            for (step, result), loss in zip(self._results, losses.tolist(), strict=True)
        ]
        for record in records:
            if not math.isfinite(record["loss"]):
                raise RuntimeError(
                    f"the loss of step {record['step']} is {record['loss']}; training stopped at the last checkpoint. "
                    "Lower optim.learning_rate or set optim.max_grad_norm"
                )
        seconds = max(time.perf_counter() - self._started, 1e-9)
        batch_size = self._recipe.optim.global_batch_size
        records[-1] |= {
            "images_per_second": batch_size * self._steps / seconds,
            "data_wait_fraction": self._waited / seconds,
            "seconds_left": seconds / self._steps * (self._recipe.train.steps - state.step),
            "rows": int(state.rows.sum()),
            "invalid_rows": invalid_rows(state.rows),
        }
        self._results = []
        self.restart()
        return records
