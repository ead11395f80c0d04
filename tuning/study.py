"""A study: a base recipe, a space over its fields, and how to search it, as one strict YAML file.

Imports neither torch nor ray, so that a wrong study is refused at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from clippy.config import ConfigError, Section, merge, nearest, parse_mapping, read_text
from pipelines.recipe import Recipe, beside, recipe_files, recipe_values
from tuning.space import KINDS, Domain, Parameters, corners, grid_points, random_points


class Objective(Section):
    """A number that trials are compared by: one of those that the recipe's benchmark comes to, or ``loss``."""

    metric: str = Field(min_length=1)
    """As in the recipe's ``eval.best``, e.g. ``segmentation/model/mIoU``."""
    direction: Literal["max", "min"] = "max"
    """Whether more or less of it is better."""


class SchedulerConfig(Section):
    """Which trials are stopped early."""

    name: Literal["asha", "none"] = "none"
    """``asha`` (arXiv 1810.05934) stops a trial that is not among the best ``1 / reduction_factor`` of those that came
    as far, by the first metric."""
    grace_steps: int | None = Field(None, gt=0)
    """Steps that every trial is given, where the first of them are stopped; null is the recipe's ``eval.every``."""
    reduction_factor: float = Field(3.0, gt=1)
    """Trials are compared at the grace steps times this, times its square, and so on."""


class BudgetConfig(Section):
    """How much a study may take. How many steps a trial takes is the recipe's ``train.steps``."""

    trials: int | None = Field(None, gt=0)
    """Trials in all; null is every point of a grid."""
    minutes: float | None = Field(None, gt=0)
    """Time of the study in all its starts. When it is over, trials that run are stopped, and no other starts."""
    concurrency: int | None = Field(None, gt=0)
    """Most trials at once; null is as many as the cluster has room for."""


class Study(Section):
    """One search over recipes; see ``clippy tune show shapes-pooling``."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the study and of its folder, which lies where the base recipe keeps its runs (``storage.url``)."""
    about: str = ""
    """What it is for, in a sentence."""
    base: str | dict[str, Any]
    """A recipe's name, file, or fields."""
    overrides: dict[str, Any] = Field(default_factory=dict)
    """Fields laid over the base."""
    space: dict[str, Domain] = Field(min_length=1)
    """What varies: recipe fields by dotted name. A condition names fields that come before it."""
    metrics: tuple[Objective, ...] = Field(min_length=1)
    """What is best. The first decides where there can be only one: for ``asha``, and for the best trial."""
    search: Literal["random", "grid", "tpe"] = "random"
    """``grid`` takes every combination; ``tpe`` learns from earlier trials, and from several metrics at once."""
    search_seed: int = Field(0, ge=0)
    """Of what the search draws at random; the recipe's own ``seed`` may be a field of the space."""
    scheduler: SchedulerConfig = SchedulerConfig()
    budget: BudgetConfig = BudgetConfig()

    @field_validator("space", mode="before")
    @classmethod
    def _dotted(cls, space: Any) -> Any:
        return _dotted_space(space) if isinstance(space, Mapping) else space

    @model_validator(mode="after")
    def _search_fits_space(self) -> Study:
        ranges = [f"{name} is {domain.kind}" for name, domain in self.space.items() if domain.values is None]
        grids = [name for name, domain in self.space.items() if domain.grid is not None]
        if self.search == "grid" and ranges:
            raise ValueError(
                f"search: grid takes every value, and space.{ranges[0]}; make it a grid, or search=random or tpe"
            )
        if self.search == "tpe" and grids:
            raise ValueError(
                f"search: tpe chooses one value at a time, and space.{grids[0]} is a grid; make it a choice"
            )
        if self.search != "grid" and self.budget.trials is None:
            raise ValueError(f"budget.trials: say how many trials a {self.search} search takes")
        names = [objective.metric for objective in self.metrics]
        if len(set(names)) < len(names):
            raise ValueError(f"metrics: names {max(names, key=names.count)} twice")
        return self

    @property
    def base_recipe(self) -> Recipe:
        """The base, of a study that ``load_study`` has resolved."""
        return Recipe.build(f"{self.name}: base", {**self._base_fields(), **self.overrides})

    @property
    def folder_url(self) -> str:
        """Where the study lies."""
        return f"{self.base_recipe.storage.url.rstrip('/')}/{self.name}"

    def trial_recipe(self, parameters: Parameters, changes: Mapping[str, Any] | None = None) -> Recipe:
        """The base with these fields set, and with ``changes``, which are nested. Raises ConfigError."""
        values = merge(merge(self._base_fields(), nested(parameters)), changes or {})
        return Recipe.build(f"{self.name}: a trial", values)

    def points(self) -> Iterator[Parameters]:
        """The points of a grid or random search, in order; the same in each start."""
        base = self.base_recipe.flat()
        if self.search == "grid":
            return islice(grid_points(self.space, base), self.budget.trials)
        return islice(random_points(self.space, base, self.search_seed), self.budget.trials)

    def differences(self, other: Study) -> list[str]:
        """'field: here -> there' for each field that decides what the trials are and differs between the two."""
        ours, theirs = (study.model_dump(mode="json", exclude=_FREE) for study in (self, other))
        found = [f"{name}: {ours[name]!r} -> {theirs[name]!r}" for name in ours if ours[name] != theirs[name]]
        mine, its = self.base_recipe, other.base_recipe
        found += [f"base.{difference}" for difference in mine.differences(its)]
        evaluated = {name: (mine.flat().get(name), its.flat().get(name)) for name in {**mine.flat(), **its.flat()}}
        return found + [
            f"base.{name}: {here!r} -> {there!r}"
            for name, (here, there) in evaluated.items()
            if here != there and name.startswith(("eval.benchmark", "eval.every", "eval.protocol"))
        ]

    def _base_fields(self) -> dict[str, Any]:
        if isinstance(self.base, str):
            raise ValueError(f"base: {self.base} is not resolved; a study comes from load_study")
        return self.base


