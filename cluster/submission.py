"""The command that a job runs: what stands after ``--``, checked here, and as the cluster is told it."""

from __future__ import annotations

import argparse
import io
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.places import anchored, is_of_this_machine

if TYPE_CHECKING:
    from pipelines.recipe import Recipe

_ON_THE_CLUSTER = ["scaling.ray_address=auto"]
_HOW_TOLD = {
    "train": "field",
    "tune": "field",
    "quickstart": "field",
    "evaluate": "option",
    "data import": "option",
    "data index": "nothing",  # needs no Ray
}
"""By command, how it is told to use the cluster that it runs on: a recipe's field, or ``--ray-address``."""
_PLACES = {
    "evaluate": {
        **{"checkpoint": "CHECKPOINT", "data": "--data", "decoder": "--decoder", "out": "--out"},
        "mlflow_uri": "--mlflow-uri",
    },
    "data import": {"source": "SOURCE", "dest": "DEST"},
    "data index": {"url": "URL"},
}
"""By command, the arguments that name where it reads and writes."""


@dataclass(frozen=True)
class Submission:
    """A command for the cluster."""

    words: tuple[str, ...]
    """As the cluster runs them after ``clippy``."""
    recipe: Recipe | None = None
    """What it trains by, if it trains."""
    files: tuple[str, ...] = ()
    """What it reads of this folder."""
    local: Mapping[str, str] = field(default_factory=dict)
    """Places that only this machine has, by the field or option that names them."""

    def check_places(self) -> None:
        """Raises ValueError where it names a place that the cluster does not see."""
        if self.local:
            named = ", ".join(f"{name} {place}" for name, place in self.local.items())
            raise ValueError(
                f"only this machine has {named}; name places that every node of the cluster sees, such as "
                "s3://bucket/folder and an MLflow server's URL, or add --allow-local-paths where the nodes share "
                "these folders"
            )


def read_command(words: Sequence[str]) -> Submission:
    """The command of these words, places of this machine made absolute, told to use the cluster that it runs on.

    Raises ValueError for what cannot be submitted or is wrong by itself.
    """
    from cluster.cli import parse

    words = list(words)
    if words[:1] == ["clippy"]:
        words = words[1:]
    if not words:
        raise ValueError("COMMAND: say what the job runs, after --, as in: clippy cluster submit -- train shapes")
    options = parse(words)
    name = " ".join(words[:2]) if words[0] == "data" else words[0]
    how = _HOW_TOLD.get(name)
    if how is None or (how == "field" and not hasattr(options, "overrides")):
        raise ValueError(f"COMMAND: clippy {' '.join(words[:2])} runs here; jobs are {', '.join(_HOW_TOLD)}")
    if getattr(options, "ray_address", None):
        raise ValueError("--ray-address: a job runs on the cluster that it is submitted to; leave it out")
    if name == "train":
        return _training(words, options)
    if name == "quickstart":
        return _quickstart(words, options)
    if name == "tune":
        return _tuning(words, options)
    told = ["--ray-address", "auto"] if how == "option" else []
    return _other(words, options, _PLACES[name], told)


def _training(words: list[str], options: argparse.Namespace) -> Submission:
    from pipelines.recipe import load_recipe, recipe_names

    recipe = load_recipe(options.recipe, options.overrides)
    files = () if options.recipe in recipe_names() else (_inside(options.recipe),)
    fields = [*_absolute_fields(recipe), *_ON_THE_CLUSTER]
    return Submission(tuple(_with_fields(words, options, fields)), recipe, files, _local_places(recipe))


def _tuning(words: list[str], options: argparse.Namespace) -> Submission:
    from tuning.study import load_study

    base = load_study(options.study, options.overrides).base_recipe
    files = (_inside(options.study),) if Path(options.study).suffix in (".yaml", ".yml") else ()
    fields = [*_absolute_fields(base), *_ON_THE_CLUSTER]
    return Submission(tuple(_with_fields(words, options, fields)), base, files, _local_places(base))


def _quickstart(words: list[str], options: argparse.Namespace) -> Submission:
    from cluster.quickstart import quickstart_recipe

    out = anchored(options.out)
    recipe = quickstart_recipe(out, options.overrides)
    told = [
        *_with_fields(words, options, [*_absolute_fields(recipe), *_ON_THE_CLUSTER]),
        "--out",
        out,
    ]  # the last counts
    local = {"--out": options.out} if is_of_this_machine(out) else {}
    local |= {name: place for name, place in _local_places(recipe).items() if not place.startswith(f"{out}/")}
    return Submission(tuple(told), recipe, (), local)


def _other(words: list[str], options: argparse.Namespace, named: Mapping[str, str], told: list[str]) -> Submission:
    local = {}
    for attribute, name in named.items():
        place = getattr(options, attribute)
        is_hub_name = name == "CHECKPOINT" and place and not os.path.exists(place)
        if place and is_of_this_machine(place) and not is_hub_name:
            local[name] = place
            words = _replaced(words, attribute, place, anchored(place))
    return Submission((*words, *told), None, (), local)


def _local_places(recipe: Recipe) -> dict[str, str]:
    """What a training reads and writes that only this machine has; a relative path of weights may be in the package."""
    from cluster.reach import weights_here

    weights = {name: place for name, place in weights_here(recipe).items() if place.startswith(("/", "~"))}
    return {name: place for name, place in recipe.places().items() if is_of_this_machine(place)} | weights


def _absolute_fields(recipe: Recipe) -> list[str]:
    """Overrides that say in full which folders of this machine are meant: a job runs in a folder of its own."""
    before, after = recipe.model_dump(mode="json"), recipe.absolute().model_dump(mode="json")
    return [
        f"{section}.{name}={json.dumps(value, ensure_ascii=False)}"
        for section in ("data", "eval", "tracking", "storage")
        for name, value in after[section].items()
        if value != before[section][name]
    ]


def _with_fields(words: list[str], options: argparse.Namespace, fields: list[str]) -> list[str]:
    """The words with further overrides after those that are there, where argparse takes them."""
    if options.overrides:
        at = len(words) - words[::-1].index(options.overrides[-1])
    else:
        named = next((getattr(options, name) for name in ("recipe", "study") if hasattr(options, name)), None)
        at = words.index(named, 1) + 1 if named else 1
    return [*words[:at], *fields, *words[at:]]


def _replaced(words: list[str], attribute: str, before: str, after: str) -> list[str]:
    """The words with another value for an argument; the parser tells it from other words that are alike."""
    from cluster.cli import parse

    for at, word in enumerate(words):
        if word == before or word.endswith(f"={before}"):
            changed = [*words[:at], word.removesuffix(before) + after, *words[at + 1 :]]
            with suppress(SystemExit), redirect_stderr(io.StringIO()):
                if getattr(parse(changed), attribute) == after:
                    return changed
    return words


def _inside(file: str) -> str:
    """The file's path in this folder. Raises ValueError where it lies elsewhere."""
    path, here = Path(file).expanduser().absolute(), Path.cwd()
    if Path(file).expanduser().is_absolute() or not path.resolve().is_relative_to(here.resolve()):
        raise ValueError(
            f"RECIPE: {file}: a job gets the files of this folder, {here}; name the recipe by its path in it"
        )
    return Path(os.path.normpath(file)).as_posix()
