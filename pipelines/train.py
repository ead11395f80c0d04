"""One training run on Ray Train, from a recipe to a summary.

``clippy train RECIPE [a.b=c ...]`` on the command line, ``run(load_recipe(...))`` in Python.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import ray
import ray.data
import ray.train
import ray.train.torch

from pipelines.console import Console, duration
from pipelines.events import start_event_log
from pipelines.local_ray import ray_session
from pipelines.prepare import prepare
from pipelines.recipe import Recipe
from pipelines.run_folder import SUMMARY_FILE
from pipelines.samples import CAUSES
from pipelines.state import STATE_FILE, checkpoint_name
from pipelines.storage import locate
from pipelines.tracking import Tracker
from pipelines.worker import Job, train_worker


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
    checkpoint: str
    manifest_digest: str
    mlflow_uri: str | None
    mlflow_run_id: str | None


class TrainingError(RuntimeError):
    """The run failed for another reason than a mistake of its user."""


@dataclass
class _Heard:
    """What the driver has heard of the run."""

    resumed_from: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)
    steps: int = 0
    step_seconds: float = 0.0
    wait_seconds: float = 0.0


def run(recipe: Recipe, console: Console | None = None) -> Summary:
    """Train as the recipe says, from its newest checkpoint if there is one, and write ``summary.json``.

    Raises ValueError, with one clear sentence, for a mistake of the user, and TrainingError for anything else.
    """
    console = console or Console()
    job = prepare(recipe, console)
    step = job.resume_step()
    console.line(_opening(job, step))
    started, heard = time.monotonic(), _Heard(resumed_from=step)
    tracker = Tracker(recipe, job.folder) if recipe.tracking.enabled else None
    status = "FAILED"
    try:
        if tracker:
            tracker.describe(recipe, job.source.manifest)
            tracker.log(job.folder.read_metrics())  # what a killed driver wrote but did not send
        if step < recipe.train.steps:
            with ray_session(recipe.scaling):
                _fit(job, console, tracker, heard)
        summary = _summarise(job, heard, time.monotonic() - started, tracker)
        if heard.steps or not job.folder.read_json(SUMMARY_FILE):  # a finished run keeps the summary of its training
            job.folder.write_json(SUMMARY_FILE, asdict(summary))
        if tracker and heard.steps:
            tracker.log_text(json.dumps(asdict(summary), indent=2), SUMMARY_FILE)
        status = "FINISHED" if summary.status == "finished" else "KILLED"
    finally:
        if tracker:
            tracker.finish(status)
    console.line(_closing(summary))
    return summary


def _fit(job: Job, console: Console, tracker: Tracker | None, heard: _Heard) -> None:
    """Run the trainer in a thread, while this one prints, tracks, and passes on a wish to stop."""
    events = start_event_log()
    errors: list[BaseException] = []

    def fit() -> None:
        try:
            _trainer(job, events).fit()
        except BaseException as error:  # carried over to the main thread
            errors.append(error)

    thread = threading.Thread(target=fit, daemon=True, name="fit")
    with _stop_on_signal(lambda: _ask_to_stop(events, console)):
        thread.start()
        while thread.is_alive():
            thread.join(timeout=0.2)
            _listen(events, job, console, tracker, heard)
    _listen(events, job, console, tracker, heard)
    console.clear()
    if errors:
        _raise(errors[0], heard)


def _trainer(job: Job, events: Any) -> ray.train.torch.TorchTrainer:
    recipe = job.recipe
    storage = locate(recipe.storage.url, recipe.storage.storage_options)
    backend = "cpu:gloo,cuda:nccl" if recipe.scaling.use_gpu else "gloo"
    return ray.train.torch.TorchTrainer(
        train_worker,
        train_loop_config={"job": job, "events": events},
        torch_config=ray.train.torch.TorchConfig(backend=backend),
        scaling_config=ray.train.ScalingConfig(
            num_workers=recipe.scaling.num_workers,
            use_gpu=recipe.scaling.use_gpu,
            resources_per_worker=recipe.scaling.resources_per_worker,
        ),
        run_config=ray.train.RunConfig(
            name=recipe.name,
            storage_path=storage.path,
            storage_filesystem=storage.filesystem,
            failure_config=ray.train.FailureConfig(max_failures=recipe.scaling.max_failures),
        ),
        datasets={"train": job.dataset},
        dataset_config=ray.train.DataConfig(
            execution_options=ray.data.ExecutionOptions(preserve_order=True), enable_shard_locality=False
        ),
    )


def _listen(events: Any, job: Job, console: Console, tracker: Tracker | None, heard: _Heard) -> None:
    for event in ray.get(events.take.remote()):
        if "records" in event:
            last = event["records"][-1]
            seconds = len(event["records"]) * _step_seconds(job.recipe, last)
            heard.steps += len(event["records"])
            heard.step_seconds += seconds
            heard.wait_seconds += last["data_wait_fraction"] * seconds
            console.progress(_progress_line(job.recipe, last))
            if tracker:
                tracker.log(event["records"])
        elif "failure" in event:
            heard.failures.append(event)


def _step_seconds(recipe: Recipe, record: dict[str, Any]) -> float:
    return recipe.optim.global_batch_size / record["images_per_second"]


def _raise(error: BaseException, heard: _Heard) -> None:
    for failure in sorted(heard.failures, key=lambda failure: not failure["user_error"]):
        if failure["user_error"]:
            raise ValueError(failure["failure"]) from None
        raise TrainingError(failure["failure"]) from error
    raise TrainingError(str(error)) from error


def _ask_to_stop(events: Any, console: Console) -> None:
    console.line("stopping: saving a checkpoint after this step; once more to stop at once")
    events.request_stop.remote()


@contextmanager
def _stop_on_signal(ask: Callable[[], None]) -> Iterator[None]:
    """Turn the first Ctrl-C or SIGTERM into ``ask()``, the second into KeyboardInterrupt."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's; under Ray Tune, Tune stops trials
        return
    asked = False

    def handle(number: int, frame: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        ask()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _summarise(job: Job, heard: _Heard, seconds: float, tracker: Tracker | None) -> Summary:
    """The summary from what the newest checkpoint says, and from what was heard of this start."""
    recipe, manifest, step = job.recipe, job.source.manifest, job.resume_step()
    if not step:
        raise TrainingError(f"{recipe.run_url}: the run ended without a checkpoint")
    checkpoint = job.folder.checkpoints / checkpoint_name(step)
    saved = json.loads((checkpoint / STATE_FILE).read_text())["rows"]
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
        excluded_rows=manifest.excluded,
        seconds=seconds,
        images_per_second=heard.steps * recipe.optim.global_batch_size / heard.step_seconds if heard.steps else None,
        data_wait_fraction=heard.wait_seconds / heard.step_seconds if heard.steps else None,
        checkpoint=checkpoint.url,
        manifest_digest=manifest.digest,
        mlflow_uri=tracker.uri if tracker else None,
        mlflow_run_id=tracker.run_id if tracker else None,
    )