_FREE = {"about", "base", "overrides", "budget"}
"""Fields that may differ when a study goes on; what the base comes to is compared by itself."""
_FIXED = ("name", "storage", "tracking", "scaling.ray_address", "scaling.decode_cores", "eval")
"""Recipe fields that are the same for all trials of a study."""


def study_names() -> list[str]:
    """Names of the studies that ship with the package."""
    entries = files("tuning.studies").iterdir()
    names = [entry.name.removesuffix(".yaml") for entry in entries if entry.name.endswith(".yaml")]
    return sorted(names, key=lambda name: (name.rstrip("0123456789"), len(name), name))  # table9 before table10


def load_study(name_or_path: str, overrides: Sequence[str] = ()) -> Study:
    """The study of that name or file, its base recipe resolved, each ``a.b=c`` set in the study or in its base.

    Every point of the space makes a valid recipe. Raises ConfigError listing every problem at once.
    """
    study, own = _as_told(name_or_path, overrides)
    of_base = [override for override in overrides if override not in own]
    base = Recipe.build(
        f"{name_or_path}: base", merge(_base_values(study.base, name_or_path), study.overrides), of_base
    )
    study = study.model_copy(update={"base": base.model_dump(mode="json"), "overrides": {}})
    told = dict.fromkeys(override.partition("=")[0] for override in of_base)
    problems = [
        f"{name}: the study searches this field; to fix it, set space.{name}.grid=[...] to one value"
        for name in told
        if name in study.space and not study.space[name].when
    ]
    problems = problems or list(_problems(study, base))
    if problems:
        raise ConfigError(name_or_path, problems)
    return study


def study_files(name_or_path: str, overrides: Sequence[str] = ()) -> list[str]:
    """The files that a study is read from, and its base recipe, but for what ships with the package."""
    base: Any = _as_told(name_or_path, overrides)[0].base
    while isinstance(base, dict):
        base = base.get("base")
    own = [] if name_or_path in study_names() else [name_or_path]
    return own + (recipe_files(_beside(name_or_path, base)) if base else [])


def nested(parameters: Parameters) -> dict[str, Any]:
    """``{'a.b': 1}`` as ``{'a': {'b': 1}}``."""
    values: dict[str, Any] = {}
    for name, value in parameters.items():
        for part in reversed(name.split(".")):
            value = {part: value}
        values = merge(values, value)
    return values


def shown(parameters: Parameters) -> str:
    """'model.image.pooling=max, optim.learning_rate=0.00123'."""
    return ", ".join(f"{name}={shown_value(value)}" for name, value in parameters.items())


