"""One training run on Ray Train, from a recipe to a summary.

``clippy train RECIPE [a.b=c ...]`` on the command line, ``run(load_recipe(...))`` in Python.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import ray
import ray.data
import ray.exceptions
import ray.train
import ray.train.torch
import ray.util

from pipelines.budget import StreamBudget, cluster_budget, watch_store
from pipelines.console import Console
from pipelines.events import start_event_log
from pipelines.follower import Follower
from pipelines.job import Job
from pipelines.listener import Listener
from pipelines.local_ray import check_resources, ray_session
from pipelines.prepare import prepare
from pipelines.recipe import Recipe
from pipelines.run_folder import SUMMARY_FILE
from pipelines.storage import locate
from pipelines.summary import Heard, Summary, TrainingError, closing, opening, summarise
from pipelines.tracking import Tracker
from pipelines.validation import steps_due
from pipelines.worker import PlanConfig, train_worker


def run(recipe: Recipe, console: Console | None = None, follower: Follower | None = None) -> Summary:
    """Train as the recipe says, from its newest checkpoint if there is one, and write ``summary.json``.

    ``follower`` hears how it goes, and may ask it to stop.

    Raises ValueError, with one clear sentence, for a mistake of the user, and TrainingError for anything else.
    """
    console = console or Console()
    job = prepare(recipe, console)
    with job.folder.held():
        return _run(recipe, job, console, follower or Follower())


def _run(recipe: Recipe, job: Job, console: Console, follower: Follower) -> Summary:
    step = job.resume_step()
    console.line(opening(job, step))
    started, heard = time.monotonic(), Heard(resumed_from=step)
    tracker = Tracker(recipe, job.folder, follower.mlflow_parent) if recipe.tracking.enabled else None
    status = "FAILED"
    try:
        if tracker:
            tracker.describe(recipe, job.source)
            tracker.log(job.folder.read_metrics())  # what a killed driver wrote but did not send
            tracker.log_validations(job.folder)
        if step < recipe.train.steps or steps_due(job.folder, recipe.eval.every):
            with ray_session(recipe.scaling):
                _fit(job, console, tracker, heard, follower)
        mlflow = (tracker.uri, tracker.run_id) if tracker else None
        summary = summarise(job, heard, time.monotonic() - started, mlflow)
        # A run that was finished before keeps the summary of its training.
        if heard.throughput or not job.folder.read_json(SUMMARY_FILE):
            job.folder.write_json(SUMMARY_FILE, asdict(summary))
        if tracker:
            tracker.log_text(json.dumps(job.folder.read_json(SUMMARY_FILE), indent=2), SUMMARY_FILE)
        status = "FINISHED" if summary.status == "finished" else "KILLED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        if tracker:
            tracker.finish(status)
    console.line(closing(summary))
    return summary


def _fit(job: Job, console: Console, tracker: Tracker | None, heard: Heard, follower: Follower) -> None:
    """Run the trainer in a thread, while this one prints, tracks, validates, and passes on a wish to stop."""
    check_resources(job.recipe)
    budget = cluster_budget(job.recipe, job.source, job.decoding)
    console.line(budget.as_text())
    heard.budget = budget
    events = start_event_log()
    errors: list[BaseException] = []

    def fit() -> None:
        try:
            if job.resume_step() < job.recipe.train.steps:
                _fit_again(job, events, budget, heard)
        except BaseException as error:  # carried over to the main thread
            errors.append(error)

    def stop_requested() -> bool:
        return follower.wants_stop() or ray.get(events.stop_requested.remote())

    listener = Listener(job, console, tracker, heard, follower)
    thread = threading.Thread(target=fit, daemon=True, name="fit")
    with stop_on_signal(lambda: _ask_to_stop(events, console)), watch_store() as gauge, listener:
        thread.start()
        while thread.is_alive():
            thread.join(timeout=0.2)
            heard.object_store_peak_bytes = gauge.peak_bytes
            listener.listen(ray.get(events.take.remote()))
            if follower.wants_stop():
                events.request_stop.remote()
        listener.listen(ray.get(events.take.remote()))
        if not errors and not heard.failures_that_end_it:
            listener.finish_validation(stop_requested)
    console.clear()
    for failure in heard.failures_that_end_it:
        raise ValueError(failure["failure"]) if failure["user_error"] else TrainingError(failure["failure"])
    if errors:
        raise TrainingError(heard.cause(otherwise=str(errors[0]))) from errors[0]


def _fit_again(job: Job, events: Any, budget: StreamBudget, heard: Heard) -> None:
    """Fit; where Ray Train's controller itself dies, which takes the workers with it, start a new one."""
    for left in reversed(range(job.recipe.scaling.max_failures + 1)):
        try:
            _trainer(job, events, budget).fit()
            return
        except ray.exceptions.RayActorError:
            if not left:
                raise
            if heard.placement_group is not None:  # Ray Train frees it only where Ray's dashboard runs
                ray.util.remove_placement_group(heard.placement_group)
            failure = "the controller of Ray Train died"
            ray.get(events.put.remote({"failure": failure, "user_error": False, "final": False}))


def _trainer(job: Job, events: Any, budget: StreamBudget) -> ray.train.torch.TorchTrainer:
    recipe, scaling = job.recipe, job.recipe.scaling
    storage = locate(recipe.storage.url, recipe.storage.storage_options)
    backend = "cpu:gloo,cuda:nccl" if scaling.use_gpu else "gloo"
    if scaling.min_workers < scaling.max_workers:
        # A node that has just died is still counted on: wait for it half as long as usual before counting again.
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "30")
    return ray.train.torch.TorchTrainer(
        train_worker,
        train_loop_config={"job": job, "events": events, "prefetch_blocks": budget.prefetch_blocks},
        torch_config=ray.train.torch.TorchConfig(backend=backend),
        scaling_config=ray.train.ScalingConfig(
            num_workers=scaling.num_workers,
            use_gpu=scaling.use_gpu,
            resources_per_worker=scaling.resources_per_worker,
            elastic_resize_monitor_interval_s=scaling.resize_seconds,
        ),
        run_config=ray.train.RunConfig(
            name=recipe.name,
            storage_path=storage.path,
            storage_filesystem=storage.filesystem,
            failure_config=ray.train.FailureConfig(max_failures=scaling.max_failures),
        ),
        datasets={"train": ray.data.from_items([0])},  # its place is taken by what PlanConfig makes for the workers
        dataset_config=PlanConfig(job, budget),
    )


def _ask_to_stop(events: Any, console: Console) -> None:
    console.line("stopping: saving a checkpoint after this step; once more to stop at once")
    events.request_stop.remote()


@contextmanager
def stop_on_signal(ask: Callable[[], None]) -> Iterator[None]:
    """Turn the first Ctrl-C or SIGTERM into ``ask()``, the second into KeyboardInterrupt."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's; a trial of a study is stopped by its follower
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
