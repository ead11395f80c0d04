"""What a run says of itself: when it starts, as it goes, and how it ended."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from pipelines import bounds, throughput, validation
from pipelines.budget import StreamBudget
from pipelines.checkpoints import STATE_FILE, checkpoint_name
from pipelines.console import duration
from pipelines.health import Health
from pipelines.job import Job
from pipelines.recipe import Recipe
from pipelines.samples import CAUSES
from pipelines.throughput import Throughput


@dataclass(frozen=True)
class Summary:
    """How a run ended; also its ``summary.json``."""

    run: str
    status: str
    """'finished', or 'stopped' by a person."""
    step: int
    steps: int
    resumed_from: int
    loss: float | None
    rows_seen: int
    epochs: float
    invalid_rows: dict[str, int]
    """Rows that turned out to be no usable pair, by cause, each time they came up."""
    excluded_rows: dict[str, int]
    """Rows of the dataset that are no samples, left out when it was indexed, by cause."""
    seconds: float
    """Of this start, from Ray's start to its end."""
    images_per_second: float | None
    data_wait_fraction: float | None
    first_batch_seconds: float | None
    """From the workers' start to the first batch."""
    bytes_per_second: float | None
    """Encoded bytes of the images trained on."""
    decode_images_per_core: float | None
    """Images a second that one core decodes."""
    decode_share: float | None
    """Of what all cores beside the workers' could decode."""
    object_store_peak_bytes: int | None
    object_store_limit_bytes: int | None
    step_seconds: dict[str, float] | None
    """Where a step's time went on the first worker, by phase (``pipelines.timing.PHASES``), on average."""
    verdict: str | None
    """What bounds the run, and what to change."""
    starts: int
    """How often the workers were started: once, and once more after each failure or change of their number."""
    skipped_steps: int
    """Steps whose loss or gradient was not finite, and which changed nothing."""
    rollbacks: int
    undone_steps: int
    """Steps whose work those rollbacks threw away."""
    loss_spikes: int
    best_step: int | None
    """Of the validated checkpoints."""
    best_value: float | None
    checkpoint: str
    manifest_digest: str
    mlflow_uri: str | None
    mlflow_run_id: str | None


class TrainingError(RuntimeError):
    """The run failed for another reason than a mistake of its user."""


@dataclass
class Heard:
    """What the driver has heard of the run since this start."""

    resumed_from: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)
    failures_before: int = 0
    """Of them, those of earlier starts of the workers."""
    throughput: Throughput | None = None
    first_batch_seconds: float | None = None
    budget: StreamBudget | None = None
    object_store_peak_bytes: int = 0
    starts: int = 0
    placement_group: Any = None
    """Of the workers that were started last."""
    steps: int = 0
    phases: Counter[str] = field(default_factory=Counter)
    """Seconds of all steps heard of."""

    def add(self, recipe: Recipe, records: list[dict[str, Any]]) -> None:
        """The records of a few steps, the last of which holds their figures."""
        last, images = records[-1], len(records) * recipe.optim.global_batch_size
        now = Throughput.from_figures(last, images)
        self.throughput = now + self.throughput if self.throughput else now
        self.steps += len(records)
        self.phases.update({name: seconds * len(records) for name, seconds in last["phases"].items()})
        if self.first_batch_seconds is None:
            self.first_batch_seconds = last.get("first_batch_seconds")

    def cause(self, otherwise: str) -> str:
        """What failed first since the workers were started last: the others then fail because one of them is gone."""
        return next((failure["failure"] for failure in self.failures[self.failures_before :]), otherwise)

    @property
    def failures_that_end_it(self) -> list[dict[str, Any]]:
        """Those that would come again, a mistake of the user first."""
        final = [failure for failure in self.failures if failure["final"]]
        return sorted(final, key=lambda failure: not failure["user_error"])


