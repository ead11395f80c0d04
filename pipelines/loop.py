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
from pipelines.samples import CAUSES, Work, invalid_rows
from pipelines.state import TrainState
from pipelines.step import StepResult, to_device, train_step
from pipelines.throughput import Throughput


class WorkerBatch(Protocol):
    """What the loop needs of a batch; ``pipelines.stream.Batch`` is one."""

    @property
    def pixels(self) -> np.ndarray: ...
    @property
    def ids(self) -> np.ndarray: ...
    @property
    def valid(self) -> np.ndarray: ...
    @property
    def work(self) -> Work: ...
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
        stop, work = _exchange(state, batch, reporter.stop_requested())
        _check_invalid(state, recipe, rows_per_epoch)
        inputs = to_device(batch.pixels, batch.ids, batch.valid, state.model.tokenizer.pad_id, device)
        result = train_step(state, forward, inputs, recipe, rank=rank, world_size=world_size)
        window.add(state, result, work)
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


def _exchange(state: TrainState, batch: WorkerBatch, stop: bool) -> tuple[bool, Work]:
    """Add up all workers' rows by cause and the work on them, and agree whether to stop after this step."""
    work = batch.work
    micros = [int(seconds * 1e6) for seconds in (work.read_seconds, work.decode_seconds)]
    mine = torch.from_numpy(np.concatenate([batch.count_causes(), [int(stop), work.image_bytes, *micros]]))
    everyone = sum_over_workers(mine).numpy()
    state.rows = state.rows + everyone[: len(CAUSES)]
    stopping, image_bytes, read, decode = everyone[len(CAUSES) :].tolist()
    return bool(stopping), Work(image_bytes, read / 1e6, decode / 1e6)


def _check_invalid(state: TrainState, recipe: Recipe, rows_per_epoch: int) -> None:
    """Stop as soon as the rows seen so far, or one epoch or 10,000 rows if fewer were seen, hold too many bad ones."""
    seen, invalid = int(state.rows.sum()), int(state.rows[1:].sum())
    limit = recipe.data.max_invalid_fraction
    if invalid > limit * max(seen, min(rows_per_epoch, 10_000)):
        by_cause = ", ".join(f"{cause} {n}" for cause, n in invalid_rows(state.rows.tolist()).items())
        raise DataError(
            f"data.max_invalid_fraction: {invalid} of {seen} rows so far are no usable pair ({by_cause}), more than "
            f"the {limit:g} allowed; mend the data or raise the limit"
        )


class _Window:
    """Steps since the last log line: their results, the time they took and the time spent waiting for data."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._results: list[tuple[int, StepResult]] = []
        self._first_wait: float | None = None
        self.restart()

    def restart(self) -> None:
        """Count time from here."""
        self._started, self._waited = time.perf_counter(), 0.0
        self._work: list[Work] = []

    def fetch(self, stream: Iterator[WorkerBatch], step: int) -> WorkerBatch:
        """The next batch, its wait counted."""
        started = time.perf_counter()
        batch = next(stream, None)
        if batch is None:
            raise RuntimeError(f"the stream of samples ended at step {step} of {self._recipe.train.steps}")
        wait = time.perf_counter() - started
        if self._first_wait is None:  # filling the pipeline is told apart from what it then delivers
            self._first_wait = wait
            self.restart()
        else:
            self._waited += wait
        return batch

    def add(self, state: TrainState, result: StepResult, work: Work) -> None:
        """Keep a step's results, still on the device, and what its rows took."""
        self._results.append((state.step, result))
        self._work.append(work)

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
        steps = len(self._work)
        throughput = Throughput(
            self._recipe.optim.global_batch_size * steps,
            seconds,
            sum(work.image_bytes for work in self._work),
            sum(work.read_seconds for work in self._work),
            sum(work.decode_seconds for work in self._work),
        )
        records[-1] |= {
            **throughput.figures(),
            "data_wait_fraction": self._waited / seconds,
            "first_batch_seconds": self._first_wait,
            "seconds_left": seconds / steps * (self._recipe.train.steps - state.step),
            "rows": int(state.rows.sum()),
            "invalid_rows": invalid_rows(state.rows.tolist()),
        }
        self._results = []
        self.restart()
        return records
