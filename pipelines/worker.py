"""What each training worker does: restore, wrap, read its share of the stream, run the loop."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import ray
import ray.data
import ray.train
import ray.train.torch
import torch
from torch.nn.parallel import DistributedDataParallel

from clippy.model import CLIPpy
from clippy.tokens import CaptionTokenizer
from pipelines.budget import decode_cores
from pipelines.columns import DataError
from pipelines.events import StopFlag
from pipelines.loop import train_loop
from pipelines.optim import build_optimizer
from pipelines.recipe import Recipe
from pipelines.run_folder import MetricsFile, RunFolder
from pipelines.samples import Decoding, Source
from pipelines.state import (
    CheckpointError,
    TrainState,
    checkpoint_name,
    committed_steps,
    load_checkpoint,
    save_checkpoint,
)
from pipelines.storage import locate
from pipelines.stream import build_dataset, iterate_batches


@dataclass(frozen=True, eq=False)
class Job:
    """All that the workers and the dataset need; travels to them as it is."""

    recipe: Recipe
    source: Source
    decoding: Decoding

    @property
    def folder(self) -> RunFolder:
        """The run's folder."""
        return RunFolder(locate(self.recipe.run_url, self.recipe.storage.storage_options))

    @property
    def units_per_batch(self) -> int:
        """Units of one global batch."""
        return self.recipe.optim.global_batch_size // self.source.unit_rows

    def resume_step(self) -> int:
        """Step of the newest whole checkpoint, 0 without one. Stream and workers both start here."""
        return (committed_steps(self.folder.checkpoints) or [0])[-1]

    def dataset(self) -> ray.data.Dataset:
        """The rest of the run's stream. Ray Train calls this at each start of the worker group."""
        ray.data.DataContext.get_current().enable_progress_bars = False
        first, stop = self.resume_step() * self.units_per_batch, self.recipe.train.steps * self.units_per_batch
        return build_dataset(self.source, self.decoding, first, stop, decode_cores(self.recipe.scaling))


def train_worker(config: dict[str, Any]) -> dict[str, Any]:
    """The function that every worker of the ``TorchTrainer`` runs; returns where the run ended."""
    job, events = config["job"], config["events"]
    try:
        return _train(job, events)
    except Exception as error:
        mistake = _user_mistake(error)
        sentence = mistake or f"{type(error).__name__}: {error}"
        ray.get(events.put.remote({"failure": sentence, "user_error": mistake is not None}))
        raise


def _train(job: Job, events: Any) -> dict[str, Any]:
    recipe, context = job.recipe, ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(max(1, int(recipe.scaling.resources_per_worker.get("CPU", 1))))
    device = ray.train.torch.get_device()
    state = _restore(job, device)
    if recipe.train.activation_checkpointing:
        state.model.checkpoint_activations()
    forward: torch.nn.Module = state.model
    if world_size > 1:
        forward = DistributedDataParallel(state.model, device_ids=[device] if device.type == "cuda" else None)
    shard = ray.train.get_dataset_shard("train")
    batches = iterate_batches(
        shard,
        rank=rank,
        world_size=world_size,
        first_unit=state.step * job.units_per_batch,
        units_per_batch=job.units_per_batch,
        prefetch_batches=recipe.data.prefetch_batches,
    )
    reporter = _RankZeroReporter(job, events, state.step) if rank == 0 else _SilentReporter(job)
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
    )
    return {"finished": finished, "step": state.step, "rows": state.rows.tolist()}


def _restore(job: Job, device: torch.device) -> TrainState:
    """The state of the newest checkpoint, or the seeded start that is the same on every worker."""
    recipe = job.recipe
    tokenizer = CaptionTokenizer.from_json(job.decoding.tokenizer_json, job.decoding.max_tokens)
    torch.manual_seed(recipe.seed)
    model = CLIPpy(recipe.model, tokenizer).to(device)
    state = TrainState(model, build_optimizer(model, recipe.optim))
    step = job.resume_step()
    if step:
        load_checkpoint(job.folder.checkpoints / checkpoint_name(step), state, job.source.digest)
    return state


class _SilentReporter:
    """Ranks above 0: part of every report, but with nothing to say."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def log(self, records: list[dict[str, Any]]) -> None: ...

    def save(self, state: TrainState) -> None:
        """Ray Train wants each worker's report."""
        ray.train.report({"step": state.step})

    def stop_requested(self) -> bool:
        return False


class _RankZeroReporter(_SilentReporter):
    """Rank 0: writes metrics and checkpoints, and tells the driver."""

    def __init__(self, job: Job, events: Any, step: int) -> None:
        super().__init__(job)
        self._events = events
        self._metrics = MetricsFile(job.folder, step)
        self._stop = StopFlag(events)
        self._last: dict[str, Any] = {}

    def log(self, records: list[dict[str, Any]]) -> None:
        self._metrics.append(records)
        self._events.put.remote({"records": records})
        self._last = records[-1]

    def save(self, state: TrainState) -> None:
        job = self._job
        saved = save_checkpoint(job.folder.checkpoints, state, job.recipe, job.source.digest)
        self._metrics.flush()
        ray.get(self._events.put.remote({"saved": saved.url}))  # waits, so that nothing said before can be lost
        # Ray Train is told of the step, not of the checkpoint: its own list of checkpoints must agree with the
        # folder to the file when a run is started again, and a kill between the two would end that. Ours needs no list.
        ray.train.report({"step": state.step, "loss": self._last.get("loss")})

    def stop_requested(self) -> bool:
        return self._stop.is_set()


def _user_mistake(error: BaseException) -> str | None:
    """The sentence of a mistake of data or checkpoint behind an error, or None."""
    if isinstance(error, DataError | CheckpointError):
        return str(error)
    # From a task of Ray Data comes the text of an exception's traceback, not the exception.
    found = re.search(rf"^{DataError.__module__}\.{DataError.__name__}: (.+)$", str(error), re.MULTILINE)
    return found[1] if found else None
