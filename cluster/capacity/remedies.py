"""The smallest change that removes what bounds a plan, found by planning again with each change that could."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import ceil

from cluster.capacity.plan import CORES, GIB, WORKERS, DoesNotFit, Plan, Setting, make_plan

_WORTH = 1.03
"""A change that makes a run no faster than this is none."""
_PAYS = 0.7
"""More GPUs that bring less than this share of what they cost are not worth it with the same batch."""
_SCALES_WITH_CORES = ("decoding", "reading")
_MOST_CPU_NODES = 4096


@dataclass(frozen=True)
class Remedy:
    """A change, in words, and the plan with it; None where it was worked out without one."""

    change: str
    plan: Plan | None = None

    @property
    def text(self) -> str:
        """The change and what comes of it."""
        if self.plan is None:
            return self.change
        after, bound = self.plan.images_per_second, self.plan.bound.name
        return f"{self.change}: {after:,.0f} images/s, and then {bound} bounds"


def find_remedy(plan: Plan) -> Remedy:
    """What removes the plan's bound."""
    remedies: dict[str, Callable[[Plan], Remedy]] = {
        WORKERS: _faster_workers,
        CORES: _more_cores_here,
        "decoding": _more_decoders,
        "reading": _better_reads,
        "network": _wider_network,
        "storage requests": _more_prefixes,
    }
    return remedies[plan.bound.name](plan)


def _target(plan: Plan, *without: str) -> float:
    """Images a second of the slowest stage but these."""
    return min(stage.images_per_second for stage in plan.stages if stage.name not in without)


def _more_decoders(plan: Plan) -> Remedy:
    """As many hardware threads more as make another stage the slowest, and the machines that have them.

    With machines the network grows too, so that what is enough is found in a few rounds.
    """
    before, wider, lacking, changes = plan.setting.cluster, plan, 0, [""]
    while wider.bound.name in _SCALES_WITH_CORES:
        cluster = wider.setting.cluster
        needed = ceil(cluster.decode_cores * _target(wider, *_SCALES_WITH_CORES) / wider.images_per_second)
        lacking, changes = needed - before.decode_cores, []
        if before.shares_cores:
            return Remedy(f"{lacking} decode cores more")
        machines = max(0, ceil((needed - before.spare_cores) / before.cpu_node.cores))
        if before.told_decode_cores is not None:
            changes.append(f"scaling.decode_cores={needed}")
        if machines > before.cpu_nodes:
            changes.append(f"--cpu-nodes {machines}, {before.cpu_node_name}")
        told = needed if before.told_decode_cores is not None else None
        more = replace(before, told_decode_cores=told, cpu_nodes=max(machines, before.cpu_nodes))
        wider = make_plan(replace(plan.setting, cluster=more))
    return Remedy(f"+{lacking} decode cores ({' '.join(changes)})", wider)


def _better_reads(plan: Plan) -> Remedy:
    """Row groups of the size of a unit, if that is enough; else more decoders, which read too."""
    pairs, unit = plan.setting.pairs, plan.unit
    if pairs.group_rows != unit.rows:
        regrouped = make_plan(replace(plan.setting, pairs=pairs.model_copy(update={"group_rows": unit.rows})))
        if regrouped.bound.name != "reading":
            return Remedy(
                f"row groups of {unit.rows} rows (clippy data import --row-group-rows {unit.rows})", regrouped
            )
    return _more_decoders(plan)


def _wider_network(plan: Plan) -> Remedy:
    """More machines to decode on, which share the load; else links as fast as they would have to be."""
    cluster = plan.setting.cluster
    more = max(1, cluster.cpu_nodes)
    while more <= _MOST_CPU_NODES and cluster.cpu_nodes:
        wider = make_plan(replace(plan.setting, cluster=cluster.with_cpu_nodes(cluster.cpu_nodes + more)))
        if wider.bound.name != "network":
            return Remedy(f"--cpu-nodes {cluster.cpu_nodes + more}", wider)
        more *= 2
    times = _target(plan, "network") / plan.images_per_second
    return Remedy(f"links to storage {times:.1f} times as fast, {times * cluster.node.storage_gbit:.0f} Gbit/s")


def _more_prefixes(plan: Plan) -> Remedy:
    """Shards under several prefixes, each of which storage serves at its own rate."""
    pairs = plan.setting.pairs
    prefixes = ceil(pairs.prefixes * _target(plan, "storage requests") / plan.images_per_second)
    spread = make_plan(replace(plan.setting, pairs=pairs.model_copy(update={"prefixes": prefixes})))
    change = f"shards spread over {prefixes} prefixes of the bucket (prefixes={prefixes} in --dataset)"
    return Remedy(f"{change}, or units of more than {plan.unit.rows} rows by a larger batch on each GPU", spread)


