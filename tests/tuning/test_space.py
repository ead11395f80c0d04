"""Points of a space: inside it, where its conditions hold, and each a valid recipe."""

from __future__ import annotations

import math
from itertools import islice
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.recipe import load_recipe
from tuning.space import Domain, Parameters, Space, applies, corners, grid_points, random_points
from tuning.study import Study, nested

BASE = load_recipe("shapes", ["eval.every=100"])
LEAVES = BASE.flat()
POOLINGS = ["max", "mean", "cls", "top_k", "attention"]


@st.composite
def spaces(draw: st.DrawFn, ranges: bool = True) -> Space:
    """Spaces over the shapes recipe, with conditions on other fields of the space and on fields of the base."""

    def pair(low: float, high: float, kind: str) -> dict[str, Any]:
        numbers = st.floats(low, high, allow_subnormal=False)
        ends = draw(st.tuples(numbers, numbers).filter(lambda ends: ends[0] < ends[1]))
        return {kind: list(ends)} if ranges else {"choice": list(ends)}

    whole = draw(st.lists(st.integers(1, 64), min_size=2, max_size=2, unique=True).map(sorted))
    fields: dict[str, Any] = {
        "model.image.pooling": {"choice": draw(st.lists(st.sampled_from(POOLINGS), min_size=1, unique=True))},
        "model.image.top_k": {"integer" if ranges else "grid": whole, "when": {"model.image.pooling": "top_k"}},
        "model.image.patch_dropout": {
            **pair(0, 0.9, "uniform"),
            "when": {"model.image.pooling": ["max", "mean"], "model.image.frozen": False},
        },
        "optim.learning_rate": pair(1e-6, 1e-1, "log_uniform"),
        "optim.weight_decay": {**pair(0, 1, "uniform"), "when": {"optim.name": "lamb"}},
        "seed": {"grid": draw(st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True))},
    }
    chosen = draw(st.sets(st.sampled_from(list(fields)), min_size=1))
    return {name: Domain(**fields[name]) for name in fields if name in chosen}


def check(space: Space, point: Parameters) -> None:
    """Each field is there exactly where its condition holds, inside its domain, and in the recipe as it is."""
    for name, domain in space.items():
        assert (name in point) == applies(domain, LEAVES, point)
        assert name not in point or domain.holds(point[name])
    assert "optim.weight_decay" not in point  # the base's optimizer is no lamb
    study = Study(
        name="s", base=BASE.model_dump(mode="json"), space=dict(space), metrics=METRICS, search="random", budget=BUDGET
    )
    recipe = study.trial_recipe(point).flat()
    assert {name: recipe[name] for name in point} == point
    assert {name: value for name, value in recipe.items() if name not in point} == {
        name: value for name, value in LEAVES.items() if name not in point
    }


METRICS: Any = ({"metric": "loss", "direction": "min"},)
BUDGET: Any = {"trials": 5}


@settings(max_examples=40, deadline=None)
@given(spaces(), st.integers(0, 3))
def test_random_points_are_inside_the_space_and_come_again(space: Space, seed: int) -> None:
    points = list(islice(random_points(space, LEAVES, seed), 12))
    for point in points:
        check(space, point)
    assert points == list(islice(random_points(space, LEAVES, seed), 12))
    if "optim.learning_rate" in space and "seed" in space:  # what is drawn is combined with every value of the grid
        seeds = len(space["seed"].ends)
        for first in range(0, len(points) // seeds * seeds, seeds):
            together = points[first : first + seeds]
            assert len({point["optim.learning_rate"] for point in together}) == 1
            assert [point["seed"] for point in together] == space["seed"].grid


@settings(max_examples=40, deadline=None)
@given(spaces(ranges=False))
def test_a_grid_has_every_point_once(space: Space) -> None:
    points = list(grid_points(space, LEAVES))
    for point in points:
        check(space, point)
    assert all(point not in points[:i] for i, point in enumerate(points))
    poolings = space["model.image.pooling"].ends if "model.image.pooling" in space else ["max"]
    count = 0
    for pooling in poolings:
        sizes = [
            len(domain.ends)
            for name, domain in space.items()
            if name in ("optim.learning_rate", "seed")
            or (name == "model.image.top_k" and pooling == "top_k")
            or (name == "model.image.patch_dropout" and pooling in ("max", "mean"))
        ]
        count += math.prod(sizes)
    assert len(points) == count


@settings(max_examples=40, deadline=None)
@given(spaces())
def test_corners_have_every_choice_and_both_ends_of_every_range(space: Space) -> None:
    points = list(corners(space, LEAVES))
    for point in points:
        check(space, point)
    few = list(corners(space, LEAVES, most=1))  # drawn where there are too many
    assert all(point in points for point in few)
    for name in ("model.image.pooling", "optim.learning_rate", "seed"):
        if name in space:
            assert {point[name] for point in points} == set(space[name].ends)


def test_a_finite_space_ends() -> None:
    space = {"model.image.pooling": Domain(choice=["max", "cls"]), "seed": Domain(choice=[0, 1])}
    assert len(list(random_points(space, LEAVES, 0))) == 4


def test_nested_names() -> None:
    assert nested({"a.b": 1, "a.c.d": 2, "e": 3}) == {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
