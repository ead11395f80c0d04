"""GPUs, machines and rates, each with its source, and what a plan makes of them: devices and clusters. No torch."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import Field

from clippy.config import ConfigError, Section, merge, nearest, parse_mapping, read_text


class Figure(Section):
    """A number, and where it is from."""

    value: float = Field(ge=0)
    source: str


class Gpu(Section):
    """A kind of GPU; see ``hardware.yaml`` for what exactly is meant."""

    memory_mib: float = Field(gt=0)
    float32_tflops: float = Field(gt=0)
    bfloat16_tflops: float | None = Field(gt=0)
    """Null where it has no matrix unit for bfloat16."""
    memory_gb_per_s: float = Field(gt=0)
    link_gb_per_s: float = Field(gt=0)
    node: str
    gcp_node: str | None = None
    """Google Cloud's machine with eight of them, where it has one."""
    source: str


class Node(Section):
    """A kind of machine."""

    gpus: int = Field(ge=0)
    cores: int = Field(gt=0)
    memory_gib: float = Field(gt=0)
    network_gbit: float = Field(gt=0)
    storage_gbit: float = Field(gt=0)
    source: str


class Rates(Section):
    """How fast things go; ``hardware.yaml`` says what each is."""

    matrix_share: Figure
    memory_share: Figure
    kernel_seconds: Figure
    launch_seconds: Figure
    host_copy_gb_per_s: Figure
    network_share: Figure
    network_seconds: Figure
    gpu_framework_gib: Figure
    allocator_share: Figure
    cpu_matrix_gflops: Figure
    cpu_memory_gb_per_s: Figure
    cpu_operation_seconds: Figure
    cpu_framework_mib: Figure
    cpu_step_seconds: Figure
    decode_ns_per_byte: Figure
    decode_ns_per_pixel: Figure
    decode_ns_per_output_pixel: Figure
    decode_seconds_per_row: Figure
    decode_seconds_per_resize: Figure
    thread_share: Figure
    block_seconds: Figure
    block_ns_per_byte: Figure
    request_seconds: Figure
    request_mb_per_s: Figure
    requests_per_second: Figure
    upload_mb_per_s: Figure
    object_store_share: Figure
    read_spread: Figure
    late_share: Figure
    late_seconds: Figure
    slow_share: Figure
    slow_times: Figure
    step_spread: Figure
    gpu_hours_between_failures: Figure
    restart_seconds: Figure


class Hardware(Section):
    """All that is known of hardware."""

    gpus: dict[str, Gpu]
    nodes: dict[str, Node]
    cpu_node: str
    gcp_cpu_node: str
    rates: Rates


class Prices(Section):
    """What things cost, in one currency."""

    currency: str
    source: str
    node_hour: dict[str, float]
    storage_gib_month: float = Field(ge=0)
    get_requests_1000: float = Field(ge=0)


class Calibration(Section):
    """Rates measured on one machine, to be taken in place of others."""

    machine: str
    rates: dict[str, Figure]


def load_hardware(calibration: str | None = None) -> Hardware:
    """The packaged figures, with those that a file of ``--calibrate`` has in their place. Raises ConfigError."""
    values = _packaged("hardware.yaml")
    if calibration is not None:
        measured = Calibration.load(calibration, read_text(Path(calibration)))
        unknown = sorted(measured.rates.keys() - Rates.model_fields.keys())
        if unknown:
            raise ConfigError(calibration, [f"rates.{name}: no such rate" for name in unknown])
        values["rates"] = merge(values["rates"], {k: figure.model_dump() for k, figure in measured.rates.items()})
    return Hardware.build("hardware.yaml", values)


def load_prices(file: str | None = None) -> Prices:
    """The packaged prices, or those in a file of the user's. Raises ConfigError."""
    if file is None:
        return Prices.build("prices.yaml", _packaged("prices.yaml"))
    return Prices.load(file, read_text(Path(file)))


def packaged_datasets() -> dict[str, Any]:
    """What ``datasets.yaml`` says, by name."""
    return _packaged("datasets.yaml")


def _packaged(name: str) -> dict[str, Any]:
    return parse_mapping(name, files("cluster.capacity").joinpath(name).read_text(encoding="utf-8"))


_LEAST_DECODERS = 2
"""On a machine of few cores, decoders and workers share them."""


@dataclass(frozen=True)
class Device:
    """What one worker computes on."""

    name: str
    memory_bytes: int
    matrix_flops: Mapping[str, float]
    """A second, by format; what large products reach, not what is printed on the box."""
    peak_flops: Mapping[str, float]
    """The same as it is printed."""
    bytes_per_second: float
    operation_seconds: float
    """Beside what each operation computes and moves."""
    launch_seconds: float
    """Of the host, for an operation of a GPU; nothing on a CPU."""
    framework_bytes: int
    spare_share: float
    """Memory held by the allocator beyond what is used."""


@dataclass(frozen=True)
class Cluster:
    """Machines and workers."""

    device: Device
    workers: int
    node: Node
    node_name: str
    nodes: int
    cpu_node: Node
    cpu_node_name: str
    cpu_nodes: int
    spare_cores: int
    """Hardware threads that the workers leave on their own machines."""
    worker_cores: float
    """Of each worker."""
    link_bytes_per_second: float
    """Between workers of one machine, in one direction."""
    told_decode_cores: int | None = None
    """What the recipe limits decoding to."""
    shares_cores: bool = False
    """Workers, decoders and Ray run on the same few cores: a plan for the CPU of one machine."""

    @property
    def decode_cores(self) -> int:
        """Hardware threads that read and decode."""
        return min(self.told_decode_cores or 10**9, self.spare_cores + self.cpu_nodes * self.cpu_node.cores)

    def with_cpu_nodes(self, count: int) -> Cluster:
        """The same with so many machines for decoding."""
        return replace(self, cpu_nodes=count)


