"""A plan as a page that people read: what comes out, where the numbers are from."""

from __future__ import annotations

from dataclasses import asdict, fields
from math import isinf
from textwrap import fill
from typing import Any

from cluster.capacity.hardware import Hardware, Prices
from cluster.capacity.plan import GIB, Cost, Plan, cost
from cluster.capacity.remedies import Remedy
from pipelines.console import duration

_TIMES = {
    "forward": "forward",
    "backward": "backward",
    "recomputed": "forward for embeddings alone",
    "loss": "loss",
    "embeddings": "gathering embeddings",
    "gradients": "gradients, after the backward pass",
    "optimizer": "optimizer",
    "copies": "pixels to the device",
}


def as_text(plan: Plan, prices: Prices, remedy: Remedy) -> str:
    """The page."""
    spent = cost(plan, prices)
    sections = [
        _head(plan),
        _answer(plan, spent, prices, remedy),
        _block("step", _step_rows(plan)),
        _block(f"memory of a worker, {_bytes(plan.memory.total)} of {_bytes(_memory(plan))}", _memory_rows(plan)),
        _block("images/s that each part lets through", _stage_rows(plan)),
        _block("stream", _stream_rows(plan)),
        _block("checkpoints and failures", _checkpoint_rows(plan)),
        "sources\n" + _sources(_source_rows(plan, prices)),
    ]
    return "\n\n".join(sections)


def _head(plan: Plan) -> str:
    setting = plan.setting
    recipe, cluster, pairs = setting.recipe, setting.cluster, setting.pairs
    where = f"{cluster.workers} x {cluster.device.name}"
    if not cluster.shares_cores:
        where += f" in {cluster.nodes} x {cluster.node_name}"
        where += f", {cluster.cpu_nodes} x {cluster.cpu_node_name} to decode" if cluster.cpu_nodes else ""
    seen = f"{recipe.train.steps:,} steps of {recipe.optim.global_batch_size:,} pairs"
    return f"{recipe.name} on {where}\n{seen}, {plan.epochs:.2f} epochs of the {pairs.pairs:,} of {pairs.name}"


def _answer(plan: Plan, spent: Cost, prices: Prices, remedy: Remedy) -> str:
    money = "no price for " + ", ".join(spent.unpriced) if spent.run is None else f"{spent.run:,.0f} {prices.currency}"
    rows = {
        "speed": f"{plan.images_per_second:,.0f} images/s, {plan.step_interval:.3f} s a step",
        "run": duration(3600 * plan.hours) + ("" if plan.setting.cluster.shares_cores else f", {money}"),
        "bound": f"{plan.bound.name} ({plan.bound.because})",
        "change": remedy.text,
    }
    return _rows(rows)


def _step_rows(plan: Plan) -> dict[str, str]:
    step, passes = plan.step, plan.step.passes
    per_image = (passes.forward.flops + passes.backward.flops) / passes.rows
    times = {_TIMES[name]: f"{1e3 * value:,.1f} ms" for name, value in asdict(plan.seconds).items() if value}
    return {
        "parameters": f"{passes.parameters:,}, {passes.trained:,} of them trained",
        "FLOPs": f"{_flops(per_image)} an image, {_flops(plan.flops)} a step, {plan.flops_share:.1%} of the peak",
        "micro-batches": f"{step.micro_batches} of {passes.rows} pairs on each worker",
        **times,
    }


def _memory_rows(plan: Plan) -> dict[str, str]:
    named = {field.name.replace("_", " "): getattr(plan.memory, field.name) for field in fields(plan.memory)}
    return {name: _bytes(size) for name, size in named.items() if size}


def _memory(plan: Plan) -> int:
    return plan.setting.cluster.device.memory_bytes


def _bytes(size: float) -> str:
    return f"{size / GIB:.2f} GiB" if size >= GIB else f"{size / 2**20:.1f} MiB"


def _flops(count: float) -> str:
    return f"{count / 1e12:,.1f} T" if count >= 1e12 else f"{count / 1e9:,.2f} G"


def _stage_rows(plan: Plan) -> dict[str, str]:
    return {
        stage.name: f"{stage.images_per_second:>12,.0f}   {stage.because}"
        for stage in sorted(plan.stages, key=lambda stage: stage.images_per_second)
        if not isinf(stage.images_per_second)
    }


def _stream_rows(plan: Plan) -> dict[str, str]:
    unit, cluster = plan.unit, plan.setting.cluster
    return {
        "unit": f"{unit.rows} rows, {unit.decoded_bytes / 2**20:.1f} MiB decoded",
        "decode cores": f"{plan.decode_cores_needed:,.0f} busy of {cluster.decode_cores:,} hardware threads",
        "reading": f"{plan.storage_bytes_per_second / 1e6:,.1f} MB/s, {plan.requests_per_second:,.1f} requests/s, "
        f"{unit.read_amplification:.2f} bytes read for each used",
        "object store": f"{_bytes(plan.store.needed_bytes)} needed of {_bytes(plan.store.store_bytes)}",
    }


