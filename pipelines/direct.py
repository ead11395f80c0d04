"""The same training without Ray, on one machine: one process, or one a GPU under torchrun.

    python -m pipelines.direct RECIPE [a.b=c ...]
    torchrun --standalone --nproc-per-node 8 -m pipelines.direct RECIPE [a.b=c ...]

Reads and decodes in threads of each process. Run folder, checkpoints, order and numbers are those of ``clippy train``,
which can go on with what this began, and the other way round. Nothing goes to MLflow, and nothing starts again by
itself; ``clippy train`` sends the metrics when it next opens the run.
"""

from __future__ import annotations

import os
import signal
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from itertools import islice
from typing import Any

import torch
import torch.distributed as dist

from pipelines.batches import Batch, Unit, to_batch, to_unit
from pipelines.checkpoints import clear_remains
from pipelines.console import Console
from pipelines.job import Job
from pipelines.layout import FILLER, Layout
from pipelines.loop import train_loop
from pipelines.parallel import data_parallel
from pipelines.prepare import prepare
from pipelines.progress import progress_line
from pipelines.recipe import Recipe, load_recipe
from pipelines.samples import decode_unit, filler_unit, read_unit
from pipelines.saving import Share
from pipelines.session import RunReporter, restore
from pipelines.timing import StepTimer


def run_direct(recipe: Recipe, console: Console) -> bool:
    """Train as the recipe says, in this process and those beside it; True when finished, False when stopped.

    Raises ValueError, with one clear sentence, for a mistake of the user.
    """
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if recipe.scaling.max_workers != world_size:
        recipe = recipe.model_copy(update={"scaling": recipe.scaling.model_copy(update={"num_workers": world_size})})
        recipe = Recipe.build(f"{world_size} processes of torchrun", recipe.model_dump(mode="json"))
    device = _device(recipe)
    if world_size > 1:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        return _train(recipe, console, device, rank, world_size)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _train(recipe: Recipe, console: Console, device: torch.device, rank: int, world_size: int) -> bool:
    if rank == 0:  # makes the run folder, which the others then find
        prepare(recipe, console)
    _together()
    job = prepare(recipe, console)
    with job.folder.held() if rank == 0 else nullcontext():
        return _train_alone(job, console, device, rank, world_size)


def _train_alone(job: Job, console: Console, device: torch.device, rank: int, world_size: int) -> bool:
    recipe = job.recipe
    step, attempt = _agree_on_start(job, rank, world_size)
    state = restore(job, device, step)
    timer = StepTimer(device)
    reporter = _ConsoleReporter(job, Share(rank, world_size, str(attempt)), step, attempt, console)
    finished = train_loop(
        state,
        data_parallel(state.model, device, world_size, timer),
        direct_batches(job, job.layout(world_size), rank, step),
        recipe,
        reporter,
        device=device,
        rows_per_epoch=job.source.plan.rows_per_epoch,
        rank=rank,
        world_size=world_size,
        timer=timer,
    )
    if rank == 0:
        console.clear()
        what = "finished" if finished else "stopped; the same command goes on"
        console.line(f"{recipe.run_url}: step {state.step} of {recipe.train.steps}, {what}")
    return finished


def direct_batches(job: Job, layout: Layout, rank: int, first_batch: int) -> Iterator[Batch]:
    """A worker's batches from ``first_batch`` on, decoded in threads of this process, a batch and some units ahead."""
    threads = max(1, (os.cpu_count() or 1) // layout.world_size)
    ahead = layout.units_per_worker + max(2 * threads, job.recipe.data.prefetch_batches)
    wanted = (unit for batch in range(first_batch, job.recipe.train.steps) for unit in layout.units(batch, rank))
    units: list[Unit] = []
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        coming: deque[Future[Unit]] = deque()
        while True:
            for unit in islice(wanted, ahead - len(coming)):
                coming.append(pool.submit(_unit, job, unit))
            if not coming:
                return
            units.append(coming.popleft().result())
            if len(units) == layout.units_per_worker:
                yield to_batch(units, layout)
                units = []


def _unit(job: Job, number: int) -> Unit:
    if number == FILLER:
        return to_unit(number, filler_unit(job.source.unit_rows, job.decoding))
    return to_unit(number, decode_unit(read_unit(job.source, number), job.decoding))


def _agree_on_start(job: Job, rank: int, world_size: int) -> tuple[int, int]:
    """The checkpoint to go on from and the number of this attempt, as the first process finds them."""
    found: list[Any] = [None]
    if rank == 0:
        clear_remains(job.folder.checkpoints)
        found = [(job.resume_step(), job.folder.next_attempt())]
    if world_size > 1:
        dist.broadcast_object_list(found)
    return found[0]


def _together() -> None:
    if dist.is_initialized():
        dist.barrier()


def _device(recipe: Recipe) -> torch.device:
    if not recipe.scaling.use_gpu:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError("scaling.use_gpu: torch sees no GPU here; set scaling.use_gpu=false")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    torch.cuda.set_device(device)
    return device


class _ConsoleReporter(RunReporter):
    """Prints progress on the first process; Ctrl-C and SIGTERM save and stop."""

    def __init__(self, job: Job, share: Share, step: int, attempt: int, console: Console) -> None:
        super().__init__(job, share, step, attempt, tell=self._hear)
        self._console, self._recipe, self._stop = console, job.recipe, False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask_to_stop)

    def stop_requested(self) -> bool:
        """Whether this process was asked to."""
        return self._stop

    def _ask_to_stop(self, number: int, frame: Any) -> None:
        if self._stop:
            raise KeyboardInterrupt
        self._stop = True

    def _hear(self, event: dict[str, Any]) -> None:
        if "records" in event:
            self._console.progress(progress_line(self._recipe, event["records"][-1]))
        elif "saved" not in event:
            self._console.line(" ".join(f"{name}: {value}" for name, value in event.items()))


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m pipelines.direct RECIPE [a.b=c ...]``."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0].startswith("-"):
        print(__doc__, file=sys.stderr)
        return 0 if words else 2
    try:
        return 0 if run_direct(load_recipe(words[0], words[1:]), Console()) else 130
    except (ValueError, OSError) as error:
        print(f"pipelines.direct: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
