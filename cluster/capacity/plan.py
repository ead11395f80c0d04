"""A plan: what a recipe needs of a cluster, how fast it runs on this one, what bounds it, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cluster.capacity.failures import CheckpointPlan, plan_checkpoints
from cluster.capacity.hardware import Cluster, Hardware, Prices, gpu_cluster
from cluster.capacity.pairs import Pairs
from cluster.capacity.step import StepModel, StepSeconds, WorkerMemory, model_step, step_seconds, worker_memory
from cluster.capacity.stream_need import Stage, UnitCost, object_store, stream_stages, unit_cost
from pipelines.budget import StreamBudget
from pipelines.recipe import Recipe

GIB = 2**30
WORKERS, CORES = "workers", "cores of this machine"


@dataclass(frozen=True)
class Setting:
    """What a plan is made of."""

    recipe: Recipe
    pairs: Pairs
    cluster: Cluster
    hardware: Hardware

    def with_recipe(self, *overrides: str) -> Setting:
        """The same with some fields of the recipe set. Raises ConfigError where they do not fit together."""
        recipe = Recipe.build(self.recipe.name, self.recipe.model_dump(mode="json"), list(overrides))
        return replace(self, recipe=recipe)

    def with_gpus(self, count: int, *overrides: str, cpu_nodes: int | None = None) -> Setting:
        """The same with so many GPUs and, unless told otherwise, as many machines that only decode.

        Raises ConfigError where the recipe's batch does not divide.
        """
        wider, cluster = self.with_recipe(f"scaling.num_workers={count}", *overrides), self.cluster
        gpus = gpu_cluster(
            count,
            cluster.device.name,
            self.hardware,
            precision=self.recipe.train.precision,
            worker_cores=cluster.worker_cores,
            cpu_nodes=cluster.cpu_nodes if cpu_nodes is None else cpu_nodes,
        )
        return replace(wider, cluster=replace(gpus, told_decode_cores=cluster.told_decode_cores))


class DoesNotFit(ValueError):
    """A worker's memory does not hold what the recipe asks of it."""

    def __init__(self, setting: Setting, memory: WorkerMemory) -> None:
        self.memory = memory
        device, recipe = setting.cluster.device, setting.recipe
        super().__init__(
            f"train.micro_batch_size: {recipe.micro_batch_size} pairs at once need {memory.total / GIB:.1f} GiB "
            f"on each {device.name}, which has {device.memory_bytes / GIB:.1f} GiB"
        )


@dataclass(frozen=True)
class Plan:
    """The arithmetic of one setting."""

    setting: Setting
    step: StepModel
    seconds: StepSeconds
    """Of a step that never waits for data."""
    memory: WorkerMemory
    unit: UnitCost
    stages: Sequence[Stage]
    store: StreamBudget
    checkpoints: CheckpointPlan

    @property
    def bound(self) -> Stage:
        """The slowest stage."""
        return min(self.stages, key=lambda stage: stage.images_per_second)

    @property
    def images_per_second(self) -> float:
        """Of training, between checkpoints and failures."""
        return self.bound.images_per_second

    @property
    def step_interval(self) -> float:
        """Seconds from step to step."""
        return self.setting.recipe.optim.global_batch_size / self.images_per_second

    @property
    def flops(self) -> int:
        """Of the model and the loss in a step of all workers; nothing that is computed twice."""
        passes, step = self.step.passes, self.step
        once = (passes.forward.flops + min(passes.backward.flops, 2 * passes.forward.flops)) * step.micro_batches
        return self.setting.cluster.workers * (once + step.loss.work.flops)

    @property
    def flops_share(self) -> float:
        """Model FLOPs as a share of what is printed on the devices (MFU)."""
        cluster = self.setting.cluster
        peak = cluster.workers * cluster.device.peak_flops[self.setting.recipe.train.precision]
        return self.flops / self.step_interval / peak

    @property
    def epochs(self) -> float:
        """Passes over the dataset."""
        recipe = self.setting.recipe
        return recipe.train.steps * recipe.optim.global_batch_size / self.setting.pairs.pairs

    @property
    def hours(self) -> float:
        """Of the whole run, stalls and failures included."""
        return self.setting.recipe.train.steps * self.step_interval * (1 + self.checkpoints.overhead) / 3600

    @property
    def requests_per_second(self) -> float:
        """Of storage."""
        return self.unit.requests / self.unit.rows * self.images_per_second

    @property
    def storage_bytes_per_second(self) -> float:
        """Read from storage."""
        return self.unit.read_bytes / self.unit.rows * self.images_per_second

    @property
    def decode_cores_needed(self) -> float:
        """Hardware threads that this speed keeps busy."""
        decoding = next(stage for stage in self.stages if stage.name == "decoding")
        return self.setting.cluster.decode_cores * self.images_per_second / decoding.images_per_second


