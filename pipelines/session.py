"""A training's state and its reporter, for whoever runs the loop: Ray Train's workers or a plain process group."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from clippy.compilation import compile_towers
from clippy.gather import sum_over_workers
from clippy.model import CONFIG_FILE, CLIPpy, read_config
from clippy.tokens import CaptionTokenizer
from pipelines.checkpoints import checkpoint_name, last_good_step, local_folder
from pipelines.job import Job
from pipelines.ledger import LedgerFile
from pipelines.optim import build_optimizer
from pipelines.profiling import StepProfiler
from pipelines.run_folder import INITIAL, MetricsFile
from pipelines.saving import CheckpointWriter, Share
from pipelines.state import Snapshot, TrainState, load_checkpoint, load_weights, take_snapshot
from pipelines.validation import steps_to_keep


def restore(job: Job, device: torch.device, step: int) -> TrainState:
    """The state of the checkpoint after ``step`` steps, or for step 0 the start that is the same on every worker.

    Its towers run as the recipe says: activations checkpointed, compiled. Raises ValueError where they cannot.
    """
    if step:
        checkpoint = job.folder.checkpoints / checkpoint_name(step)
        config = read_config((checkpoint / CONFIG_FILE).read_text(), checkpoint.url)  # asks for no weights of others
        model = CLIPpy(config, _tokenizer(job)).to(device)
    else:
        model = initial_model(job).to(device)
    state = TrainState(model, build_optimizer(model, job.recipe.optim))
    if step:
        load_checkpoint(checkpoint, state, job.source.digest)
    if job.recipe.train.activation_checkpointing:
        model.checkpoint_activations()
    if job.recipe.train.compile:
        compile_towers(model)
    return state


def initial_model(job: Job) -> CLIPpy:
    """The model before the first step: what ``prepare`` made of published weights, or random from the recipe's seed."""
    initial = job.folder.location / INITIAL
    if (initial / CONFIG_FILE).exists():
        with local_folder(initial) as folder:
            return CLIPpy.from_pretrained(folder)
    torch.manual_seed(job.recipe.seed)
    return CLIPpy(job.recipe.model, _tokenizer(job))


def _tokenizer(job: Job) -> CaptionTokenizer:
    return CaptionTokenizer.from_json(job.decoding.tokenizer_json, job.decoding.max_tokens)


class RunReporter:
    """Metrics, ledger and checkpoints of a run in its folder; ``tell`` hears events of rank 0, and failures of all."""

    def __init__(
        self,
        job: Job,
        share: Share,
        step: int,
        attempt: int,
        tell: Callable[[dict[str, Any]], None] = lambda event: None,
    ) -> None:
        """Go on after ``step``."""
        self._job = job
        self._share = share = replace(share, parts=job.recipe.checkpoint.sharded or job.recipe.train.ledger)
        self._first = share.rank == 0
        whose = "" if self._first else f"worker {share.rank}: "
        self._tell = tell if self._first else lambda event: None
        self._metrics = MetricsFile(job.folder, step) if self._first else None
        traced = job.recipe.train.profile_steps if self._first else None
        self._profiler = StepProfiler(job.folder, traced) if traced else None
        self._ledger = LedgerFile(job.folder, attempt, step, share.rank) if job.recipe.train.ledger else None
        self._writer = CheckpointWriter(
            job.folder.checkpoints,
            job.recipe.checkpoint,
            share,
            before_commit=self._flush,
            on_saved=lambda url: self._tell({"saved": url}),
            on_failed=lambda step, reason: tell({"checkpoint_failed": step, "reason": whose + reason}),
            on_unpruned=lambda reason: self._tell({"unpruned": reason}),
            keep=lambda: steps_to_keep(job.folder, job.recipe.eval.every),
        )

    def took(self, step: int, keys: list[str]) -> None:
        """Enter this worker's pairs into the ledger; start or end a trace."""
        if self._ledger:
            self._ledger.add(step, keys)
        if self._profiler and (trace := self._profiler.begin(step)):
            self._tell({"profile": trace})

    def log(self, records: list[dict[str, Any]]) -> None:
        """Write records, and tell them."""
        if self._metrics:
            self._metrics.append(records)
            self._tell({"records": records})

    def save(self, state: TrainState, *, wait: bool, last: bool) -> None:
        """Have a checkpoint written beside the next steps, or wait for it; skipped while others are still written.

        Raises CheckpointError when the ``last`` one, or too many in a row before, could not be.
        """
        if self._profiler and wait and (trace := self._profiler.end()):
            self._tell({"profile": trace})
        if sum_over_workers(torch.tensor(int(self._writer.is_full()))) and not wait:
            self._tell({"checkpoint_skipped": state.step})
            return
        if self._first or self._share.parts:
            self._writer.submit(self._snapshot(state))
        if wait:
            self._writer.wait(must_be_written=last)
            sum_over_workers(torch.tensor(0))  # nobody goes on before the others' parts are written

    def _snapshot(self, state: TrainState) -> Snapshot:
        """What this worker writes of a checkpoint."""
        recipe, digest, rank = self._job.recipe, self._job.source.digest, self._share.rank
        if recipe.checkpoint.sharded:
            return take_snapshot(state, recipe, digest, shard=rank, shards=self._share.world_size)
        return take_snapshot(state, recipe, digest) if self._first else Snapshot(state.step, {}, {}, {})

    def go_back(self, state: TrainState) -> int:
        """Weights and optimizer of the last good checkpoint, or the start; returns its step."""
        self._writer.settle()
        step = last_good_step(self._job.folder.checkpoints) if self._first else 0
        step = int(sum_over_workers(torch.tensor(step)))
        if step:
            load_weights(self._job.folder.checkpoints / checkpoint_name(step), state)
        else:
            state.model.load_state_dict(initial_model(self._job).state_dict())
            state.optimizer.state.clear()
        self._tell({"went_back": step, "at": state.step})
        return step

    def stop_requested(self) -> bool:
        """Nobody asks."""
        return False

    def notice_is_due(self) -> bool:
        """Nobody gives notice."""
        return False

    def preemption_noticed(self) -> bool:
        """None comes."""
        return False

    def _flush(self) -> None:
        """A checkpoint counts only with the metrics and the keys that led to it."""
        if self._metrics:
            self._metrics.flush()
        if self._ledger:
            self._ledger.flush()
