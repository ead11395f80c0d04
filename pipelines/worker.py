"""What each training worker of Ray Train does: restore, wrap, read its share of the stream, run the loop."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from typing import Any

import ray
import ray.data
import ray.train
import ray.train.collective
import ray.train.torch
import ray.util
import torch

from clippy.compilation import CompilationError
from pipelines.batches import Batch
from pipelines.budget import StreamBudget, decode_cores, execution_options
from pipelines.checkpoints import CheckpointError, clear_remains
from pipelines.columns import DataError
from pipelines.events import StopFlag
from pipelines.health import HealthError
from pipelines.job import Job
from pipelines.loop import train_loop
from pipelines.parallel import data_parallel
from pipelines.saving import Share
from pipelines.session import RunReporter, restore
from pipelines.state import TrainState
from pipelines.stream import build_dataset, iterate_batches
from pipelines.timing import StepTimer

_NOTICE_SECONDS = 5.0
"""How often workers ask whether a machine is to be taken; as often as Ray Train looks."""

_UNCLOSED: list[Iterator[Batch]] = []
"""Batches that a run which stops early leaves unread: to close them would have Ray Data kill decoders at work, of which
Ray then tells the terminal. Once the workers are gone, Ray Train lets decoders end what they have begun."""


class PlanConfig(ray.train.DataConfig):
    """Gives Ray Train the rest of the run's stream, laid out for the workers that there are this time."""

    def __init__(self, job: Job, budget: StreamBudget) -> None:
        super().__init__(execution_options=execution_options(budget), enable_shard_locality=False)
        self._job = job
        self._units_per_block = budget.units_per_block

    def configure(
        self, datasets: dict[str, Any], world_size: int, worker_handles: Any, worker_node_ids: Any, **more: Any
    ) -> list[dict[str, Any]]:
        """The iterators of all workers; the dataset that the trainer names only holds the place of ours."""
        stream = rest_of_stream(self._job, world_size, self._units_per_block)
        return super().configure(dict.fromkeys(datasets, stream), world_size, worker_handles, worker_node_ids, **more)


def rest_of_stream(job: Job, world_size: int, units_per_block: int) -> ray.data.Dataset:
    """What the run has still to read, from its newest checkpoint on, to be split over so many workers."""
    ray.data.DataContext.get_current().enable_progress_bars = False
    first, stop, cores = job.resume_step(), job.recipe.train.steps, decode_cores(job.recipe, world_size)
    layout = job.layout(world_size)
    return build_dataset(job.source, job.decoding, layout, first, stop, cores=cores, units_per_block=units_per_block)


def train_worker(config: dict[str, Any]) -> dict[str, Any]:
    """The function that every worker of the ``TorchTrainer`` runs; returns where the run ended."""
    job, events = config["job"], config["events"]
    if ray.get(events.is_over.remote()):  # started again after a mistake that would only come again
        return {}
    try:
        return _train(job, events, config["prefetch_blocks"])
    except Exception as error:
        mistake = _user_mistake(error)
        sentence = mistake or f"{type(error).__name__}: {error}"
        final = mistake is not None or isinstance(error, HealthError)
        failure = {"failure": sentence, "user_error": mistake is not None, "final": final}
        ray.get(events.put.remote(failure))
        raise


def _train(job: Job, events: Any, prefetch_blocks: int) -> dict[str, Any]:
    recipe, context = job.recipe, ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(max(1, int(recipe.scaling.resources_per_worker.get("CPU", 1))))
    device = ray.train.torch.get_device()
    check_run_is_here(job)
    if rank == 0:
        ray.get(events.put.remote({"starting": world_size}))
    step, attempt = _agree_on_start(job, rank)
    state = restore(job, device, step)
    timer = StepTimer(device)
    forward = data_parallel(state.model, device, world_size, timer)
    batches = iterate_batches(
        ray.train.get_dataset_shard("train"),
        job.layout(world_size),
        rank=rank,
        first_batch=state.step,
        prefetch_blocks=prefetch_blocks,
    )
    _UNCLOSED.append(batches)
    reporter = RayReporter(job, Share(rank, world_size, str(attempt)), state.step, attempt, events)
    finished = train_loop(
        state,
        forward,
        batches,
        recipe,
        reporter,
        device=device,
        rows_per_epoch=job.source.plan.rows_per_epoch,
        rank=rank,
        world_size=world_size,
        timer=timer,
    )
    return {"finished": finished, "step": state.step, "rows": state.rows.tolist()}


