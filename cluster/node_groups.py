"""How many nodes of which size a recipe takes: from its demand, the spec and the table of hardware."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil, floor
from typing import Literal

from clippy.config import nearest
from cluster.capacity.hardware import Hardware
from cluster.spec import ClusterSpec, NodesSpec, WorkersSpec
from pipelines.local_ray import check_demand
from pipelines.recipe import Recipe

Platform = Literal["kuberay", "aws", "gcp"]

_POD_CPU_SHARE, _POD_MEMORY_SHARE = 0.95, 0.9
"""Of a machine, for a pod that has it alone: the rest is Kubernetes' and the system's."""
_LEAST_DECODERS = 2
_HEAD_MACHINES = {"aws": "m7i.2xlarge", "gcp": "n2-standard-8"}
_HEAD_STORE_BYTES = 2**30
"""The driver puts next to nothing into the object store."""
_KNOWN = {"CPU", "GPU", "memory"}


@dataclass(frozen=True)
class NodeGroup:
    """Nodes of one size."""

    name: str
    min_nodes: int
    max_nodes: int
    machine: str
    cpus: int
    memory_gib: float
    gpus: int
    object_store_bytes: int
    spec: NodesSpec
    """Where its pods may run."""

    @property
    def resources(self) -> dict[str, float]:
        """What Ray offers of one node."""
        return {"CPU": float(self.cpus), "GPU": float(self.gpus), "memory": self.memory_gib * 2**30}


@dataclass(frozen=True)
class NodeGroups:
    """All nodes of a cluster."""

    head: NodeGroup
    workers: tuple[NodeGroup, ...]
    """Training and, if the recipe needs it, decoding."""

    @property
    def all(self) -> tuple[NodeGroup, ...]:
        """The head first."""
        return (self.head, *self.workers)


@dataclass(frozen=True)
class _Machine:
    name: str
    cores: int
    memory_gib: float
    gpus: int


def plan_groups(recipe: Recipe, spec: ClusterSpec, hardware: Hardware, platform: Platform) -> NodeGroups:
    """The nodes for this recipe. Imports Ray.

    Raises ValueError, naming the field, where the spec's nodes cannot hold what the recipe asks for.
    """
    training = _training(recipe, spec, hardware, platform)
    decode = _decode(recipe, spec, hardware, platform, training)
    workers = (training, decode) if decode.max_nodes else (training,)
    groups = NodeGroups(_head(spec, platform), tuple(_fixed(group, spec) for group in workers))
    _check_demand(recipe, groups)
    _check_object_store(recipe, groups)
    return groups


def _head(spec: ClusterSpec, platform: Platform) -> NodeGroup:
    cpus, memory = spec.head.cpus or 4, spec.head.memory_gib or 16
    machine = spec.head.machine or _HEAD_MACHINES.get(platform, "")
    return NodeGroup("head", 1, 1, machine, cpus, memory, 0, _HEAD_STORE_BYTES, spec.head)


def _training(recipe: Recipe, spec: ClusterSpec, hardware: Hardware, platform: Platform) -> NodeGroup:
    told, each = spec.training, _of_a_worker(recipe)
    slots = _slots(recipe, each)
    machine = _machine(told, _training_machine(recipe, spec, hardware, platform), "training", hardware)
    if each["GPU"]:
        needed = ceil(each["GPU"] * slots[1])
        gpus = told.gpus_per_node or (min(machine.gpus, needed) if platform == "kuberay" else machine.gpus)
        if not gpus:
            raise ValueError(
                f"training.machine: {machine.name} has no GPU, and {recipe.name} trains on GPUs; name another, or say "
                "how many it has in training.gpus_per_node"
            )
        if platform != "kuberay" and machine.gpus and gpus > machine.gpus:
            raise ValueError(f"training.gpus_per_node: {machine.name} has {machine.gpus}, not {gpus}; leave it out")
        share = min(1.0, gpus / machine.gpus) if machine.gpus else 1.0
        cpus, memory = _size(told, machine, share, platform)
    else:
        gpus = 0
        room = floor(_POD_CPU_SHARE * machine.cores)
        together = min(slots[1], floor(room / each["CPU"]) if each["CPU"] else slots[1])
        wanted = max(1, ceil(together * each["CPU"]))
        cpus, memory = _size(told, machine, wanted / machine.cores, platform, cpus=wanted)
    fitting = _workers_on_a_node(each, {"CPU": cpus, "GPU": gpus, "memory": memory * 2**30})
    if fitting < 1:
        raise ValueError(
            f"scaling.resources_per_worker: a worker needs {_named(each)} on one node, and a training node has "
            f"{cpus} CPU, {gpus} GPU and {memory:g} GiB; lower it, or name a larger one in training.machine"
        )
    least, most = (ceil(count / fitting) for count in slots)
    _check_workers(recipe, told, fitting)
    return _group("training", told, (least, most), machine.name, (cpus, memory, gpus), hardware)


def _decode(
    recipe: Recipe, spec: ClusterSpec, hardware: Hardware, platform: Platform, training: NodeGroup
) -> NodeGroup:
    """Nodes for the decoders that training nodes have no cores for; where the recipe leaves their number open, one."""
    told, wanted = spec.decode, recipe.scaling.decode_cores
    machine = _machine(told, _cpu_machine(hardware, platform), "decode", hardware)
    workers = recipe.scaling.min_workers * _of_a_worker(recipe)["CPU"]
    spare = max(0, floor(training.min_nodes * training.cpus - workers))
    if wanted is None:
        lacking = max(_LEAST_DECODERS, ceil(workers)) if not recipe.scaling.use_gpu else machine.cores
    else:
        lacking = max(0, wanted - spare)
    whole = floor(_POD_CPU_SHARE * machine.cores)
    size = min(whole, max(1, lacking))
    cpus, memory = _size(told, machine, size / machine.cores, platform, cpus=size)
    nodes = 1 if wanted is None else ceil(lacking / cpus)
    return _group("decode", told, (nodes, nodes), machine.name, (cpus, memory, 0), hardware)


def _group(
    name: str,
    told: WorkersSpec,
    nodes: tuple[int, int],
    machine: str,
    size: tuple[int, float, int],
    hardware: Hardware,
) -> NodeGroup:
    from cluster.capacity.stream_need import machine_store_bytes

    least = nodes[0] if told.min_nodes is None else told.min_nodes
    most = max(nodes[1], least) if told.max_nodes is None else told.max_nodes
    store = machine_store_bytes(size[1], hardware.rates)
    return NodeGroup(name, min(least, most), most, machine, *size, store, told)


def _fixed(group: NodeGroup, spec: ClusterSpec) -> NodeGroup:
    """Without an autoscaler all nodes are there from the start."""
    return group if spec.autoscales else replace(group, min_nodes=group.max_nodes)


def _of_a_worker(recipe: Recipe) -> dict[str, float]:
    needed = recipe.scaling.worker_resources
    if unknown := needed.keys() - _KNOWN:
        raise ValueError(
            f"scaling.resources_per_worker: {', '.join(sorted(unknown))}: nodes are made with CPU, GPU and memory "
            "alone; leave it out"
        )
    return {"CPU": 0.0, "GPU": 0.0, "memory": 0.0} | needed


def _slots(recipe: Recipe, each: Mapping[str, float]) -> tuple[int, int]:
    """Fewest and most workers, a validation counting as so many as it takes GPUs, or CPUs where there are none."""
    kind = "GPU" if each["GPU"] else "CPU"
    validated = recipe.eval.resources.get(kind, 0.0) if recipe.eval.every else 0.0
    more = ceil(validated / each[kind]) if each[kind] else 0
    return recipe.scaling.min_workers + more, recipe.scaling.max_workers + more


def _training_machine(recipe: Recipe, spec: ClusterSpec, hardware: Hardware, platform: Platform) -> str:
    """The machine type that training runs on unless the spec names another."""
    if not recipe.scaling.use_gpu:
        return _cpu_machine(hardware, platform)
    kind = spec.training.gpu
    if kind not in hardware.gpus:
        near = nearest(kind, list(hardware.gpus)) or ";"
        raise ValueError(
            f"training.gpu: no figures for a GPU named {kind!r}{near} there are {', '.join(hardware.gpus)}"
        )
    gpu = hardware.gpus[kind]
    if recipe.train.precision == "bfloat16" and gpu.bfloat16_tflops is None:
        raise ValueError(f"training.gpu: {kind} has no matrix unit for bfloat16; set train.precision=float32")
    if spec.training.machine is not None:
        return spec.training.machine
    rented = {name: _rented(hardware, name, platform) for name in hardware.gpus}
    if (machine := rented[kind]) is None:
        offered = ", ".join(name for name, other in rented.items() if other)
        raise ValueError(
            f"training.gpu: no machine with {kind} is known on {platform}; name one in training.machine, or take one "
            f"of {offered}"
        )
    return machine


def _rented(hardware: Hardware, kind: str, platform: Platform) -> str | None:
    gpu = hardware.gpus[kind]
    if platform == "gcp":
        return gpu.gcp_node
    return gpu.node if platform == "kuberay" or "." in gpu.node else None  # a workstation is not for rent


def _cpu_machine(hardware: Hardware, platform: Platform) -> str:
    return hardware.gcp_cpu_node if platform == "gcp" else hardware.cpu_node


def _machine(told: NodesSpec, default: str, group: str, hardware: Hardware) -> _Machine:
    name = told.machine or default
    if name in hardware.nodes:
        node = hardware.nodes[name]
        return _Machine(name, node.cores, node.memory_gib, node.gpus)
    if told.cpus is None or told.memory_gib is None:
        raise ValueError(
            f"{group}.machine: there are no figures for {name!r}; say what it has in {group}.cpus and "
            f"{group}.memory_gib, or name one of {', '.join(hardware.nodes)}"
        )
    return _Machine(name, told.cpus, told.memory_gib, 0)


def _size(
    told: NodesSpec, machine: _Machine, share: float, platform: Platform, cpus: int | None = None
) -> tuple[int, float]:
    """CPUs and GiB of a node: a pod is a share of a machine, and ``ray up`` starts whole ones."""
    if platform != "kuberay":
        return told.cpus or machine.cores, told.memory_gib or machine.memory_gib
    cpus = told.cpus or cpus or max(1, floor(_POD_CPU_SHARE * share * machine.cores))
    return cpus, told.memory_gib or max(1, floor(_POD_MEMORY_SHARE * share * machine.memory_gib))


def _workers_on_a_node(each: Mapping[str, float], node: Mapping[str, float]) -> int:
    """A worker that asks for nothing fits any number of times."""
    return min((floor(node[name] / amount + 1e-9) for name, amount in each.items() if amount), default=10**6)


def _named(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in resources.items() if amount)


def _check_workers(recipe: Recipe, told: WorkersSpec, fitting: int) -> None:
    least = recipe.scaling.min_workers
    if told.max_nodes is not None and told.max_nodes * fitting < least:
        raise ValueError(
            f"training.max_nodes: {told.max_nodes} hold {told.max_nodes * fitting} workers, {fitting} each, and "
            f"scaling.num_workers asks for {least}; raise it to {ceil(least / fitting)}, or lower scaling.num_workers"
        )


def _check_demand(recipe: Recipe, groups: NodeGroups) -> None:
    """What a run itself would refuse to start with."""
    nodes = [group.resources for group in groups.workers for _ in range(group.max_nodes)]
    counted = " and ".join(f"{group.max_nodes} {group.name} nodes" for group in groups.workers)
    check_demand(recipe, nodes, {}, f"a cluster of {counted}", "raise max_nodes of the group")


def _check_object_store(recipe: Recipe, groups: NodeGroups) -> None:
    """Refuse a stream that does not fit before any node is paid for."""
    from pipelines.budget import plan_budget
    from pipelines.plan import unit_rows
    from pipelines.samples import Decoding, Source

    size, tokens = recipe.model.image.image_size, recipe.model.text.max_tokens
    rows = unit_rows(recipe.micro_batch_size, 3 * size**2 + 4 * tokens)
    free = sum(group.max_nodes * group.cpus for group in groups.workers)
    free -= int(recipe.scaling.min_workers * _of_a_worker(recipe)["CPU"])
    store = sum(group.max_nodes * group.object_store_bytes for group in groups.workers)
    cores = recipe.scaling.decode_cores or max(1, free)
    plan_budget(recipe, Source((), recipe.seed, rows), Decoding(size, "", tokens), cores, store)