def _more_cores_here(plan: Plan) -> Remedy:
    """Cores of this machine."""
    cluster = plan.setting.cluster
    needed = ceil(cluster.node.cores * _target(plan, CORES, *_SCALES_WITH_CORES) / plan.images_per_second)
    node = cluster.node.model_copy(update={"cores": needed})
    wider = make_plan(replace(plan.setting, cluster=replace(cluster, node=node, spare_cores=max(2, needed))))
    return Remedy(f"a machine of {needed} cores", wider)


def _faster_workers(plan: Plan) -> Remedy:
    """A field of the recipe that makes them faster where there is one, or more of them."""
    for overrides in _recipe_changes(plan):
        try:
            faster = make_plan(plan.setting.with_recipe(*overrides))
        except ValueError:  # does not fit, or fields that do not go together
            continue
        if faster.images_per_second > _WORTH * plan.images_per_second:
            return Remedy(" ".join(overrides), faster)
    if plan.setting.cluster.shares_cores:
        return Remedy("more workers, each with a core of its own")
    return _more_workers(plan)


def _recipe_changes(plan: Plan) -> Iterator[tuple[str, ...]]:
    """Fields that could make a step faster, those that change nothing but time and memory first."""
    recipe, device, step = plan.setting.recipe, plan.setting.cluster.device, plan.step
    if step.micro_batches > 1:
        room = device.memory_bytes - plan.memory.total + plan.memory.activations
        fits = step.passes.rows * room / max(1, plan.memory.activations)
        yield from ((f"train.micro_batch_size={rows}",) for rows in _micro_batches(plan.setting, fits)[:2])
    if recipe.train.activation_checkpointing:
        yield ("train.activation_checkpointing=false",)
    if recipe.train.precision == "float32" and device.peak_flops["bfloat16"] > device.peak_flops["float32"]:
        yield ("train.precision=bfloat16",)


def _micro_batches(setting: Setting, most: float) -> list[int]:
    """Micro-batches of at most so many rows that come out even, the largest first."""
    own = setting.recipe.optim.global_batch_size // setting.cluster.workers
    return [rows for rows in range(min(own, int(most)), 0, -1) if own % rows == 0]


def _more_workers(plan: Plan) -> Remedy:
    """Twice as many GPUs, as often as that pays, until the next stage is the slowest."""
    setting, cluster = plan.setting, plan.setting.cluster
    best = Remedy("the GPUs are the limit, as they should be; the global batch has no rows for more of them")
    for times in (2, 4, 8):
        count = times * cluster.workers
        try:
            wider = make_plan(setting.with_gpus(count))
        except ValueError:  # the batch does not divide, or has no rows left
            return best
        share = wider.images_per_second / plan.images_per_second / times
        change = f"the GPUs are the limit, as they should be; --gpus {count}x{cluster.device.name}"
        if share < _PAYS:
            why = f"they then have {wider.step.passes.rows} pairs each, so raise optim.global_batch_size too"
            return Remedy(f"{change} ({share:.0%} of {times} times as fast; {why})", wider)
        best = Remedy(change, wider)
        if wider.bound.name != WORKERS:
            return best
    return best


def fitting_changes(setting: Setting, error: DoesNotFit) -> list[str]:
    """Changes with which the memory of a worker is enough, each with what it then takes; none where none is."""
    found = []
    if (smaller := fitting_micro_batch(setting, error)) is not None:
        rows, memory = smaller.setting.recipe.micro_batch_size, smaller.memory
        found.append(f"train.micro_batch_size={rows} ({memory.total / GIB:.1f} GiB)")
    if not setting.recipe.train.activation_checkpointing:
        try:
            plan = make_plan(setting.with_recipe("train.activation_checkpointing=true"))
            found.append(f"train.activation_checkpointing=true ({plan.memory.total / GIB:.1f} GiB)")
        except ValueError:  # does not fit either, or cannot be
            pass
    return found


def fitting_micro_batch(setting: Setting, error: DoesNotFit) -> Plan | None:
    """The plan with the largest micro-batch that fits, or nearly; None where none does."""
    memory, device = error.memory, setting.cluster.device
    room = (device.memory_bytes - memory.total) / (1 + device.spare_share) + memory.activations
    rows = setting.recipe.micro_batch_size * room / max(1, memory.activations)
    for smaller in _micro_batches(setting, min(rows, setting.recipe.micro_batch_size - 1))[:3]:
        try:
            return make_plan(setting.with_recipe(f"train.micro_batch_size={smaller}"))
        except DoesNotFit:
            continue
    return None
