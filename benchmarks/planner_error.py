"""What ``clippy cluster plan`` predicts for this machine against what is then measured, and against published speeds.

    python benchmarks/planner_error.py [--rounds N] [--calibration FILE] [--only training,step,loss,stream,published]

training    `clippy train shapes`: images/s, and the most memory of a worker
step        ``train_step.py``'s step of ViT-B/16 and T5-base, 16 pairs: images/s, memory, FLOPs (which must be equal)
loss        ``loss_memory.py``'s loss of one of 32 ranks: memory and seconds
stream      `clippy data bench shapes` at 64 and at 128 pixels: images/s
published   timm's own figures of 2022 for training ViTs on an RTX 3090, without fused attention; measured by others

Each round measures the rates first, as `clippy cluster plan --calibrate` does, or reads them from a file that it wrote;
what is printed are medians of the rounds. None of what is predicted here is among what the rates are fitted to. Speeds
are those of a machine without others: see cluster/capacity/watch.py. The error is predicted / measured - 1.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import loss_memory
import torch
import train_step

from cluster.capacity.calibration import calibrate
from cluster.capacity.dry_run import Watch, dry_run, fake_parameters
from cluster.capacity.hardware import Hardware, cpu_device, gpu_device, load_hardware, save_calibration, this_machine
from cluster.capacity.pairs import find_pairs
from cluster.capacity.plan import Plan, Setting, make_plan
from cluster.capacity.step import ADAM_PASSES, loss_run
from cluster.capacity.watch import count_lines, watch
from pipelines.bench import bench
from pipelines.console import Console
from pipelines.local_ray import ray_session
from pipelines.prepare import find_datasets
from pipelines.recipe import load_recipe
from pipelines.run_folder import METRICS_FILE
from pipelines.shapes import generate

NAMES = ("training", "step", "loss", "stream", "published")
TARGET = 0.2
STEPS = 150
# github.com/huggingface/pytorch-image-models, results/benchmark-train-amp-nchw-pt112-cu113-rtx3090.csv
TIMM = {
    "vit_tiny_patch16_224": (2293.54, 512),
    "vit_small_patch16_224": (1052.92, 384),
    "vit_base_patch16_224": (390.86, 192),
    "vit_base_patch32_224": (1703.57, 512),
    "vit_large_patch32_224": (521.73, 192),
}
"""Model -> images/s and batch."""
Row = dict[str, Any]


def main() -> None:
    """Calibrate, predict and measure in turn; print medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calibration", metavar="FILE", help="measured rates, in place of measuring them each round")
    parser.add_argument("--only", default=",".join(NAMES), help=f"some of {','.join(NAMES)}")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    names = options.only.split(",")
    if unknown := set(names) - set(NAMES):
        parser.error(f"--only: {', '.join(sorted(unknown))} is none of {', '.join(NAMES)}")
    load = os.getloadavg()[0]
    rounds = [one_round(names, options.calibration) for _ in range(options.rounds)]
    rows = [median_of(found) for found in zip(*rounds, strict=True)]
    worst = max((abs(row["error"]) for row in rows if row["measured_here"]), default=None)
    result = {"load_at_start": load, "rounds": rounds, "rows": rows, "worst_error_here": worst, "target": TARGET}
    print(json.dumps(result, indent=2) if options.json else table(result))


def one_round(names: list[str], calibration: str | None) -> list[Row]:
    """Rates, and each comparison once."""
    hardware = calibrated(calibration) if set(names) - {"published"} else load_hardware()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="planner") as folder:
        data = f"{folder}/shapes"
        if {"training", "stream"} & set(names):
            generate(data, rows=4096, workers=1)
            find_datasets(load_recipe("shapes", [f"data.url={data}/train"]), Console())  # a plan asks for the index
        measured: dict[str, Callable[[], list[Row]]] = {
            "training": partial(training, hardware, data, folder),
            "step": partial(step, hardware),
            "loss": partial(loss, hardware),
            "stream": partial(stream, hardware, data, folder),
            "published": partial(published, hardware),
        }
        for name in names:
            found = measured[name]()
            print(*(line(row) for row in found), sep="\n", file=sys.stderr, flush=True)
            rows += found
    return rows