def _checkpoint_rows(plan: Plan) -> dict[str, str]:
    found = plan.checkpoints
    rows = {
        "size": f"{_bytes(found.size_bytes)}, {found.stall_seconds:.2f} s of standing still, "
        f"{found.write_seconds:.1f} s to write beside training",
        "checkpoint.every": f"{found.steps} steps cost {found.overhead:.2%} of the time",
    }
    if isinf(found.hours_between_failures):
        return rows
    rows["checkpoint.every"] += f"; {found.best_steps:,} would cost least, {found.best_overhead:.2%}"
    failures = plan.hours / found.hours_between_failures
    each = f"one in {found.hours_between_failures:,.0f} hours, each costs {found.lost_seconds / 60:.1f} minutes"
    return {**rows, "failures": f"{each}; {failures:.3f} in this run, {failures * found.lost_seconds / 3600:.3f} hours"}


def _source_rows(plan: Plan, prices: Prices) -> dict[str, str]:
    setting = plan.setting
    rows = {"dataset": setting.pairs.source}
    if not setting.cluster.shares_cores:
        rows |= {
            setting.cluster.device.name: setting.hardware.gpus[setting.cluster.device.name].source,
            setting.cluster.node_name: setting.cluster.node.source,
            "prices": prices.source,
        }
    rates = used_rates(setting.hardware, setting.cluster.shares_cores)
    return rows | {name.replace("_", " "): f"{figure['value']:g}: {figure['source']}" for name, figure in rates.items()}


_OF_GPUS = (
    *("matrix_", "memory_", "kernel_", "launch_", "host_", "gpu_", "allocator_", "thread_", "network_", "request"),
    *("upload_", "restart_"),
)
"""Beginnings of the names of rates that do not matter on the CPU of one machine."""
_OF_SIMULATION = ("read_", "late_", "slow_", "step_")


def used_rates(hardware: Hardware, on_cpu: bool) -> dict[str, dict[str, Any]]:
    """Rates that matter to a plan for GPUs, or for the CPU of this machine."""
    skipped = (*_OF_SIMULATION, *(_OF_GPUS if on_cpu else ("cpu_",)))
    return {name: figure for name, figure in hardware.rates.model_dump().items() if not name.startswith(skipped)}


def as_dict(plan: Plan, prices: Prices, remedy: Remedy) -> dict[str, Any]:
    """The same for programs."""
    setting, spent = plan.setting, cost(plan, prices)
    cluster, passes = setting.cluster, plan.step.passes
    return {
        "recipe": setting.recipe.name,
        "dataset": setting.pairs.model_dump(),
        "workers": cluster.workers,
        "device": cluster.device.name,
        "nodes": {cluster.node_name: cluster.nodes, cluster.cpu_node_name: cluster.cpu_nodes}
        if cluster.cpu_nodes
        else {cluster.node_name: cluster.nodes},
        "images_per_second": plan.images_per_second,
        "step_seconds": plan.step_interval,
        "hours": plan.hours,
        "epochs": plan.epochs,
        "currency": prices.currency,
        "cost": {**asdict(spent), "run": spent.run},
        "bound": asdict(plan.bound),
        "remedy": remedy.text,
        "parameters": passes.parameters,
        "trained_parameters": passes.trained,
        "flops_per_image": (passes.forward.flops + passes.backward.flops) / passes.rows,
        "flops_per_step": plan.flops,
        "flops_share_of_peak": plan.flops_share,
        "micro_batches": plan.step.micro_batches,
        "micro_batch_size": passes.rows,
        "phases": asdict(plan.seconds),
        "memory": {**asdict(plan.memory), "total": plan.memory.total, "device": cluster.device.memory_bytes},
        "stages": {s.name: None if isinf(s.images_per_second) else s.images_per_second for s in plan.stages},
        "stream": {
            **asdict(plan.unit),
            "decode_cores": cluster.decode_cores,
            "decode_cores_needed": plan.decode_cores_needed,
            "bytes_per_second": plan.storage_bytes_per_second,
            "requests_per_second": plan.requests_per_second,
            "object_store_needed_bytes": plan.store.needed_bytes,
            "object_store_bytes": plan.store.store_bytes,
        },
        "checkpoints": {name: None if isinf(value) else value for name, value in asdict(plan.checkpoints).items()},
        "rates": used_rates(setting.hardware, cluster.shares_cores),
        "price_source": prices.source,
    }


def _sources(rows: dict[str, str]) -> str:
    width = 2 + max(map(len, rows))
    lines = (f"  {name}".ljust(width) + f"  {source}" for name, source in rows.items())
    return "\n".join(fill(line, 118, subsequent_indent=" " * (width + 2)) for line in lines)


def _block(title: str, rows: dict[str, str]) -> str:
    return f"{title}\n" + _rows({f"  {name}": value for name, value in rows.items()})


def _rows(rows: dict[str, str]) -> str:
    width = max(map(len, rows))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())