def parse_gpus(text: str, hardware: Hardware) -> tuple[int, str]:
    """How many GPUs of which kind ``32xH100`` says. Raises ValueError with the near miss."""
    found = re.fullmatch(r"\s*(\d+)\s*[x*×]\s*(\S+)\s*", text)
    if found is None or not int(found[1]):
        raise ValueError(f"--gpus: must be a number and a kind, as in 32xH100 (got {text!r})")
    count, name = int(found[1]), found[2]
    known = {gpu.upper(): gpu for gpu in hardware.gpus}
    if name.upper() not in known:
        family = [gpu for key, gpu in known.items() if key.startswith(name.upper() + "-")]
        near = f"; did you mean {' or '.join(repr(gpu) for gpu in family)}?" if family else ""
        near = near or nearest(name.upper(), list(known))
        raise ValueError(f"--gpus: no figures for a GPU named {name!r}{near} There are {', '.join(hardware.gpus)}")
    return count, known[name.upper()]


def gpu_device(name: str, hardware: Hardware, precision: str) -> Device:
    """One GPU. Raises ValueError where it cannot compute in that precision."""
    gpu, rates = hardware.gpus[name], hardware.rates
    if precision == "bfloat16" and gpu.bfloat16_tflops is None:
        raise ValueError(f"--gpus: {name} has no matrix unit for bfloat16; set train.precision=float32")
    peak = {"float32": gpu.float32_tflops * 1e12, "bfloat16": (gpu.bfloat16_tflops or gpu.float32_tflops) * 1e12}
    return Device(
        name=name,
        memory_bytes=int(gpu.memory_mib * 2**20),
        matrix_flops={key: rates.matrix_share.value * rate for key, rate in peak.items()},
        peak_flops=peak,
        bytes_per_second=rates.memory_share.value * gpu.memory_gb_per_s * 1e9,
        operation_seconds=rates.kernel_seconds.value,
        launch_seconds=rates.launch_seconds.value,
        framework_bytes=int(rates.gpu_framework_gib.value * 2**30),
        spare_share=rates.allocator_share.value,
    )


def cpu_device(rates: Rates, threads: int, memory_bytes: int) -> Device:
    """A worker of so many threads on the CPU of this machine; bfloat16 is no faster there than float32."""
    rate = rates.cpu_matrix_gflops.value * 1e9 * threads
    return Device(
        name="CPU",
        memory_bytes=memory_bytes,
        matrix_flops={"float32": rate, "bfloat16": rate},
        peak_flops={"float32": rate, "bfloat16": rate},
        bytes_per_second=rates.cpu_memory_gb_per_s.value * 1e9 * threads,
        operation_seconds=rates.cpu_operation_seconds.value,
        launch_seconds=0.0,
        framework_bytes=int(rates.cpu_framework_mib.value * 2**20),
        spare_share=0.0,
    )


def gpu_cluster(
    count: int, name: str, hardware: Hardware, *, precision: str, worker_cores: float, cpu_nodes: int = 0
) -> Cluster:
    """So many GPUs in machines of their usual kind, and machines beside them that only decode."""
    gpu = hardware.gpus[name]
    node = hardware.nodes[gpu.node]
    nodes = -(-count // node.gpus)
    return Cluster(
        device=gpu_device(name, hardware, precision),
        workers=count,
        node=node,
        node_name=gpu.node,
        nodes=nodes,
        cpu_node=hardware.nodes[hardware.cpu_node],
        cpu_node_name=hardware.cpu_node,
        cpu_nodes=cpu_nodes,
        spare_cores=max(1, int(nodes * node.cores - count * worker_cores)),
        worker_cores=worker_cores,
        link_bytes_per_second=gpu.link_gb_per_s * 1e9,
    )


def this_machine(workers: int, hardware: Hardware, *, worker_cores: float, cores: int | None = None) -> Cluster:
    """The CPU of this machine, on whose cores workers and decoders run together."""
    cores = cores or os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    node = Node(gpus=0, cores=cores, memory_gib=memory / 2**30, network_gbit=10, storage_gbit=10, source="this machine")
    return Cluster(
        device=cpu_device(hardware.rates, max(1, int(worker_cores)), memory // workers),
        workers=workers,
        node=node,
        node_name="this machine",
        nodes=1,
        cpu_node=node,
        cpu_node_name="this machine",
        cpu_nodes=0,
        spare_cores=max(_LEAST_DECODERS, int(cores - workers * worker_cores)),  # as a Ray that a run starts counts them
        worker_cores=worker_cores,
        link_bytes_per_second=hardware.rates.cpu_memory_gb_per_s.value * 1e9 / 4,  # gloo copies each byte several times
        shares_cores=True,
    )


def save_calibration(file: str, calibration: Calibration) -> None:
    """Write it as JSON, which is YAML too."""
    Path(file).write_text(json.dumps(calibration.model_dump(), indent=2) + "\n", encoding="utf-8")