@dataclass(frozen=True)
class Cost:
    """Money, by what it is for; None where the price of a machine is not known."""

    gpu_nodes: float | None
    cpu_nodes: float | None
    requests: float
    storage_month: float
    """Of the dataset, for a month, whatever the run takes."""
    unpriced: tuple[str, ...]

    @property
    def run(self) -> float | None:
        """Of the run: machines and requests."""
        if self.gpu_nodes is None or self.cpu_nodes is None:
            return None
        return self.gpu_nodes + self.cpu_nodes + self.requests


def make_plan(setting: Setting) -> Plan:
    """The plan. Raises DoesNotFit, or ValueError for a tower that cannot be built or a stream that cannot be held."""
    recipe, pairs, cluster, rates = setting.recipe, setting.pairs, setting.cluster, setting.hardware.rates
    step = model_step(recipe, pairs, cluster.workers)
    memory = worker_memory(step, cluster, recipe)
    if memory.total > cluster.device.memory_bytes:
        raise DoesNotFit(setting, memory)
    seconds = step_seconds(recipe, step, cluster, rates)
    unit = unit_cost(recipe, pairs, cluster, rates)
    stages = [_workers(setting, step, seconds), *stream_stages(recipe, pairs, cluster, rates)]
    if cluster.shares_cores:
        stages.append(_shared_cores(setting, seconds, unit))
    interval = recipe.optim.global_batch_size / min(stage.images_per_second for stage in stages)
    return Plan(
        setting=setting,
        step=step,
        seconds=seconds,
        memory=memory,
        unit=unit,
        stages=stages,
        store=object_store(recipe, cluster, rates, unit.rows),
        checkpoints=plan_checkpoints(recipe, step.passes, cluster, rates, interval),
    )


def _workers(setting: Setting, step: StepModel, seconds: StepSeconds) -> Stage:
    batch, cluster = setting.recipe.optim.global_batch_size, setting.cluster
    because = f"{cluster.workers} x {cluster.device.name}, {seconds.total * 1e3:,.0f} ms a step"
    if step.passes.forward.waits_for_host(cluster.device):
        because += f", in which {step.passes.rows} pairs take less time than launching their operations"
    return Stage(WORKERS, batch / seconds.total, because)


def _shared_cores(setting: Setting, seconds: StepSeconds, unit: UnitCost) -> Stage:
    """Everything that a step costs, by the cores there are to do it."""
    batch, cluster = setting.recipe.optim.global_batch_size, setting.cluster
    of_workers = cluster.workers * max(1.0, cluster.worker_cores) * seconds.total
    of_stream = batch / unit.rows * unit.decode_seconds
    rest = setting.hardware.rates.cpu_step_seconds.value
    total = of_workers + of_stream + rest
    because = f"core seconds a step: training {of_workers:.2f}, decoding {of_stream:.2f}, Ray and the loop {rest:.2f}"
    return Stage(CORES, batch * cluster.node.cores / total, because)


def cost(plan: Plan, prices: Prices) -> Cost:
    """What the run costs at these prices."""
    cluster, pairs, hours = plan.setting.cluster, plan.setting.pairs, plan.hours
    unpriced = []

    def machines(count: int, name: str) -> float | None:
        if not count or cluster.shares_cores:
            return 0.0
        if name not in prices.node_hour:
            unpriced.append(name)
            return None
        return count * hours * prices.node_hour[name]

    requests = 3600 * hours * plan.requests_per_second
    return Cost(
        gpu_nodes=machines(cluster.nodes, cluster.node_name),
        cpu_nodes=machines(cluster.cpu_nodes, cluster.cpu_node_name),
        requests=requests / 1000 * prices.get_requests_1000 if not cluster.shares_cores else 0.0,
        storage_month=pairs.pairs * pairs.bytes / GIB * prices.storage_gib_month,
        unpriced=tuple(unpriced),
    )
