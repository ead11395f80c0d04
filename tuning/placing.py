"""How many trials run at once, and what each may use of the cluster."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import ray

from pipelines.local_ray import offered_resources, resources_needed
from pipelines.recipe import Recipe
from tuning.space import corners
from tuning.study import Study


@dataclass(frozen=True)
class Places:
    """Room for trials on the cluster that this process is connected to."""

    at_once: int
    decode_cores: int | None
    """Of each trial; None leaves it to the recipe."""
    driver: dict[str, float]
    """Of the process that drives a trial: no core, and a place beside this one, where local folders and an MLflow store
    in a file are. Its workers are wherever Ray puts them."""


def find_places(study: Study) -> Places:
    """As many trials as the cluster has room for by its every resource, and no more than the budget allows."""
    offered, needed = offered_resources(), _most_needed(study)
    room = min((int(offered.get(name, 0) // amount) for name, amount in needed.items() if amount), default=1)
    at_once = max(1, min(room, study.budget.concurrency or room))
    cores = None
    if at_once > 1 and study.base_recipe.scaling.decode_cores is None:
        own = needed["CPU"] - 1  # all but the one decoder that was counted
        cores = max(1, int(offered.get("CPU", 0) / at_once - own))
    here = next(node for node in ray.nodes() if node["NodeID"] == ray.get_runtime_context().get_node_id())
    return Places(at_once, cores, {"cpu": 0, f"node:{here['NodeManagerAddress']}": 0.001})


def runs_at_once(study: Study) -> int:
    """How many trials a Ray that is started on this machine should have room for."""
    cores = os.cpu_count() or 1
    return study.budget.concurrency or max(1, math.floor(cores / max(1.0, _most_needed(study)["CPU"])))


def largest_recipes(study: Study) -> list[Recipe]:
    """Recipes of the space that differ in what they ask of a cluster."""
    if not any(name.startswith("scaling.") for name in study.space):
        return [study.base_recipe]
    points = corners(study.space, study.base_recipe.flat())
    recipes = (study.trial_recipe(parameters) for parameters in points)
    return list({recipe.scaling.model_dump_json(): recipe for recipe in recipes}.values())


def _most_needed(study: Study) -> dict[str, float]:
    needs = [resources_needed(recipe) for recipe in largest_recipes(study)]
    return {name: max(need.get(name, 0.0) for need in needs) for need in needs for name in need}