def shown_value(value: Any) -> str:
    """A number in at most four figures; anything else as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _problems(study: Study, base: Recipe) -> Iterator[str]:
    """Why the study cannot be run, a sentence each."""
    leaves = base.flat()
    found = [*_wrong_names(study), *_wrong_conditions(study.space, leaves)]
    found = found or list(dict.fromkeys(_wrong_points(study, leaves)))
    yield from found[:10]


def _wrong_names(study: Study) -> Iterator[str]:
    for name in study.space:
        fixed = next((field for field in _FIXED if name == field or name.startswith(f"{field}.")), None)
        if fixed:
            yield f"space.{name}: {fixed} is the same for all trials of a study; set it in overrides"


def _wrong_conditions(space: Mapping[str, Domain], leaves: Mapping[str, Any]) -> Iterator[str]:
    names = list(space)
    for place, (name, domain) in enumerate(space.items()):
        for other, wanted in domain.when.items():
            where = f"space.{name}.when.{other}"
            if other in names[place:]:
                yield f"{where}: comes later in the space; put it before {name}"
            elif other not in names and other not in leaves:
                yield f"{where}: no such field{nearest(other, [*names, *leaves])}"
            else:
                possible = [leaves[other]] if other in leaves else []
                yield from _impossible(where, wanted, space.get(other), possible)


def _impossible(where: str, wanted: Any, domain: Domain | None, possible: list[Any]) -> Iterator[str]:
    """Whatever a condition waits for that can never be."""
    values = wanted if isinstance(wanted, list) and wanted not in possible else [wanted]
    for value in values:
        if value not in possible and not (domain and domain.holds(value)):
            told = f"one of {', '.join(map(str, domain.ends))}" if domain else ", ".join(map(str, possible))
            yield f"{where}: it is never {value!r}; it is {told}"


def _wrong_points(study: Study, leaves: Mapping[str, Any]) -> Iterator[str]:
    for parameters in corners(study.space, leaves):
        try:
            recipe = study.trial_recipe(parameters)
        except ConfigError as error:
            for problem in error.problems:
                yield _of_point(problem.replace(" (from the file)", ""), parameters)
            continue
        yield from _not_measured(study, recipe)


def _of_point(problem: str, parameters: Parameters) -> str:
    """A problem of a point's recipe as one of the study's."""
    if any(problem.startswith((f"{name}:", f"{name}.")) for name in parameters):
        return f"space.{problem}"
    told = {name: value for name, value in parameters.items() if name in problem} or parameters
    return f"space: {problem} (where {shown(told)})"


def _not_measured(study: Study, recipe: Recipe) -> Iterator[str]:
    """Trials are compared by their validations, and at the same steps."""
    every, steps = recipe.eval.every, recipe.train.steps
    if every is None:
        yield "base.eval.every: trials are compared by what they come to on the way; set it, e.g. eval.every=100"
    elif steps % every:
        yield (
            f"base.eval.every: {every} does not divide train.steps {steps}, so the last step would not be measured; "
            f"use {_near_divisor(steps, every)}"
        )
    grace = study.scheduler.grace_steps
    if study.scheduler.name == "asha" and grace is not None and grace > steps:
        yield f"scheduler.grace_steps: {grace} is more than train.steps {steps}, so no trial would ever be stopped"


def _near_divisor(steps: int, every: int) -> int:
    return min((n for n in range(1, steps + 1) if steps % n == 0), key=lambda n: abs(n - every))


def _base_values(base: str | dict[str, Any], source: str) -> dict[str, Any]:
    """The fields of a base given by name, by file (beside the study's) or in whole."""
    if isinstance(base, dict):
        below = base.get("base")
        return base if below is None else merge(_base_values(below, source), {k: base[k] for k in base if k != "base"})
    return recipe_values(_beside(source, base))


def _as_told(name_or_path: str, overrides: Sequence[str]) -> tuple[Study, list[str]]:
    """The study, its base unresolved, and those of the overrides that are not the base's."""
    own = [override for override in overrides if override.partition("=")[0].partition(".")[0] in Study.model_fields]
    return Study.build(name_or_path, parse_mapping(name_or_path, _text(name_or_path)), own), own


def _beside(source: str, base: str) -> str:
    return base if source in study_names() else beside(source, base)


def _dotted_space(space: Mapping[str, Any]) -> dict[str, Any]:
    """Nested names as dotted ones; of two entries for a field, as from file and command line, the later changes."""
    dotted: dict[str, Any] = {}

    def walk(prefix: str, node: Mapping[str, Any]) -> None:
        for part, value in node.items():
            name = f"{prefix}{part}"
            if not isinstance(value, Mapping):
                dotted[name] = value
            elif value and not set(value) & {*KINDS, "when"} and all(isinstance(v, Mapping) for v in value.values()):
                walk(f"{name}.", value)
            else:
                before = dotted.get(name, {})
                kept = {} if set(value) & set(KINDS) else before
                dotted[name] = {**{k: v for k, v in before.items() if k == "when"}, **kept, **value}

    walk("", space)
    return dotted


def _text(name_or_path: str) -> str:
    if name_or_path in study_names():
        return files("tuning.studies").joinpath(f"{name_or_path}.yaml").read_text(encoding="utf-8")
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml") and not path.is_file():
        known = study_names()
        raise ConfigError(
            name_or_path,
            [f"neither a study's name (see: clippy tune list) nor a YAML file{nearest(name_or_path, known)}"],
        )
    return read_text(path)