def calibrated(file: str | None) -> Hardware:
    """Rates of this machine."""
    if file is not None:
        return load_hardware(file)
    found = calibrate(load_recipe("shapes"), load_hardware(), Console())
    with tempfile.TemporaryDirectory(prefix="planner") as folder:
        file = f"{folder}/calibration.json"
        save_calibration(file, found)
        for name, figure in found.rates.items():
            print(f"{name:<30}{figure.value:.4g}", file=sys.stderr, flush=True)
        return load_hardware(file)


def median_of(found: Sequence[Row]) -> Row:
    """The rounds' rows of one comparison as one: medians of what was predicted and measured."""
    predicted, measured = (statistics.median(row[name] for row in found) for name in ("predicted", "measured"))
    return row(found[0]["what"], predicted, measured, found[0]["unit"], found[0]["measured_here"])


def row(what: str, predicted: float, measured: float, unit: str, here: bool = True) -> Row:
    """One comparison."""
    found = {"what": what, "predicted": predicted, "measured": measured, "unit": unit}
    return {**found, "error": predicted / measured - 1, "measured_here": here}


def training(hardware: Hardware, data: str, folder: str) -> list[Row]:
    """The shapes recipe as it ships, for fewer steps."""
    options = [f"data.url={data}/train", f"eval.url={data}", f"storage.url={folder}/runs", f"train.steps={STEPS}"]
    plan = plan_of(hardware, options)
    command = [sys.executable, "-m", "cluster.cli", "train", "shapes", *options, "checkpoint.every=1000", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    with watch(process.pid, count_lines(f"{folder}/runs/shapes/{METRICS_FILE}")) as watched:
        process.wait()
    if process.returncode:
        raise RuntimeError(f"clippy train ended with {process.returncode}")
    steps, usage = watched.counted()
    speed, most = usage.alone(steps * plan.setting.recipe.optim.global_batch_size), max(watched.worker_peaks.values())
    return [
        row("clippy train shapes", plan.images_per_second, speed, "images/s"),
        row("the same, memory of a worker", plan.memory.total / 2**20, most / 2**20, "MiB"),
    ]


def plan_of(hardware: Hardware, options: list[str]) -> Plan:
    """The shapes recipe on this machine."""
    recipe = load_recipe("shapes", options)
    scaling = recipe.scaling
    cluster = this_machine(scaling.max_workers, hardware, worker_cores=scaling.resources_per_worker.get("CPU", 1.0))
    return make_plan(Setting(recipe, find_pairs(recipe.data.url, recipe), cluster, hardware))


def step(hardware: Hardware) -> list[Row]:
    """``train_step.py``'s, of both towers at full size, on one thread."""
    options = SimpleNamespace(
        batch=16, image_size=224, patch_dropout=0.8, precision="float32", compile=False, steps=2, small=False
    )
    with torch.device("meta"):
        config = train_step.build_ours(options).config
    run = dry_run(config, train_step.make_inputs(options, torch.device("cpu"))[2])
    device, bare = cpu_device(hardware.rates, 1, 2**40), loss_run(options.batch, 1, run.width)
    seconds = sum(work.seconds(device) for work in (run.forward, run.backward, bare.work))
    seconds += 4 * run.trained * ADAM_PASSES / device.bytes_per_second
    memory = run.weight_bytes + 8 * run.trained + run.working_bytes + bare.peak_bytes + device.framework_bytes
    found = train_step.alone(partial(timed_step, options))
    flops = run.forward.flops + run.backward.flops + bare.work.flops
    return [
        row("step of ViT-B/16 and T5-base", options.batch / seconds, options.batch / found["seconds"], "images/s"),
        row("the same, memory", memory / 2**20, found["peak_bytes"] / 2**20, "MiB"),
        row("the same, FLOPs", flops / 1e9, found["flops"] / 1e9, "G"),
    ]


def timed_step(options: SimpleNamespace) -> dict[str, float]:
    """By the clock of its one thread, which others on the machine do not stop."""
    torch.set_num_threads(1)
    device, seconds = torch.device("cpu"), []
    once = train_step.ours(options, device, *train_step.make_inputs(options, device))
    with train_step.flop_counter() as counter:
        once()
    once()
    train_step.reset_peak(device)
    for _ in range(options.steps):
        started = time.process_time()
        once()
        seconds.append(time.process_time() - started)
    peak = float(train_step.peak_bytes(device))
    return {"seconds": min(seconds), "peak_bytes": peak, "flops": float(counter.get_total_flops())}


def loss(hardware: Hardware) -> list[Row]:
    """``loss_memory.py``'s, of one rank of 32, on one thread."""
    device, rows = cpu_device(hardware.rates, 1, 2**40), []
    for batch in (8192, 16384):
        run = loss_run(batch // 32, 32, 768)
        os.environ["MALLOC_MMAP_THRESHOLD_"] = str(2**16)  # as that program does
        memory = train_step.alone(partial(loss_memory.measure, "ours", batch, 32, 768))["peak_bytes"]
        del os.environ["MALLOC_MMAP_THRESHOLD_"]
        seconds = train_step.alone(partial(timed_loss, batch, 32, 768))
        rows.append(row(f"loss of one of 32 ranks, {batch:,} pairs", run.work.seconds(device), seconds, "s"))
        rows.append(row("the same, memory", run.peak_bytes / 2**20, memory / 2**20, "MiB"))
    return rows


def timed_loss(batch: int, ranks: int, width: int) -> float:
    """Seconds of the thread's own clock."""
    torch.set_num_threads(1)
    loss, seconds = loss_memory.build_loss("ours", ranks), []
    image, text, scale = loss_memory.embeddings(batch // ranks, width, torch.device("cpu"))
    for _ in range(4):
        image.grad = text.grad = scale.grad = None
        started = time.process_time()
        loss(image, text, scale).backward()
        seconds.append(time.process_time() - started)
    return min(seconds)


def stream(hardware: Hardware, data: str, folder: str) -> list[Row]:
    """`clippy data bench`, the workers doing nothing."""
    rows = []
    for size, batches in ((64, 600), (128, 400)):
        options = [f"data.url={data}/train", f"storage.url={folder}/runs", f"model.image.image_size={size}"]
        options += ["scaling.resources_per_worker={CPU: 0}", "model.text.tokenizer=bytes"]
        plan = plan_of(hardware, options)
        recipe, cores = plan.setting.recipe, plan.setting.cluster.node.cores
        images = (batches - batches // 2) * recipe.optim.global_batch_size
        with ray_session(recipe.scaling), watch(os.getpid()) as watched:
            found = bench(recipe, batches, Console())
        usage = watched.during(*found.timed)
        predicted = cores * plan.unit.rows / plan.unit.decode_seconds
        rows.append(row(f"clippy data bench shapes, {size} pixels", predicted, usage.alone(images), "images/s"))
    return rows


def published(hardware: Hardware) -> list[Row]:
    """timm's training in mixed precision, of the towers alone, attention in three operations."""
    from clippy.torchvision_cpu import ensure_torchvision

    ensure_torchvision()
    import timm

    timm.layers.set_fused_attn(False)
    device, rows = gpu_device("RTX3090", load_hardware(), "bfloat16"), []
    for name, (speed, batch) in TIMM.items():
        with torch.device("meta"):
            model = timm.create_model(name).train()
        with fake_parameters(model), Watch() as watch:
            with torch.autocast("cpu", torch.bfloat16):
                out = model(torch.empty(batch, 3, 224, 224))
            out.float().sum().backward()
        parameters = sum(parameter.numel() for parameter in model.parameters())
        seconds = watch.take().seconds(device) + 4 * 6 * parameters / device.bytes_per_second  # SGD with momentum
        rows.append(row(f"timm {name} on an RTX 3090", batch / seconds, speed, "images/s", here=False))
    return rows


def line(found: Row) -> str:
    """One comparison in words."""
    numbers = f"{found['predicted']:>12,.2f}{found['measured']:>12,.2f} {found['unit']:<9}"
    return f"{found['what']:<46}{numbers}{found['error']:>+8.1%}"


def table(result: dict[str, Any]) -> str:
    """A line each."""
    head = f"{'':<46}{'predicted':>12}{'measured':>12}{'':<10}{'error':>8}"
    end = (
        []
        if result["worst_error_here"] is None
        else [f"worst of what was measured here: {result['worst_error_here']:.1%}"]
    )
    return "\n".join([head, *(line(found) for found in result["rows"]), *end])


if __name__ == "__main__":
    main()
