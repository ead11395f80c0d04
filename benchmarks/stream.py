"""The training stream against a bare loop over the same rows: same order, same decoder, no Ray.

    python benchmarks/stream.py [--image-size 64] [--rows 4096] [--json]

The limit is ``read_unit`` and ``decode_unit`` called in one process a core, each taking every n-th unit; the stream is
what a training run reads, split over two consumers that do nothing with it. Both read the same units in the same run,
in turn, three times; the ratio is of the medians. Of the stream the second half is timed: what was decoded while the
pipeline filled would flatter it. Start-up (time to the first batch) is printed apart.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from multiprocessing import get_context
from typing import Any

ROUNDS = 3
EPOCHS = 6


def main() -> None:
    """Generate pictures, measure both, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image-size", type=int, default=64, help="pixels of the generated pictures")
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(folder, options.image_size, options.rows)
    if options.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{options.rows} pictures of {options.image_size} x {options.image_size} pixels, {os.cpu_count()} cores")
    print(f"bare loop   {result['limit']:8.0f} images/s")
    print(f"our stream  {result['ours']:8.0f} images/s   {result['ratio']:.2f} of the bare loop")
    print(f"first batch after {result['first_batch_seconds']:.1f} s")


def measure(folder: str, image_size: int, rows: int) -> dict[str, float]:
    """Images per second of the bare loop and of the stream, in turn."""
    import ray

    from clippy.tokens import build_tokenizer
    from pipelines.console import Console
    from pipelines.local_ray import ray_session
    from pipelines.prepare import find_manifest, make_job
    from pipelines.recipe import load_recipe
    from pipelines.shapes import generate

    generate(folder, rows=rows, image_size=image_size, single_rows=1, multi_rows=1, camouflage_rows=1)
    steps = EPOCHS * rows // 128
    recipe = load_recipe(
        "shapes",
        [
            f"data.url={folder}/train",
            f"model.image.image_size={image_size}",
            f"train.steps={steps}",
            "optim.warmup_steps=0",
            "model.text.tokenizer=bytes",
        ],
    )
    job = make_job(recipe, find_manifest(recipe, Console()), build_tokenizer(recipe.model.text))
    units = steps * job.units_per_batch
    limits, ours, firsts = [], [], []
    with ray_session(recipe.scaling):
        ray.data.DataContext.get_current().enable_progress_bars = False
        for _ in range(ROUNDS):
            limits.append(units * job.source.unit_rows / bare(job, units))
            seconds, first = stream(job)
            ours.append(units * job.source.unit_rows / seconds)
            firsts.append(first)
    limit, stream_speed = statistics.median(limits), statistics.median(ours)
    return {
        "limit": limit,
        "ours": stream_speed,
        "ratio": stream_speed / limit,
        "first_batch_seconds": statistics.median(firsts),
    }


def bare(job: Any, units: int) -> float:
    """Seconds to read and decode all units in one process a core."""
    cores = os.cpu_count() or 1
    context = get_context("spawn")
    ready, go = context.Barrier(cores + 1), context.Barrier(cores + 1)
    processes = [context.Process(target=_loop, args=(job, range(c, units, cores), ready, go)) for c in range(cores)]
    for process in processes:
        process.start()
    ready.wait()
    started = time.perf_counter()
    go.wait()
    for process in processes:
        process.join()
    return time.perf_counter() - started


def _loop(job: Any, units: range, ready: Any, go: Any) -> None:
    from pipelines.samples import decode_unit, read_unit

    decode_unit(read_unit(job.source, units[0]), job.decoding)  # imports and first touch are not the loop
    ready.wait()
    go.wait()
    for unit in units:
        decode_unit(read_unit(job.source, unit), job.decoding)


def stream(job: Any) -> tuple[float, float]:
    """Twice the seconds of the second half of all batches, and seconds to the first."""
    import ray

    from pipelines.stream import iterate_batches

    dataset = job.dataset()
    dataset.context.execution_options = ray.data.ExecutionOptions(preserve_order=True)
    workers = job.recipe.scaling.num_workers

    @ray.remote(num_cpus=0)
    def consume(shard: Any, rank: int) -> tuple[float, float]:
        started, times = time.perf_counter(), []
        for _ in iterate_batches(
            shard,
            rank=rank,
            world_size=workers,
            first_unit=0,
            units_per_batch=job.units_per_batch,
            prefetch_batches=job.recipe.data.prefetch_batches,
        ):
            times.append(time.perf_counter())
        half = len(times) // 2
        return times[0] - started, (times[-1] - times[half - 1]) * len(times) / (len(times) - half)

    shards = dataset.streaming_split(workers, equal=True)
    measured = ray.get([consume.remote(shard, rank) for rank, shard in enumerate(shards)])
    return max(seconds for _, seconds in measured), max(first for first, _ in measured)


if __name__ == "__main__":
    main()
