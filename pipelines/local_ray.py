"""A Ray to run on: the cluster that the recipe names, or one started on this machine for as long as it is needed."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.recipe import ScalingConfig

_DATA_CPUS = 2
"""Logical CPUs beyond the workers' that reading and decoding need to make progress."""


@contextmanager
def ray_session(scaling: ScalingConfig) -> Iterator[None]:
    """Connect to ``scaling.ray_address``, or start Ray here; one that this process already uses is kept.

    Raises ValueError when no cluster answers there, or this machine can never give what the workers need.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing leaves this machine unasked
    import ray

    if ray.is_initialized():
        _check_resources(scaling)
        yield
        return
    for name in ("ray", "ray.data", "ray.train"):  # ray.data sets a level of its own
        logging.getLogger(name).setLevel(logging.ERROR)
    if scaling.ray_address is not None:
        _connect(scaling.ray_address)
    else:
        _start(scaling)
    try:
        _check_resources(scaling)
        yield
    finally:
        ray.shutdown()


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


def _start(scaling: ScalingConfig) -> None:
    import ray

    needed_cpus = scaling.max_workers * scaling.resources_per_worker.get("CPU", 1.0)
    # Ray's servers listen on every interface whatever address they are given; what keeps strangers out is the token
    # that Ray 2.60 makes and asks for by itself.
    # On few cores training and decoding share them: Ray's CPUs are counted, not reserved.
    cpus = max(os.cpu_count() or 1, int(needed_cpus) + _DATA_CPUS)
    ray.init(
        address="local",  # one of our own, also where somebody started a cluster on this machine
        num_cpus=cpus,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )


def _check_resources(scaling: ScalingConfig) -> None:
    """Refuse what this cluster can never give, which Ray itself would wait for without end."""
    import ray

    offered = ray.cluster_resources()
    for name, amount in (ray._private.state.state.get_max_resources_from_cluster_config() or {}).items():
        offered[name] = max(amount, offered.get(name, 0))  # what an autoscaler may add
    workers = scaling.min_workers
    where = "this machine" if scaling.ray_address is None else f"the cluster at {scaling.ray_address}"
    for name, amount in needed(scaling).items():
        if amount > offered.get(name, 0):
            remedy = "lower scaling.num_workers, set scaling.use_gpu=false, or name "
            remedy += "a cluster in scaling.ray_address" if scaling.ray_address is None else "a larger cluster"
            raise ValueError(
                f"scaling: {workers} worker{'s' * (workers > 1)} need {amount:g} {name}, and {where} has "
                f"{offered.get(name, 0):g}; {remedy}"
            )


def needed(scaling: ScalingConfig) -> dict[str, float]:
    """Resources of the fewest workers that the run goes on with."""
    each = dict(scaling.resources_per_worker)
    if scaling.use_gpu:
        each.setdefault("GPU", 1.0)
    return {name: amount * scaling.min_workers for name, amount in each.items() if amount}
