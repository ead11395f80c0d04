"""``clippy data bench``: a recipe's input pipeline without its model, and what bounds it."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import ray
import ray.data

from clippy.tokens import build_tokenizer
from pipelines.budget import StreamBudget, cluster_budget, execution_options, watch_store
from pipelines.console import Console
from pipelines.deal import AHEAD_PER_CORE
from pipelines.events import start_event_log
from pipelines.job import Job
from pipelines.layout import Layout
from pipelines.local_ray import ray_session
from pipelines.prepare import VOCABULARY_CAPTIONS, captions, find_datasets, make_job, make_source
from pipelines.recipe import Recipe
from pipelines.samples import CAUSES, invalid_rows
from pipelines.stream import build_dataset, iterate_batches
from pipelines.throughput import Throughput, verdict


@dataclass(frozen=True)
class BenchResult:
    """What the pipeline delivered to workers that do nothing with it."""

    images_per_second: float
    """Of the second half of the batches: what is decoded while the stream fills would flatter the first."""
    timed: tuple[float, float]
    """When that began and ended, in seconds since the epoch."""
    bytes_per_second: float
    """Encoded bytes of these images."""
    first_batch_seconds: float
    decode_images_per_core: float
    """Images that one core decodes in a second of its time."""
    decode_limit: float
    """Of all cores, if they did nothing else."""
    decode_share: float
    """Images delivered as a share of that limit."""
    cores: int
    batches: int
    global_batch_size: int
    block_rows: int
    object_store_peak_bytes: int
    object_store_limit_bytes: int
    invalid_rows: dict[str, int]
    verdict: str

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self)

    def as_text(self) -> str:
        """For people."""
        store = f"{self.object_store_peak_bytes / 2**20:.0f} MiB of at most {self.object_store_limit_bytes / 2**20:.0f}"
        rows = {
            "delivered": f"{self.images_per_second:.0f} images/s, {self.bytes_per_second / 1e6:.1f} MB/s encoded",
            "decode limit": f"{self.decode_limit:.0f} images/s, {self.decode_images_per_core:.0f} a core",
            "share of the limit": f"{self.decode_share:.0%}",
            "first batch": f"{self.first_batch_seconds:.1f} s",
            "object store peak": f"{store}, in blocks of {self.block_rows} rows",
            "invalid rows": ", ".join(f"{cause} {n}" for cause, n in self.invalid_rows.items()) or "none",
        }
        return "\n".join([*(f"{name:<20}{value}" for name, value in rows.items()), self.verdict])


def bench(recipe: Recipe, batches: int, console: Console) -> BenchResult:
    """Read ``batches`` global batches as the recipe's training would. Raises ValueError for a user's mistake."""
    if batches < 2:
        raise ValueError(f"--batches: at least 2 are needed, the second half is timed (got {batches})")
    datasets = find_datasets(recipe, console)
    tokenizer = build_tokenizer(recipe.model.text, islice(captions(datasets), VOCABULARY_CAPTIONS))
    anchored = recipe.absolute()
    job = make_job(anchored, make_source(anchored, datasets), tokenizer)
    with ray_session(recipe.scaling):
        return _measure(job, batches, console)


_BLOCKS_PER_CORE = 16
"""That are read at least, where there are so many units."""


def _in_small_blocks(budget: StreamBudget, units: int, prefetch_units: int) -> StreamBudget:
    """The budget for reading so few units: in a few large blocks they would come at once, with nothing to time."""
    fitting = max(1, units // (_BLOCKS_PER_CORE * budget.decode_cores))
    if fitting >= budget.units_per_block:
        return budget
    return replace(budget, units_per_block=fitting, prefetch_blocks=-(-prefetch_units // fitting))


@dataclass(frozen=True)
class _Consumed:
    """What one worker got: seconds from the start to each batch, and the work in the batches that are timed."""

    times: list[float]
    image_bytes: int
    read_seconds: float
    decode_seconds: float
    causes: list[int]


def _measure(job: Job, batches: int, console: Console) -> BenchResult:
    recipe, workers = job.recipe, job.recipe.scaling.max_workers
    budget, events = cluster_budget(recipe, job.source, job.decoding), start_event_log()
    layout = job.layout(workers)
    units = batches * recipe.optim.global_batch_size // job.source.unit_rows
    budget = _in_small_blocks(budget, units, recipe.data.prefetch_batches)
    # More is read than is timed: at the end, what lies decoded is handed out with nothing decoded behind it.
    block_rows = budget.units_per_block * job.source.unit_rows
    ahead = block_rows * (AHEAD_PER_CORE * budget.decode_cores + budget.prefetch_blocks * workers)
    stop = batches + -(-ahead // recipe.optim.global_batch_size)
    console.line(budget.as_text())
    ray.data.DataContext.get_current().enable_progress_bars = False
    dataset = build_dataset(
        job.source,
        job.decoding,
        layout,
        0,
        stop,
        cores=budget.decode_cores,
        units_per_block=budget.units_per_block,
    )
    dataset.context.execution_options = execution_options(budget)
    timed = range(batches // 2, batches)
    with watch_store() as gauge:
        started = time.time()
        shards = dataset.streaming_split(workers, equal=True)
        pending = [
            _consume.remote(shard, rank, layout, budget.prefetch_blocks, started, events, timed)
            for rank, shard in enumerate(shards)
        ]
        while len(ray.wait(pending, num_returns=workers, timeout=0.5)[0]) < workers:
            for event in ray.get(events.take.remote()):
                console.count("batches", min(event["batch"], batches), batches)
    console.clear()
    consumed: list[_Consumed] = ray.get(pending)
    images = len(timed) * recipe.optim.global_batch_size
    begun, ended = (max(c.times[batch] for c in consumed) for batch in (timed.start - 1, timed.stop - 1))
    totals = [sum(getattr(c, name) for c in consumed) for name in ("image_bytes", "read_seconds", "decode_seconds")]
    throughput = Throughput(images, max(ended - begun, 1e-9), *totals)
    cores = int(ray.cluster_resources()["CPU"]) if recipe.scaling.ray_address else os.cpu_count() or 1
    return BenchResult(
        throughput.images_per_second,
        (started + begun, started + ended),
        throughput.bytes_per_second,
        max(c.times[0] for c in consumed),
        throughput.decode_images_per_core,
        throughput.decode_images_per_core * cores,
        throughput.decode_share(cores),
        cores,
        batches,
        recipe.optim.global_batch_size,
        block_rows,
        gauge.peak_bytes,
        budget.limit_bytes,
        invalid_rows([sum(counts) for counts in zip(*(c.causes for c in consumed), strict=True)]),
        verdict(throughput, cores, block_rows),
    )


@ray.remote(num_cpus=0)
def _consume(
    shard: Any, rank: int, layout: Layout, prefetch: int, started: float, events: Any, timed: range
) -> _Consumed:
    """Read this worker's batches and let them go."""
    times, works, causes = [], [], np.zeros(len(CAUSES), np.int64)
    for batch in iterate_batches(shard, layout, rank=rank, first_batch=0, prefetch_blocks=prefetch):
        times.append(time.time() - started)  # the one clock that processes share
        works.append(batch.work)
        if len(works) <= timed.stop:
            causes += batch.count_causes()
        if rank == 0:
            events.put.remote({"batch": len(times)})
    late = works[timed.start : timed.stop]
    return _Consumed(
        times,
        sum(work.image_bytes for work in late),
        sum(work.read_seconds for work in late),
        sum(work.decode_seconds for work in late),
        causes.tolist(),
    )