def _opening(job: Job, step: int) -> str:
    recipe, plan = job.recipe, job.source.plan
    batch, workers = recipe.optim.global_batch_size, recipe.scaling.num_workers
    epochs = recipe.train.steps * batch / plan.rows_per_epoch
    opening = (
        f"{recipe.run_url}: {recipe.train.steps} steps of {batch} pairs on {workers} worker{'s' * (workers > 1)}, "
        f"{epochs:.1f} epochs of {plan.rows_per_epoch:,} pairs from {recipe.data.url}"
    )
    lines = [opening]
    if job.source.manifest.excluded:
        excluded = ", ".join(f"{cause} {n:,}" for cause, n in job.source.manifest.excluded.items())
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


def _progress_line(recipe: Recipe, record: dict[str, Any]) -> str:
    invalid = sum(record["invalid_rows"].values())
    by_cause = ", ".join(f"{cause} {n}" for cause, n in record["invalid_rows"].items())
    return (
        f"step {record['step']}/{recipe.train.steps}  loss {record['loss']:.3f}  "
        f"{record['images_per_second']:.0f} images/s  data wait {record['data_wait_fraction']:.0%}  "
        f"lr {record['learning_rate']:.2e}  scale {record['logit_scale']:.1f}"
        + (f"  invalid {invalid} ({by_cause})" if invalid else "")
        + f"  {duration(record['seconds_left'])} left"
    )


def _closing(summary: Summary) -> str:
    if summary.status == "stopped":
        return f"stopped at step {summary.step} of {summary.steps}: {summary.checkpoint}; the same command goes on"
    speed = f", {summary.images_per_second:.0f} images/s" if summary.images_per_second else ""
    return f"finished {summary.steps} steps in {duration(summary.seconds)}{speed}: {summary.checkpoint}"
