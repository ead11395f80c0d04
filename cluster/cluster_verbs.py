"""``clippy cluster``: the noun; each module adds its own verbs."""

from __future__ import annotations

from typing import Any

from cluster.job_verbs import add_job_verbs
from cluster.local_verbs import add_local_verbs
from cluster.planning import add_plan_verb
from cluster.rendering import add_render_verb


def add_cluster_verbs(verbs: Any) -> None:
    actions = verbs.add_parser("cluster", help="what a recipe needs of a cluster, and running it there").add_subparsers(
        title="commands", metavar="COMMAND", required=True
    )
    add_plan_verb(actions)
    add_job_verbs(actions)
    add_local_verbs(actions)
    add_render_verb(actions)
