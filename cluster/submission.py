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

from pipelines.credentials import has_credentials, without_credentials
from pipelines.places import anchored, endpoints, is_of_this_machine, mlflow_place, of_environment

if TYPE_CHECKING:
    from pipelines.recipe import Recipe

_FIELD = ["scaling.ray_address=auto"]
_OPTION = ["--ray-address", "auto"]
"""How a command is told to use the cluster that it runs on."""


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

    def check_places(self, environment: Mapping[str, str]) -> None:
        """Raises ValueError where it, or a variable that goes with it, names a place that the cluster does not see."""
        variables = {f"--env {name}": place for name, place in of_environment(environment).items()}
        if local := {**self.local, **_of_this_machine(variables)}:
            named = ", ".join(f"{name} {without_credentials(place)}" for name, place in local.items())
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
    from cluster.tune import with_run

    words = list(words)
    if words[:1] == ["clippy"]:
        words = words[1:]
    if not words:
        raise ValueError("COMMAND: say what the job runs, after --, as in: clippy cluster submit -- train shapes")
    options = parse(words)
    name = " ".join(with_run(words)[:2]).removesuffix(" run") if words[0] in ("data", "tune") else words[0]
    if name not in _JOBS:
        raise ValueError(f"COMMAND: clippy {' '.join(words[:2])} runs here; jobs are {', '.join(_JOBS)}")
    if getattr(options, "ray_address", None):
        raise ValueError("--ray-address: a job runs on the cluster that it is submitted to; leave it out")
    return _JOBS[name](words, options)


def _training(words: list[str], options: argparse.Namespace) -> Submission:
    from pipelines.recipe import load_recipe, recipe_files

    recipe = load_recipe(options.recipe, options.overrides)
    files = tuple(_inside(file) for file in recipe_files(options.recipe))
    fields = [*_absolute_fields(recipe), *_FIELD]
    return Submission(tuple(_with_fields(words, options, fields)), recipe, files, _local_places(recipe))


def _tuning(words: list[str], options: argparse.Namespace) -> Submission:
    from tuning.study import load_study, study_files

    base = load_study(options.study, options.overrides).base_recipe
    files = tuple(_inside(file) for file in study_files(options.study, options.overrides))
    fields = [*_absolute_fields(base), *_FIELD]
    return Submission(tuple(_with_fields(words, options, fields)), base, files, _local_places(base))


def _quickstart(words: list[str], options: argparse.Namespace) -> Submission:
    from cluster.quickstart import quickstart_recipe

    out = anchored(options.out)
    recipe = quickstart_recipe(out, options.overrides)
    words = _with_fields(words, options, [*_absolute_fields(recipe), *_FIELD])
    local = {"--out": options.out} if is_of_this_machine(out) else {}
    local |= {name: place for name, place in _local_places(recipe).items() if not place.startswith(f"{out}/")}
    return Submission((*words, "--out", out), recipe, (), local)  # the last --out counts


def _evaluating(words: list[str], options: argparse.Namespace) -> Submission:
    named = {"checkpoint": "CHECKPOINT", "data": "--data", "decoder": "--decoder", "out": "--out"}
    if options.checkpoint and not os.path.exists(options.checkpoint) and "://" not in options.checkpoint:
        del named["checkpoint"]  # a hub's name
    if mlflow_place(options.mlflow_uri):
        named["mlflow_uri"] = "--mlflow-uri"
    words, local = _anchored_arguments(words, options, named)
    return Submission((*words, *_OPTION), local=local)


def _importing(words: list[str], options: argparse.Namespace) -> Submission:
    from cluster.data import import_config

    config = import_config(options)  # what is wrong or a secret is refused here
    servers = endpoints(config.storage_options, "storage_options")
    servers |= endpoints(config.dest_storage.storage_options, "dest_storage.storage_options")
    words, local = _anchored_arguments(words, options, {"source": "SOURCE", "dest": "DEST"})
    return Submission((*words, *_OPTION), local=local | _of_this_machine(servers))


def _indexing(words: list[str], options: argparse.Namespace) -> Submission:
    """It needs no Ray."""
    from cluster.data import data_config

    config = data_config("clippy data index", options)
    named = endpoints(config.storage_options, "data.storage_options")
    if config.manifest:
        named["data.manifest"] = config.manifest
        words = _with_fields(words, options, [f"data.manifest={json.dumps(anchored(config.manifest))}"])
    words, local = _anchored_arguments(words, options, {"url": "URL"})
    return Submission(tuple(words), local=local | _of_this_machine(named))


_JOBS = {
    "train": _training,
    "tune": _tuning,
    "quickstart": _quickstart,
    "evaluate": _evaluating,
    "data import": _importing,
    "data index": _indexing,
}


def _anchored_arguments(
    words: list[str], options: argparse.Namespace, named: Mapping[str, str]
) -> tuple[list[str], dict[str, str]]:
    """The words with absolute paths, and the places of this machine among these arguments, by the name they go by.

    Raises ValueError for credentials in one.
    """
    given = {name: getattr(options, attribute) for attribute, name in named.items() if getattr(options, attribute)}
    for name, place in given.items():
        if has_credentials(place):
            raise ValueError(f"{name}: carries credentials, and Ray shows a job's command; pass them on with --env")
    local = _of_this_machine(given)
    for attribute, name in named.items():
        if name in local:
            words = _replaced(words, attribute, local[name], anchored(local[name]))
    return words, local


def _of_this_machine(places: Mapping[str, str]) -> dict[str, str]:
    return {name: place for name, place in places.items() if is_of_this_machine(place)}


def _local_places(recipe: Recipe) -> dict[str, str]:
    """What a training reads and writes that only this machine has; a relative path of weights may be in the package."""
    from cluster.reach import weights_here

    weights = {name: place for name, place in weights_here(recipe).items() if place.startswith(("/", "~"))}
    return _of_this_machine(recipe.places()) | weights


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
