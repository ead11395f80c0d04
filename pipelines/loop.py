"""When to step, log, save, go back and stop. Knows no Ray: it takes batches and a reporter."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from clippy.gather import sum_over_workers
from pipelines.columns import DataError
from pipelines.health import HealthError, PatchStatistics
from pipelines.recipe import Recipe
from pipelines.samples import CAUSES, Work, invalid_rows
from pipelines.state import TrainState
from pipelines.step import MicroBatch, Stepper
from pipelines.timing import StepTimer
from pipelines.window import Window


class WorkerBatch(Protocol):
    """What the loop needs of a batch; ``pipelines.stream.Batch`` is one."""

    @property
    def keys(self) -> list[str]: ...
    @property
    def micro_batches(self) -> Sequence[MicroBatch]: ...
    @property
    def work(self) -> Work: ...
    def count_causes(self) -> np.ndarray: ...


class Reporter(Protocol):
    """Where a run speaks and saves. Every worker calls it equally often; most only listen on rank 0."""

    def took(self, step: int, keys: list[str]) -> None:
        """This worker's pairs of the step that follows."""

    def log(self, records: list[dict[str, Any]]) -> None:
        """One record a step since the last call, the last with speed and time left."""

    def save(self, state: TrainState, *, wait: bool, last: bool) -> None:
        """Have a checkpoint written; ``wait`` until it is, or could not be. The ``last`` one has to be."""

    def go_back(self, state: TrainState) -> int:
        """Give the state weights and optimizer of the last good checkpoint, or the start; returns its step."""

    def stop_requested(self) -> bool:
        """Whether a person asked to stop; may differ between workers, the loop makes them agree."""

    def notice_is_due(self) -> bool:
        """Whether this worker would like all to ask for notices of preemption; the loop makes them agree."""

    def preemption_noticed(self) -> bool:
        """Whether a machine is about to be taken that was not before; asked by all workers at once."""


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
    timer: StepTimer | None = None,
) -> bool:
    """Train from ``state.step`` to ``recipe.train.steps``; True when that is reached, False when asked to stop.

    Raises DataError when too many rows are invalid, HealthError when the run goes wrong again and again, and
    RuntimeError when the stream ends early.
    """
    timer = timer or StepTimer(device)
    stream = iter(batches)
    step_ = Stepper(state, forward, recipe, device, timer, rank, world_size)
    window = Window(recipe, timer)
    patches = PatchStatistics(state.model.image)
    state.model.train()
    while state.step < recipe.train.steps:
        batch = _fetch(stream, window, timer, state.step, recipe)
        reporter.took(state.step + 1, batch.keys)
        with timer("communication"):
            agreed = _exchange(batch, reporter)
        state.rows = state.rows + agreed.rows
        _check_invalid(state, recipe, rows_per_epoch)
        if _is_due(state.step + 1, recipe.train.log_every):
            patches.ask()
        result = step_(batch.micro_batches)
        window.add(state, result, agreed.work)
        _mind_health(state, recipe, reporter, result.skipped)
        done = agreed.stop or state.step == recipe.train.steps
        preempted = agreed.ask_for_notice and reporter.preemption_noticed()
        save = done or preempted or _is_due(state.step, recipe.checkpoint.every)
        if save or _is_due(state.step, recipe.train.log_every):
            reporter.log(window.records(state, patches.take()))
        if save:
            with timer("checkpoint"):
                reporter.save(state, wait=done or preempted, last=done)
        if agreed.stop:
            break
    return state.step == recipe.train.steps


def _is_due(step: int, every: int) -> bool:
    return step % every == 0


def _fetch(stream: Iterator[WorkerBatch], window: Window, timer: StepTimer, step: int, recipe: Recipe) -> WorkerBatch:
    with timer("data_wait"):
        batch = next(stream, None)
    if batch is None:
        raise RuntimeError(f"the stream of samples ended at step {step} of {recipe.train.steps}")
    window.arrived()
    return batch


@dataclass(frozen=True)
class _Agreed:
    """What all workers know alike before a step."""

    rows: np.ndarray
    """Of the global batch, by cause."""
    work: Work
    stop: bool
    ask_for_notice: bool


def _exchange(batch: WorkerBatch, reporter: Reporter) -> _Agreed:
    """Add up all workers' rows by cause and the work on them, and agree on wishes."""
    work = batch.work
    wishes = [int(reporter.stop_requested()), int(reporter.notice_is_due())]
    micros = [int(seconds * 1e6) for seconds in (work.read_seconds, work.decode_seconds)]
    mine = torch.from_numpy(np.concatenate([batch.count_causes(), wishes, [work.image_bytes], micros]))
    everyone = sum_over_workers(mine).numpy()
    stop, notice, image_bytes, read, decode = everyone[len(CAUSES) :].tolist()
    return _Agreed(everyone[: len(CAUSES)], Work(image_bytes, read / 1e6, decode / 1e6), bool(stop), bool(notice))


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


def _mind_health(state: TrainState, recipe: Recipe, reporter: Reporter, skipped: bool) -> None:
    """Count a skipped step, and after too many in a row go back to the last good weights and on with the next batch."""
    health = state.health
    health.skipped_steps += skipped
    health.skipped_in_row = health.skipped_in_row + 1 if skipped else 0
    if health.skipped_in_row <= recipe.health.max_skipped_steps:
        return
    if health.rollbacks >= recipe.health.max_rollbacks:
        raise HealthError(
            f"the loss or gradient of {health.skipped_in_row} steps in a row, up to step {state.step}, was not finite, "
            f"after {health.rollbacks} returns to an earlier checkpoint (health.max_rollbacks); the last good one is "
            "kept. Look at the pairs of these steps, and go on with a higher health.max_rollbacks; a lower "
            "optim.learning_rate or an optim.max_grad_norm wants a run of another name"
        )
    back_at = reporter.go_back(state)
    health.rollbacks += 1
    health.undone_steps += state.step - back_at
    health.skipped_in_row = 0
