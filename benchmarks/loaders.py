"""The ways to feed images that ``input_pipeline.py`` compares. Each function is run alone, in a process of its own.

All give images/s in the steady state: the first half of the time after the first batch is not counted, and nobody
waits for an end, so neither an empty pipeline that fills nor a full one that drains flatters or hurts a figure. At
first Ray's object store also writes into memory that the system has to clear, once. What still swings is how much is
decoded and not yet handed out; the rate is the slope of a line laid through all arrivals of the rest, so that batches
that come in bunches do not decide it by where the first and the last one fall.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator
from itertools import cycle
from multiprocessing import get_context, set_start_method
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np

CORES = os.cpu_count() or 1
GLOBAL_BATCH = 512
PEER_BATCH = 256
_MOST_PER_SECOND = 4000 * CORES
"""More images than this are decoded nowhere; a run is planned for as many and stopped when its time is over."""


def make_job(url: str, storage_options: str, image_size: int, images: int, scratch: str) -> Any:
    """The job of a training on so many images (0: an epoch) of these; indexes them if nobody did."""
    from clippy.tokens import build_tokenizer
    from pipelines import prepare
    from pipelines.console import Console
    from pipelines.recipe import load_recipe

    overrides = [
        f"data.url={url}",
        f"data.storage_options={storage_options}",
        f"model.image.image_size={image_size}",
        "model.text.tokenizer=bytes",
        f"optim.global_batch_size={GLOBAL_BATCH}",
        "optim.warmup_steps=0",
        "scaling.resources_per_worker={CPU: 0}",  # they do nothing: every core decodes, as in the bare loop
        f"storage.url={scratch}",  # no run lies there, or the stream would go on from its checkpoint
    ]
    recipe = load_recipe("shapes", overrides)
    datasets = prepare.find_datasets(recipe, Console())
    images = images or sum(int(dataset.manifest.usable_rows.sum()) for dataset in datasets)
    recipe = load_recipe("shapes", [*overrides, f"train.steps={-(-images // GLOBAL_BATCH)}"])
    return prepare.make_job(recipe, prepare.make_source(recipe, datasets), build_tokenizer(recipe.model.text))


def limit(folder: Path, image_size: int, seconds: float) -> float:
    """A bare loop over ``decode_unit`` on rows that lie in memory already, in one process a core."""
    job = make_job(str(folder / "parquet"), "{}", image_size, GLOBAL_BATCH, str(folder))
    context = get_context("spawn")
    ready, rates = context.Barrier(CORES), context.Queue()
    units = max(CORES, job.source.plan.rows_per_epoch // job.source.unit_rows)
    processes = [
        context.Process(target=_decode_for, args=(job, range(core, units, CORES), seconds, ready, rates))
        for core in range(CORES)
    ]
    for process in processes:
        process.start()
    total = sum(rates.get(timeout=seconds + 120) for _ in processes)
    for process in processes:
        process.join()
    return total


def _decode_for(job: Any, units: range, seconds: float, ready: Any, rates: Any) -> None:
    import torch

    from pipelines.samples import decode_unit, read_unit

    torch.set_num_threads(1)  # there is one process for each core
    tables = [read_unit(job.source, unit) for unit in units]
    decode_unit(tables[0], job.decoding)  # imports and first touch are not the loop
    ready.wait()
    started, rows, spent = time.perf_counter(), 0, 0.0
    for table in cycle(tables):
        decode_unit(table, job.decoding)
        rows += len(table)
        spent = time.perf_counter() - started
        if spent > seconds:
            break
    rates.put(rows / spent)


def ours(url: str, storage_options: str, image_size: int, seconds: float, scratch: str) -> float:
    """The stream of a training run over two workers that do nothing with it."""
    import ray

    from pipelines.local_ray import ray_session

    job = make_job(url, storage_options, image_size, int(_MOST_PER_SECOND * (seconds + 10)), scratch)
    with ray_session(job.recipe.scaling), TemporaryDirectory(dir=scratch) as folder:
        shards, ahead = split_stream(job)
        consume = ray.remote(num_cpus=0)(_consume)
        logs = [Path(folder) / str(rank) for rank in range(len(shards))]
        running = [consume.remote(job, shard, ahead, rank, logs[rank]) for rank, shard in enumerate(shards)]
        while not is_enough(came := _read(logs), seconds):
            for failed in ray.wait(running, timeout=1)[0]:
                ray.get(failed)
                raise RuntimeError("the images ran out")
        ray.shutdown()  # they go on until they are killed, for one that stops would hold up the other
        return steady_rate(came)


def _consume(job: Any, shard: Any, ahead: int, rank: int, log: Path) -> None:
    """Take note of each batch, in a file: it costs the cores that decode less than a message."""
    with log.open("w", buffering=1) as file:
        for batch in worker_batches(job, shard, ahead, rank):
            print(time.perf_counter(), len(batch.keys), file=file)


def _read(logs: list[Path]) -> list[tuple[float, int]]:
    """All that was noted in whole lines."""
    lines = [line for log in logs if log.exists() for line in log.read_text().splitlines(True) if line.endswith("\n")]
    return [(float(when), int(images)) for when, images in map(str.split, lines)]


def split_stream(job: Any) -> tuple[list[Any], int]:
    """The job's dataset, split over its workers as Ray Train splits it, and the blocks that each fetches ahead."""
    from pipelines.budget import cluster_budget, execution_options
    from pipelines.worker import rest_of_stream

    workers = job.recipe.scaling.max_workers
    budget = cluster_budget(job.recipe, job.source, job.decoding)
    dataset = rest_of_stream(job, workers, budget.units_per_block)
    dataset.context.execution_options = execution_options(budget)
    return dataset.streaming_split(workers, equal=True), budget.prefetch_blocks


