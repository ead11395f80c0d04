"""``clippy cluster render``: manifests for KubeRay and configurations of ``ray up``, for a recipe."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from shlex import quote
from typing import TYPE_CHECKING, Any

from cluster.verbs import add_json, print_result, verb

if TYPE_CHECKING:
    from cluster.node_groups import NodeGroups, Platform
    from cluster.spec import ClusterSpec
    from pipelines.recipe import Recipe

_SPEC = "cluster."
"""Begins an override of the spec rather than of the recipe."""


def add_render_verb(actions: Any) -> None:
    targets = actions.add_parser("render", help="write what starts a cluster for a recipe").add_subparsers(
        title="commands", metavar="TARGET", required=True
    )
    kuberay = verb(targets, "kuberay", _kuberay, "a RayJob for Kubernetes with KubeRay, and its recipe")
    kuberay.add_argument(
        "--standing", action="store_true", help="a RayCluster that stays up for clippy cluster submit, instead"
    )
    machines = verb(targets, "ray-up", _ray_up, "the configuration of ray up, for machines of a cloud")
    machines.add_argument("--cloud", choices=("aws", "gcp"), required=True)
    for command in (kuberay, machines):
        command.add_argument("--recipe", required=True, metavar="RECIPE", help="a recipe's name or a YAML file")
        command.add_argument(
            "overrides", nargs="*", metavar="a.b=c", help="fields of the recipe, and cluster.a.b=c of the spec"
        )
        command.add_argument("--spec", metavar="FILE", help="what else is known of the cluster, as YAML")
        command.add_argument("--out", metavar="FILE", help="default: standard output")
        add_json(command)


def _kuberay(options: argparse.Namespace) -> None:
    recipe, spec, groups = _read(options, "kuberay")
    from cluster.kuberay import cluster_heading, job_heading, ray_cluster, ray_job

    make, head = (ray_cluster, cluster_heading) if options.standing else (ray_job, job_heading)
    _write(options, make(recipe, spec, groups), head(recipe, spec, _file(options)))


def _ray_up(options: argparse.Namespace) -> None:
    recipe, spec, groups = _read(options, options.cloud)
    from cluster.ray_up import heading, ray_up

    config = ray_up(recipe, spec, groups, options.cloud)
    _write(options, [config], heading(recipe, spec, options.cloud, _file(options)))


def _file(options: argparse.Namespace) -> str:
    """The file as a shell takes it."""
    return quote(options.out or "FILE")


def _read(options: argparse.Namespace, platform: Platform) -> tuple[Recipe, ClusterSpec, NodeGroups]:
    """Recipe, spec and nodes, all of them checked. Raises ValueError."""
    from cluster.capacity.hardware import load_hardware
    from cluster.node_groups import plan_groups
    from cluster.reach import check_places
    from cluster.spec import load_spec
    from pipelines.recipe import load_recipe

    own = [text.removeprefix(_SPEC) for text in options.overrides if text.startswith(_SPEC)]
    recipe = load_recipe(options.recipe, [text for text in options.overrides if not text.startswith(_SPEC)])
    spec = load_spec(options.spec, own)
    spec.name_for(recipe.name)
    check_places(recipe, spec)
    return recipe, spec, plan_groups(recipe, spec, load_hardware(), platform)


def _write(options: argparse.Namespace, documents: Sequence[dict[str, Any]], heading: Sequence[str]) -> None:
    from cluster.manifests import as_yaml

    text, files = as_yaml(documents, heading).rstrip(), [options.out] if options.out is not None else []
    if files:
        from pipelines.storage import locate

        locate(options.out).write_text(f"{text}\n")
    print_result({"files": files, "manifests": documents}, options.json, "\n".join(files) or text)
