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
from dataclasses import asdict
from typing import Any

import ray
import ray.data
import ray.train
import ray.train.torch

from pipelines.budget import StreamBudget, cluster_budget, execution_options, watch_store
from pipelines.console import Console
from pipelines.events import start_event_log
from pipelines.local_ray import ray_session
from pipelines.prepare import prepare
from pipelines.recipe import Recipe
from pipelines.run_folder import SUMMARY_FILE
from pipelines.storage import locate
from pipelines.summary import Heard, Summary, TrainingError, closing, opening, progress_line, summarise
from pipelines.tracking import Tracker
from pipelines.worker import Job, train_worker


def run(recipe: Recipe, console: Console | None = None) -> Summary:
    """Train as the recipe says, from its newest checkpoint if there is one, and write ``summary.json``.

    Raises ValueError, with one clear sentence, for a mistake of the user, and TrainingError for anything else.
    """
    console = console or Console()
    job = prepare(recipe, console)
    step = job.resume_step()
    console.line(opening(job, step))
    started, heard = time.monotonic(), Heard(resumed_from=step)
    tracker = Tracker(recipe, job.folder) if recipe.tracking.enabled else None
    status = "FAILED"
    try:
        if tracker:
            tracker.describe(recipe, job.source)
            tracker.log(job.folder.read_metrics())  # what a killed driver wrote but did not send
        if step < recipe.train.steps:
            with ray_session(recipe.scaling):
                _fit(job, console, tracker, heard)
        mlflow = (tracker.uri, tracker.run_id) if tracker else None
        summary = summarise(job, heard, time.monotonic() - started, mlflow)
        # A run that was finished before keeps the summary of its training.
        if heard.throughput or not job.folder.read_json(SUMMARY_FILE):
            job.folder.write_json(SUMMARY_FILE, asdict(summary))
        if tracker and heard.throughput:
            tracker.log_text(json.dumps(asdict(summary), indent=2), SUMMARY_FILE)
        status = "FINISHED" if summary.status == "finished" else "KILLED"
    finally:
        if tracker:
            tracker.finish(status)
    console.line(closing(summary))
    return summary


def _fit(job: Job, console: Console, tracker: Tracker | None, heard: Heard) -> None:
    """Run the trainer in a thread, while this one prints, tracks, and passes on a wish to stop."""
    budget = cluster_budget(job.recipe, job.source, job.decoding)
    console.line(budget.as_text())
    heard.budget = budget
    events = start_event_log()
    errors: list[BaseException] = []

    def fit() -> None:
        try:
            _trainer(job, events, budget).fit()
        except BaseException as error:  # carried over to the main thread
            errors.append(error)

    thread = threading.Thread(target=fit, daemon=True, name="fit")
    with _stop_on_signal(lambda: _ask_to_stop(events, console)), watch_store() as gauge:
        thread.start()
        while thread.is_alive():
            thread.join(timeout=0.2)
            heard.object_store_peak_bytes = gauge.peak_bytes
            _listen(events, job, console, tracker, heard)
    _listen(events, job, console, tracker, heard)
    console.clear()
    if errors:
        _raise(errors[0], heard)


def _trainer(job: Job, events: Any, budget: StreamBudget) -> ray.train.torch.TorchTrainer:
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
        dataset_config=ray.train.DataConfig(execution_options=execution_options(budget), enable_shard_locality=False),
    )


def _listen(events: Any, job: Job, console: Console, tracker: Tracker | None, heard: Heard) -> None:
    for event in ray.get(events.take.remote()):
        if "records" in event:
            heard.add(job.recipe, event["records"])
            console.progress(progress_line(job.recipe, event["records"][-1]))
            if tracker:
                tracker.log(event["records"])
        elif "failure" in event:
            heard.failures.append(event)


def _raise(error: BaseException, heard: Heard) -> None:
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
