"""A Ray to run on: the cluster that the recipe names, or one started on this machine for as long as it is needed."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import psutil

from pipelines.recipe import Recipe
from pipelines.sections import ScalingConfig

_DATA_CPUS = 2
"""Logical CPUs beyond the workers' that reading and decoding need to make progress."""
_UNREAD = {
    "enable_metrics_collection": False,
    "enable_timeline": False,
    "event_stats": False,
    "task_events_report_interval_ms": 0,
}
"""What every process of Ray would note for a dashboard, which is not started here: it would cost the decoders 1 %."""
_UNWATCHED = {"RAY_LOG_MONITOR_MANY_FILES_THRESHOLD": "0", "LOG_NAME_UPDATE_INTERVAL_S": "inf"}
"""Ray's log monitor would look for new log files ten times a second, to send to a driver what it does not ask for."""

_STARTUPS = 16
"""Processes that may start at once, at least: of a multiple Ray warns, and a training has many for few cores."""


@contextmanager
def ray_session(scaling: ScalingConfig, runs_at_once: int = 1) -> Iterator[None]:
    """Connect to ``scaling.ray_address``, or start Ray here; one that this process already uses is kept.

    One started here has room for so many runs at once.

    Raises ValueError when no cluster answers there.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing leaves this machine unasked
    import ray

    if ray.is_initialized():
        yield
        return
    for name in ("ray", "ray.data", "ray.train", "ray.tune"):  # ray.data sets a level of its own
        logging.getLogger(name).setLevel(logging.ERROR)
    if scaling.ray_address is not None:
        _connect(scaling.ray_address)
    else:
        _start(scaling, runs_at_once)
    try:
        yield
    finally:
        workers = _worker_processes() if scaling.ray_address is None else []
        ray.shutdown()
        for worker in workers:  # some wait for ever in Ray's own exit, with all their memory
            with suppress(psutil.NoSuchProcess):
                worker.kill()


def _worker_processes() -> list[psutil.Process]:
    """What the Ray that this process started has started in turn."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):  # it may end at any moment
            if child.name() == "raylet":
                found += child.children()
    return found


def _connect(address: str) -> None:
    import ray

    try:
        _, _, port = address.rpartition(":")
        if port.isdigit():  # Ray itself would try for minutes
            host = address.removeprefix("ray://")[: -len(port) - 1].strip("[]")
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:  # a ConnectionError is an OSError
        raise ValueError(
            f"scaling.ray_address: no Ray cluster answers at {address!r} ({str(error).splitlines()[0]}); mend the "
            "address, or leave it out to start Ray here"
        ) from None


def _start(scaling: ScalingConfig, runs_at_once: int) -> None:
    import ray

    needed_cpus = scaling.max_workers * scaling.resources_per_worker.get("CPU", 1.0)
    # Ray's servers listen on every interface whatever address they are given; what keeps strangers out is the token
    # that Ray 2.60 makes and asks for by itself.
    # On few cores training and decoding share them: Ray's CPUs are counted, not reserved.
    data_cpus = _DATA_CPUS if runs_at_once == 1 else 1
    cpus = max(os.cpu_count() or 1, runs_at_once * (int(needed_cpus) + data_cpus))
    for name, value in _UNWATCHED.items():
        os.environ.setdefault(name, value)
    ray.init(
        address="local",  # one of our own, also where somebody started a cluster on this machine
        num_cpus=cpus,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _system_config={**_UNREAD, "worker_maximum_startup_concurrency": max(cpus, _STARTUPS)},
    )


def check_resources(recipe: Recipe) -> None:
    """Refuse a training that the connected cluster can never hold, for which Ray itself would wait without end.

    Raises ValueError with the numbers.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    address = recipe.scaling.ray_address
    where = "this machine" if address is None else f"the cluster at {address}"
    remedy = "name a cluster in scaling.ray_address" if address is None else "have more nodes started first"
    check_demand(recipe, nodes, _may_come(), where, remedy)


def check_demand(
    recipe: Recipe,
    nodes: Sequence[Mapping[str, float]],
    may_come: Mapping[str, float],
    where: str,
    remedy: str = "have more nodes started first",
) -> None:
    """Refuse a training that ``nodes``, each with its resources, can never hold; needs no connection to them.

    ``may_come`` is what an autoscaler may make of the whole at most. Raises ValueError with the numbers.
    """
    offered = _together(nodes, may_come)
    for name, parts in _parts_needed(recipe).items():
        if sum(parts.values()) > offered.get(name, 0):
            who = " and ".join(who for who, amount in parts.items() if amount)
            needed, has = sum(parts.values()), offered.get(name, 0)
            verb = "needs" if who == "a validation" else "need"
            raise ValueError(
                f"scaling: {who} {verb} {needed:g} {name}, and {where} has {has:g}; lower scaling.num_workers, set "
                f"scaling.use_gpu=false, or {remedy}"
            )
    if not may_come:
        _check_one_worker(recipe.scaling, nodes, where)


def offered_resources() -> dict[str, float]:
    """By resource, what the connected cluster has, or at most will have where an autoscaler adds nodes."""
    import ray

    return _together([ray.cluster_resources()], _may_come())


def _together(nodes: Sequence[Mapping[str, float]], may_come: Mapping[str, float]) -> dict[str, float]:
    offered = {name: sum(node.get(name, 0) for node in nodes) for node in nodes for name in node}
    return offered | {name: max(amount, offered.get(name, 0)) for name, amount in may_come.items()}


def _may_come() -> dict[str, float]:
    import ray

    # Not public, but Ray Train asks the same: what an autoscaler may add at most.
    return ray._private.state.state.get_max_resources_from_cluster_config() or {}


def _check_one_worker(scaling: ScalingConfig, nodes: Sequence[Mapping[str, float]], where: str) -> None:
    """Refuse a worker that is larger than any node."""
    wanted = _each(scaling)
    if not any(all(node.get(name, 0) >= amount for name, amount in wanted.items()) for node in nodes):
        asked = ", ".join(f"{amount:g} {name}" for name, amount in wanted.items())
        most = ", ".join(f"{max((node.get(name, 0) for node in nodes), default=0):g} {name}" for name in wanted)
        raise ValueError(
            f"scaling.resources_per_worker: a worker needs {asked} on one node, and no node of {where} has that (the "
            f"most that one has: {most}); lower it"
        )


def resources_needed(recipe: Recipe) -> dict[str, float]:
    """By resource, what the fewest workers that the run goes on with, one decoder and a validation need together."""
    return {name: sum(parts.values()) for name, parts in _parts_needed(recipe).items()}


def _parts_needed(recipe: Recipe) -> dict[str, dict[str, float]]:
    """By resource, what the fewest workers that the run goes on with, decoding and validation need."""
    scaling, validated = recipe.scaling, recipe.eval.resources if recipe.eval.every else {}
    workers, decoders = scaling.min_workers, scaling.decode_cores or 1
    each = _each(scaling)
    return {
        name: {
            f"{workers} worker{'s' * (workers > 1)}": each.get(name, 0) * workers,
            f"{decoders} decoder{'s' * (decoders > 1)}": decoders if name == "CPU" else 0,
            "a validation": validated.get(name, 0),
        }
        for name in {**each, **validated, "CPU": 0}
    }


def _each(scaling: ScalingConfig) -> dict[str, float]:
    """What a worker needs."""
    return scaling.worker_resources
