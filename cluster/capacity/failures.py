"""Checkpoints and failures: what a checkpoint weighs and costs, how often it pays, and what is lost without it."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isinf, sqrt

from cluster.capacity.dry_run import DryRun
from cluster.capacity.hardware import Cluster, Rates
from pipelines.recipe import Recipe

_FLOAT = 4


@dataclass(frozen=True)
class CheckpointPlan:
    """Checkpoints of a run, and what failures cost it."""

    size_bytes: int
    stall_seconds: float
    """Training waits while the state is copied to the host; writing goes on beside it."""
    write_seconds: float
    hours_between_failures: float
    """Of the whole cluster; infinite on one machine's CPU, for which none is stated."""
    best_steps: int
    """Between two checkpoints, where stalls and lost work together cost least."""
    steps: int
    """What the recipe says."""
    lost_seconds: float
    """Of work, on average, for each failure, until training is where it was."""
    overhead: float
    """Time lost to stalls and failures, for each hour of steps, as the recipe has it."""
    best_overhead: float
    """The same with ``best_steps``."""


def plan_checkpoints(recipe: Recipe, passes: DryRun, cluster: Cluster, rates: Rates, step: float) -> CheckpointPlan:
    """For steps of ``step`` seconds."""
    size = passes.weight_bytes + _FLOAT * (2 * passes.trained + passes.tensors)
    writers = cluster.workers if recipe.checkpoint.sharded else 1
    stall = 0.0 if cluster.shares_cores else size / writers / (rates.host_copy_gb_per_s.value * 1e9)
    stall = max(stall, size / writers / cluster.device.bytes_per_second)
    write = size / writers / (rates.upload_mb_per_s.value * 1e6)
    between = inf if cluster.shares_cores else 3600 * rates.gpu_hours_between_failures.value / cluster.workers
    restart = rates.restart_seconds.value
    told = recipe.checkpoint.every * step
    best = told if isinf(between) else max(best_interval(stall, between), write)

    def overhead(interval: float) -> float:
        return stall / interval + (interval / 2 + write + restart) / between

    return CheckpointPlan(
        size_bytes=size,
        stall_seconds=stall,
        write_seconds=write,
        hours_between_failures=between / 3600,
        best_steps=max(1, round(best / step)),
        steps=recipe.checkpoint.every,
        lost_seconds=told / 2 + write + restart,
        overhead=overhead(told),
        best_overhead=overhead(max(1, round(best / step)) * step),
    )


def best_interval(cost: float, between_failures: float) -> float:
    """Seconds of work between two checkpoints that cost so many seconds each.

    J. T. Daly, A higher order estimate of the optimum checkpoint interval (2006), equation 37; its first term is
    J. W. Young's (1974).
    """
    if cost >= 2 * between_failures:
        return between_failures
    ratio = cost / (2 * between_failures)
    return sqrt(2 * cost * between_failures) * (1 + sqrt(ratio) / 3 + ratio / 9) - cost
