"""Simulations over numbers of GPUs and pairs, as a table and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any

from cluster.capacity.plan import DoesNotFit, Plan, Setting, make_plan
from cluster.capacity.remedies import fitting_micro_batch
from cluster.capacity.simulation import noise_of, simulate, simulate_run, stream_of
from pipelines.console import Console, duration

GPUS = (8, 16, 32, 64, 128, 256, 512)
PAIRS = (134_000_000, 1_000_000_000, 10_000_000_000)
_STEPS = 40
_COLD_READS, _READS = 10, 20
"""So many late reads' time passes before steps count, and so many while they do: they come in bunches."""


@dataclass(frozen=True)
class Point:
    """One number of GPUs."""

    gpus: int
    micro_batch_size: int
    decode_cores: int
    images_per_second: float
    """In closed form, without noise."""
    bound: str
    simulated: float
    """With noise."""
    waited: float
    """Share of the simulated time in which training waits for data."""
    hours: dict[int, float]
    """Of a run by pairs seen, failures included."""
    failures: dict[int, int]


@dataclass(frozen=True)
class Forecast:
    """All of them."""

    recipe: str
    device: str
    seed: int
    points: Sequence[Point]
    picture: str

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self)

    def as_text(self) -> str:
        """A line for each number of GPUs."""
        lines = [
            f"simulation with seed {self.seed}, drawn to {self.picture}",
            f"  {'GPUs':>5}{'closed form':>13}{'simulated':>11}{'waits':>7}  {'bound':<18}"
            + "".join(f"{f'{pairs / 1e9:g} G pairs':>14}" for pairs in PAIRS),
        ]
        for point in self.points:
            hours = "".join(f"{duration(3600 * point.hours[pairs]):>14}" for pairs in PAIRS)
            speed = f"{point.images_per_second:>13,.0f}{point.simulated:>11,.0f}{point.waited:>7.1%}"
            lines.append(f"  {point.gpus:>5}{speed}  {point.bound:<18}{hours}")
        return "\n".join(lines)


def forecast(plan: Plan, seed: int, picture: str) -> Forecast:
    """Simulate the plan's recipe on other numbers of its GPUs, as many machines for decoding for each, and draw it."""
    console, points = Console(), []
    batch = plan.setting.recipe.optim.global_batch_size
    counts = [count for count in GPUS if batch % count == 0]
    for done, count in enumerate(counts):
        console.count("numbers of GPUs simulated", done, len(counts))
        if (other := _plan_for(plan.setting, count)) is not None:
            points.append(_point(other, seed))
    console.clear()
    found = Forecast(plan.setting.recipe.name, plan.setting.cluster.device.name, seed, points, picture)
    from cluster.capacity.forecast_picture import draw

    draw(found, picture)
    return found


def _plan_for(setting: Setting, count: int) -> Plan | None:
    """The plan for so many GPUs, in micro-batches that fit; None where none does."""
    told, own = setting.recipe.train.micro_batch_size, setting.recipe.optim.global_batch_size // count
    micro = f"train.micro_batch_size={told if told and own % told == 0 else 'null'}"
    cluster = setting.cluster
    other = setting.with_gpus(count, micro, cpu_nodes=round(cluster.cpu_nodes * count / cluster.workers))
    try:
        return make_plan(other)
    except DoesNotFit as error:
        return fitting_micro_batch(other, error)


def _point(plan: Plan, seed: int) -> Point:
    recipe, cluster = plan.setting.recipe, plan.setting.cluster
    batch = recipe.optim.global_batch_size
    stream, noise = stream_of(plan), noise_of(plan)
    reads = (stream.read_seconds + noise.late_seconds) / plan.step_interval
    cold, counted = _STEPS + ceil(_COLD_READS * reads), _STEPS + ceil(_READS * reads)
    each = simulate(stream, cold + counted, noise, seed).seconds_per_step(cold - 1)
    runs = {pairs: simulate_run(plan, -(-pairs // batch), each, seed) for pairs in PAIRS}
    return Point(
        gpus=cluster.workers,
        micro_batch_size=recipe.micro_batch_size,
        decode_cores=cluster.decode_cores,
        images_per_second=plan.images_per_second,
        bound=plan.bound.name,
        simulated=batch / each,
        waited=max(0.0, 1 - plan.seconds.total / each),
        hours={pairs: run.seconds / 3600 for pairs, run in runs.items()},
        failures={pairs: run.failures for pairs, run in runs.items()},
    )
