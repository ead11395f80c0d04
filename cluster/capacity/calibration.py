"""Rates measured on this machine, in place of assumed ones: steps of small models, decoding, the stream, a training.

What is measured is not what will be planned: rates are fitted to models and pictures of several sizes, and a plan of
any other recipe follows from them.
"""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import combinations
from multiprocessing import get_context

import numpy as np

from cluster.capacity.hardware import Calibration, Figure, Hardware, this_machine
from cluster.capacity.measure import decode_costs, step_costs
from cluster.capacity.pairs import Pairs, find_pairs
from cluster.capacity.plan import Setting, make_plan
from cluster.capacity.stream_need import decode_seconds
from cluster.capacity.watch import count_lines, watch
from pipelines.bench import bench
from pipelines.console import Console
from pipelines.local_ray import ray_session
from pipelines.recipe import Recipe, load_recipe
from pipelines.run_folder import METRICS_FILE
from pipelines.shapes import generate
from pipelines.train import run

_ROWS = 2048
"""Scenes that the stream and the training read, again and again."""
_SMALL = (
    "model.image.arguments={patch_size: 16, embed_dim: 48, depth: 2, num_heads: 3}",
    "model.text.arguments={d_model: 48, d_kv: 16, num_heads: 3, d_ff: 96, num_layers: 1, dropout_rate: 0.0}",
    "optim.warmup_steps=2",
    "train.steps=100",
    "checkpoint.every=1000",
)
"""A training in which Ray and the loop take much of the time."""


def calibrate(recipe: Recipe, hardware: Hardware, console: Console) -> Calibration:
    """Rates of the CPU of this machine for workers as the recipe has them. Takes some minutes."""
    if (load := os.getloadavg()[0]) > 0.5 * (os.cpu_count() or 1):
        console.line(f"this machine is busy (load {load:.1f}): what is measured now will look slower than it is")
    workers, threads = recipe.scaling.max_workers, int(max(1, recipe.scaling.resources_per_worker.get("CPU", 1)))
    found: dict[str, float] = {}
    console.line("1/4 steps of five small models")
    found |= _step_rates(min(workers, os.cpu_count() or 1), threads, recipe.train.precision)
    console.line("2/4 decoding")
    found |= _decode_rates()
    with tempfile.TemporaryDirectory(prefix="calibration") as folder:
        data = f"{folder}/shapes"
        generate(data, rows=_ROWS, workers=1, single_rows=24, multi_rows=24, camouflage_rows=24)
        places = [f"data.url={data}/train", f"eval.url={data}", f"storage.url={folder}/runs"]
        small = load_recipe("shapes", [*_SMALL, *places, f"scaling.num_workers={workers}"])
        with ray_session(small.scaling):
            console.line("3/4 the stream: clippy data bench at two sizes")
            found |= _stream_rates(places, workers, _with(hardware, found), console)
            console.line("4/4 a training of a small model")
            found |= _training_rates(small, _with(hardware, found), console)
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    source = f"measured by --calibrate on {machine}"
    return Calibration(machine=machine, rates={k: Figure(value=v, source=source) for k, v in found.items()})


def _with(hardware: Hardware, found: dict[str, float]) -> Hardware:
    """The hardware with rates as far as they are measured."""
    figures = {name: Figure(value=value, source="measured") for name, value in found.items()}
    return hardware.model_copy(update={"rates": hardware.rates.model_copy(update=figures)})


def _step_rates(processes: int, threads: int, precision: str) -> dict[str, float]:
    """Matrix rate, memory bandwidth and time of an operation, for a thread, all workers computing at once."""
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        measured = list(pool.map(partial(step_costs, threads=threads), [precision] * processes))
    costs = [costs for each in measured for costs in each]
    flops, moved, kernels = fit([features for features, _ in costs], [seconds for _, seconds in costs])
    return {
        "cpu_matrix_gflops": 1 / max(flops, 1e-15) / 1e9 / threads,
        "cpu_memory_gb_per_s": 1 / max(moved, 1e-15) / 1e9 / threads,
        "cpu_operation_seconds": kernels,
    }


