"""The steps since the last log line: what each came to, and where their time went."""

from __future__ import annotations

import math
from typing import Any

import torch

from clippy.gather import sum_over_workers
from pipelines.recipe import Recipe
from pipelines.samples import Work, invalid_rows
from pipelines.state import TrainState
from pipelines.step import StepResult
from pipelines.throughput import Throughput
from pipelines.timing import StepTimer


class Window:
    """Collects steps and makes records of them, one a step, the last with the window's figures."""

    def __init__(self, recipe: Recipe, timer: StepTimer) -> None:
        self._recipe, self._timer = recipe, timer
        self._results: list[tuple[int, StepResult]] = []
        self._work: list[Work] = []
        self._first_wait: float | None = None

    def arrived(self) -> None:
        """A batch is here: filling the pipeline for the first is told apart from what it then delivers."""
        if self._first_wait is None:
            self._first_wait = self._timer.take()["data_wait"]

    def add(self, state: TrainState, result: StepResult, work: Work) -> None:
        """Keep a step's results, still on the device, and what its rows took."""
        self._results.append((state.step, result))
        self._work.append(work)

    def records(self, state: TrainState, patches: dict[str, float]) -> list[dict[str, Any]]:
        """One record a step, global losses, the last with speed, phases and ``patches``; then start a new window.

        What is not finite is null: JSON has no other word for it.
        """
        losses = sum_over_workers(torch.stack([result.loss.double() for _, result in self._results]).cpu()).tolist()
        records = []
        for (step, result), loss in zip(self._results, losses, strict=True):
            records.append(
                {
                    "step": step,
                    "loss": _finite(loss),
                    "learning_rate": result.learning_rate,
                    "logit_scale": _finite(result.logit_scale.item()),
                    "grad_norm": _finite(result.grad_norm),
                }
            )
            if result.skipped:
                records[-1]["skipped"] = True
            elif state.health.see_loss(loss, self._recipe.health.spike_deviations):
                records[-1]["loss_spike"] = True
        records[-1] |= {**self._figures(state), **patches}
        self._results, self._work = [], []
        return records

    def _figures(self, state: TrainState) -> dict[str, Any]:
        phases = self._timer.take()
        seconds, steps, rows = max(sum(phases.values()), 1e-9), len(self._work), int(state.rows.sum())
        throughput = Throughput(
            self._recipe.optim.global_batch_size * steps,
            seconds,
            sum(work.image_bytes for work in self._work),
            sum(work.read_seconds for work in self._work),
            sum(work.decode_seconds for work in self._work),
        )
        health = state.health
        return {
            **throughput.figures(),
            "data_wait_fraction": phases["data_wait"] / seconds,
            "phases": {name: value / steps for name, value in phases.items()},
            "first_batch_seconds": self._first_wait,
            "seconds_left": seconds / steps * (self._recipe.train.steps - state.step),
            "rows": rows,
            "invalid_rows": invalid_rows(state.rows.tolist()),
            "invalid_fraction": int(state.rows[1:].sum()) / max(1, rows),
            "skipped_steps": health.skipped_steps,
            "rollbacks": health.rollbacks,
            "loss_spikes": health.spikes,
        }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