def summarise(job: Job, heard: Heard, seconds: float, mlflow: tuple[str, str] | None) -> Summary:
    """The summary from what the newest checkpoint says, and from what was heard of this start."""
    recipe, source, step = job.recipe, job.source, job.resume_step()
    if not step:
        raise TrainingError(f"{recipe.run_url}: the run ended without a checkpoint")
    checkpoint = job.folder.checkpoints / checkpoint_name(step)
    state = json.loads((checkpoint / STATE_FILE).read_text())
    saved, health, best = state["rows"], Health.from_dict(state["health"]), validation.best(job.folder)
    losses = [record["loss"] for record in job.folder.read_metrics()[-1:]]
    rows = sum(saved.values())
    return Summary(
        run=recipe.run_url,
        status="finished" if step >= recipe.train.steps else "stopped",
        step=step,
        steps=recipe.train.steps,
        resumed_from=heard.resumed_from,
        loss=losses[0] if losses else None,
        rows_seen=rows,
        epochs=rows / job.source.plan.rows_per_epoch,
        invalid_rows={cause: n for cause, n in saved.items() if n and cause != CAUSES[0]},
        excluded_rows=source.excluded,
        seconds=seconds,
        **_input_figures(heard, job),
        starts=heard.starts,
        skipped_steps=health.skipped_steps,
        rollbacks=health.rollbacks,
        undone_steps=health.undone_steps,
        loss_spikes=health.spikes,
        best_step=best.get("step"),
        best_value=best.get("value"),
        checkpoint=checkpoint.url,
        manifest_digest=source.digest,
        mlflow_uri=mlflow[0] if mlflow else None,
        mlflow_run_id=mlflow[1] if mlflow else None,
    )


def _input_figures(heard: Heard, job: Job) -> dict[str, Any]:
    """The summary's fields on speed; null where nothing was trained in this start."""
    done, budget = heard.throughput, heard.budget
    if done is None or budget is None:
        return dict.fromkeys(_INPUT_FIELDS)
    wait = heard.phases["data_wait"] / done.seconds
    of_input = throughput.verdict(done, budget.decode_cores, budget.units_per_block * job.source.unit_rows)
    figures = (
        done.images_per_second,
        wait,
        heard.first_batch_seconds,
        done.bytes_per_second,
        done.decode_images_per_core,
        done.decode_share(budget.decode_cores),
        heard.object_store_peak_bytes,
        budget.limit_bytes,
        {name: seconds / heard.steps for name, seconds in heard.phases.items()},
        bounds.verdict(heard.phases, job.recipe, of_input),
    )
    return dict(zip(_INPUT_FIELDS, figures, strict=True))


_INPUT_FIELDS = (
    "images_per_second",
    "data_wait_fraction",
    "first_batch_seconds",
    "bytes_per_second",
    "decode_images_per_core",
    "decode_share",
    "object_store_peak_bytes",
    "object_store_limit_bytes",
    "step_seconds",
    "verdict",
)


def opening(job: Job, step: int) -> str:
    """What is about to be done, on what, and from where."""
    recipe, plan = job.recipe, job.source.plan
    batch, scaling = recipe.optim.global_batch_size, recipe.scaling
    workers = f"{scaling.max_workers} worker{'s' * (scaling.max_workers > 1)}"
    if scaling.min_workers < scaling.max_workers:
        workers = f"{scaling.min_workers} to {workers}"
    epochs = recipe.train.steps * batch / plan.rows_per_epoch
    first = (
        f"{recipe.run_url}: {recipe.train.steps} steps of {batch} pairs on {workers}, "
        f"{epochs:.1f} epochs of {plan.rows_per_epoch:,} pairs from {recipe.data.urls}"
    )
    lines = [first]
    if job.source.excluded:
        excluded = ", ".join(f"{cause} {n:,}" for cause, n in job.source.excluded.items())
        lines.append(f"rows that are no samples, left out by the index: {excluded}")
    if plan.usual_rows > job.source.unit_rows:
        lines.append(
            f"row groups hold {plan.usual_rows} rows and a unit {job.source.unit_rows}: each group is read about "
            f"{-(-plan.usual_rows // job.source.unit_rows)} times; smaller row groups or a larger batch would mend that"
        )
    if step >= recipe.train.steps:
        lines.append(f"finished already, at step {step}")
    elif step:
        lines.append(f"resuming at step {step} of {recipe.train.steps}, pair {step * batch:,} of the stream")
    return "\n".join(lines)


def closing(summary: Summary) -> str:
    """How it ended, and where the result lies."""
    if summary.status == "stopped":
        return f"stopped at step {summary.step} of {summary.steps}: {summary.checkpoint}; the same command goes on"
    speed = f", {summary.images_per_second:.0f} images/s" if summary.images_per_second else ""
    bound = f"\n{summary.verdict}" if summary.verdict else ""
    return f"finished {summary.steps} steps in {duration(summary.seconds)}{speed}: {summary.checkpoint}{bound}"