def _decode_rates() -> dict[str, float]:
    costs = decode_costs()
    per_byte, per_pixel, per_output, per_row, per_resize = fit([c for c, _ in costs], [s for _, s in costs])
    return {
        "decode_ns_per_byte": 1e9 * per_byte,
        "decode_ns_per_pixel": 1e9 * per_pixel,
        "decode_ns_per_output_pixel": 1e9 * per_output,
        "decode_seconds_per_row": per_row,
        "decode_seconds_per_resize": per_resize,
    }


def _stream_rates(places: list[str], workers: int, hardware: Hardware, console: Console) -> dict[str, float]:
    """Core seconds of Ray Data for a block and for its bytes: what images/s leave beside decoding."""
    features, seconds = [], []
    for size, batch, batches in ((64, 64 * workers, 600), (224, 128 * workers, 80)):
        options = [f"model.image.image_size={size}", f"optim.global_batch_size={batch}", "model.text.tokenizer=bytes"]
        free = "scaling.resources_per_worker={CPU: 0}"  # the workers do nothing with what they get
        recipe = load_recipe("shapes", [*places, *options, free, f"scaling.num_workers={workers}"])
        with watch(os.getpid()) as watched:
            result = bench(recipe, batches, console)
        pairs, images = find_pairs(recipe.data.url, recipe), batches / 2 * batch
        timed = watched.during(*result.timed)
        block = result.block_rows * timed.owned_seconds / images
        seconds.append(max(1e-4, block - result.block_rows * decode_seconds(recipe, pairs, hardware.rates)))
        features.append((1.0, 3.0 * size**2 * result.block_rows))
    fixed, per_byte = fit(features, seconds)
    return {"block_seconds": fixed, "block_ns_per_byte": 1e9 * per_byte}


def _training_rates(recipe: Recipe, hardware: Hardware, console: Console) -> dict[str, float]:
    """What of a training's core seconds a step, and of a worker's memory, is left to Ray and the loop."""
    pairs = find_pairs(recipe.data.url, recipe)
    with watch(os.getpid(), count_lines(f"{recipe.run_url}/{METRICS_FILE}")) as watched:
        run(recipe, console)
    steps, usage = watched.counted()
    known = _with(hardware, {"cpu_step_seconds": 0.0, "cpu_framework_mib": 0.0})
    plan = make_plan(_setting(recipe, pairs, known))
    cores, batch = plan.setting.cluster.node.cores, recipe.optim.global_batch_size
    explained = batch * cores / next(s.images_per_second for s in plan.stages if s.name.startswith("cores"))
    return {
        "cpu_step_seconds": max(0.0, usage.owned_seconds / steps - explained),
        "cpu_framework_mib": (max(watched.worker_peaks.values()) - plan.memory.total) / 2**20,
    }


def _setting(recipe: Recipe, pairs: Pairs, hardware: Hardware) -> Setting:
    scaling = recipe.scaling
    cluster = this_machine(scaling.max_workers, hardware, worker_cores=scaling.resources_per_worker.get("CPU", 1.0))
    return Setting(recipe, pairs, replace(cluster, told_decode_cores=scaling.decode_cores), hardware)


def fit(features: Sequence[Sequence[float]], seconds: Sequence[float]) -> list[float]:
    """Rates, none below zero, whose products with the features come nearest to ``seconds``, relative to these."""
    a = np.array(features, dtype=float) / np.array(seconds)[:, None]
    scale = np.where(a.max(axis=0) > 0, a.max(axis=0), 1.0)
    a /= scale
    best, least = np.zeros(a.shape[1]), np.inf
    for count in range(1, a.shape[1] + 1):
        for columns in combinations(range(a.shape[1]), count):
            rates, *_ = np.linalg.lstsq(a[:, columns], np.ones(len(a)), rcond=None)
            error = float(((a[:, columns] @ rates - 1) ** 2).sum())
            if (rates >= 0).all() and error < least:
                best, least = np.zeros(a.shape[1]), error
                best[list(columns)] = rates
    return (best / scale).tolist()