def check_run_is_here(job: Job) -> None:
    """Refuse a run on another machine's disk, of which Ray itself asks only where it is to copy a checkpoint there.

    This worker would start from zero whatever the run has, and write where nobody looks. Raises CheckpointError.
    """
    if not job.folder.exists():
        raise CheckpointError(
            f"storage.url: {job.recipe.run_url} is not there on {socket.gethostname()}, where a worker runs; several "
            "machines need a folder that all of them share, or object storage such as s3://bucket/runs"
        )


def _agree_on_start(job: Job, rank: int) -> tuple[int, int]:
    """The checkpoint to go on from and the number of this attempt, as the first worker finds them."""
    found = None
    if rank == 0:
        clear_remains(job.folder.checkpoints)
        found = (job.resume_step(), job.folder.next_attempt())
    return ray.train.collective.broadcast_from_rank_zero(found)


class RayReporter(RunReporter):
    """A run's reporter that speaks to the driver and to Ray Train."""

    def __init__(self, job: Job, share: Share, step: int, attempt: int, events: Any) -> None:
        super().__init__(job, share, step, attempt, tell=lambda event: events.put.remote(event))
        self._events = events
        self._stop = StopFlag(events) if share.rank == 0 else None
        self._last: dict[str, Any] = {}
        self._asked, self._noticed = time.monotonic(), frozenset[str]()
        group = ray.util.get_current_placement_group()
        self._tell({"started": share.world_size, "step": step, "placement_group": group})

    def log(self, records: list[dict[str, Any]]) -> None:
        """Records also stay for Ray Train's report."""
        super().log(records)
        self._last = records[-1]

    def save(self, state: TrainState, *, wait: bool, last: bool) -> None:
        """Ray Train is told of the step, not of the checkpoint: its own list of checkpoints must agree with the folder
        to the file when a run is started again, and a kill between the two would end that. Ours needs no list."""
        super().save(state, wait=wait, last=last)
        if self._first:
            ray.get(self._events.ping.remote())  # so that nothing said before can be lost
        ray.train.report({"step": state.step, "loss": self._last.get("loss")})

    def stop_requested(self) -> bool:
        """Whether the driver passed on a wish to stop."""
        return self._stop is not None and self._stop.is_set()

    def notice_is_due(self) -> bool:
        """Every few seconds on the first worker."""
        if not self._first or time.monotonic() - self._asked < _NOTICE_SECONDS:
            return False
        self._asked = time.monotonic()
        return True

    def preemption_noticed(self) -> bool:
        """Whether Ray says of a node that it was not known of that it will be taken."""
        info = ray.train.get_preemption_info()
        nodes = frozenset(info.preempted_node_to_ranks) if info else frozenset()
        news = nodes - self._noticed
        self._noticed |= nodes
        if news and info:
            self._tell({"preemption": sorted(news), "ranks": info.preempted_ranks, "deadline_ms": info.deadline_ms})
        return bool(news)


def _user_mistake(error: BaseException) -> str | None:
    """The sentence of a mistake of data, checkpoint or machine behind an error, or None."""
    if isinstance(error, DataError | CheckpointError | CompilationError):
        return str(error)
    # From a task of Ray Data comes the text of an exception's traceback, not the exception.
    found = re.search(rf"^{DataError.__module__}\.{DataError.__name__}: (.+)$", str(error), re.MULTILINE)
    return found[1] if found else None
