"""``clippy cluster up --local`` and ``down``: a Ray cluster of several nodes on this machine."""

from __future__ import annotations

import argparse
from typing import Any

from cluster.verbs import add_json, print_result, table, verb


def add_local_verbs(actions: Any) -> None:
    """Declare the verbs."""
    command = verb(actions, "up", _up, "start a Ray cluster of several nodes on this machine, to try everything on")
    command.add_argument("--local", action="store_true", required=True, help="on this machine: the only place")
    command.add_argument("--nodes", type=int, default=2, metavar="N", help="beside the head (default: 2)")
    command.add_argument(
        "--cpus-per-node", type=int, default=4, metavar="C", help="counted by Ray, not reserved (default: 4)"
    )
    add_json(command)
    add_json(verb(actions, "down", _down, "stop the cluster that up --local started, with all its jobs"))


def _up(options: argparse.Namespace) -> None:
    from cluster.local_cluster import start_local_cluster
    from pipelines.console import Console

    for name in ("nodes", "cpus_per_node"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')}: must be at least 1 (got {getattr(options, name)})")
    console = Console()
    cluster = start_local_cluster(options.nodes, options.cpus_per_node, console.progress)
    console.clear()
    facts = {
        "address": cluster.url,
        "nodes": f"a head, and {options.nodes} with {cluster.cpus_per_node} CPUs each",
        "token": f"in {cluster.token_file}; the dashboard at {cluster.url} asks for it",
        "logs": str(cluster.scratch),
    }
    hints = "submit: clippy cluster submit -- train shapes\nstop:   clippy cluster down"
    print_result(cluster.as_dict(), options.json, f"{table(facts)}\n\n{hints}")


def _down(options: argparse.Namespace) -> None:
    from cluster.local_cluster import stop_local_cluster

    cluster = stop_local_cluster()
    text = f"stopped the cluster at {cluster.url}" if cluster else "no local cluster is running"
    print_result({"stopped": cluster.as_dict() if cluster else None}, options.json, text)