def worker_batches(job: Any, shard: Any, ahead: int, rank: int) -> Iterator[Any]:
    """The batches that this worker of a training would see."""
    from pipelines.stream import iterate_batches

    layout = job.layout(job.recipe.scaling.max_workers)
    return iterate_batches(shard, layout, rank=rank, first_batch=0, prefetch_blocks=ahead)


def open_clip(folder: Path, image_size: int, seconds: float) -> float:
    """open_clip's own loader of webdataset tars with its own training transform, one worker a core."""
    from clippy.torchvision_cpu import ensure_torchvision

    ensure_torchvision()
    from open_clip.tokenizer import SimpleTokenizer
    from open_clip.transform import image_transform
    from open_clip_train.data import get_wds_dataset

    set_start_method("fork", force=True)  # its workers cannot be pickled
    shards = sorted((folder / "tars").glob("*.tar"))
    arguments = SimpleNamespace(
        train_data=f"{folder}/tars/{{{shards[0].stem}..{shards[-1].stem}}}.tar",
        train_num_samples=int(_MOST_PER_SECOND * (seconds + 10)),
        train_data_upsampling_factors=None,
        dataset_resampled=False,
        batch_size=PEER_BATCH,
        workers=CORES,
        world_size=1,
        seed=0,
    )
    data = get_wds_dataset(
        arguments, image_transform(image_size, is_train=True), is_train=True, tokenizer=SimpleTokenizer()
    )
    return steady_rate(arrivals((len(images) for images, _ in data.dataloader), seconds))


def plain_ray_data(folder: Path, image_size: int, seconds: float) -> float:
    """What the manual of Ray Data shows: read_parquet, decode with Pillow in map_batches, iter_batches."""
    import ray

    ray.init(address="local", num_cpus=CORES, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    shards = [str(path) for path in sorted((folder / "parquet").glob("[!_]*.parquet"))]
    passes = 1 + int(_MOST_PER_SECOND * seconds) // 4 // 2304  # Pillow decodes no more than a quarter
    dataset = ray.data.read_parquet(shards * passes, columns=["image", "caption"]).map_batches(
        _decode_with_pillow, batch_size=64, fn_kwargs={"image_size": image_size}
    )
    batches = dataset.iter_batches(batch_size=PEER_BATCH)
    try:
        return steady_rate(arrivals((len(batch["pixels"]) for batch in batches), seconds))
    finally:
        ray.shutdown()


def _decode_with_pillow(batch: dict[str, np.ndarray], image_size: int) -> dict[str, np.ndarray]:
    """Short side to ``image_size``, bicubic, centre crop; uint8."""
    from PIL import Image

    pixels = []
    for content in batch["image"]:
        picture = Image.open(io.BytesIO(content)).convert("RGB")
        scale = image_size / min(picture.size)
        picture = picture.resize(
            (round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC
        )
        left, top = (picture.width - image_size) // 2, (picture.height - image_size) // 2
        pixels.append(np.asarray(picture.crop((left, top, left + image_size, top + image_size))))
    return {"pixels": np.stack(pixels), "caption": batch["caption"]}


def arrivals(batch_sizes: Iterator[int], seconds: float) -> list[tuple[float, int]]:
    """When each batch came and how many images it held, until there are enough of them."""
    came: list[tuple[float, int]] = []
    for size in batch_sizes:
        came.append((time.perf_counter(), size))
        if is_enough(came, seconds):
            return came
    raise RuntimeError(f"the images ran out after {sum(size for _, size in came)}")


def is_enough(came: list[tuple[float, int]], seconds: float) -> bool:
    """Whether batches came for so long, and 12 of them at least."""
    return len(came) >= 12 and max(came)[0] - min(came)[0] > seconds


def steady_rate(came: list[tuple[float, int]]) -> float:
    """Images/s in the second half of the time."""
    times, sizes = np.array(sorted(came)).T
    steady = times > times[0] + (times[-1] - times[0]) / 2
    slope, _ = np.polyfit(times[steady] - times[0], np.cumsum(sizes)[steady], 1)
    return float(slope)
