"""A recipe: everything that decides a training run, as one strict YAML file. Imports neither torch nor ray."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from clippy.architecture import ModelConfig
from clippy.config import ConfigError, Section, merge, nearest, parse_mapping, read_text
from pipelines.places import anchored, endpoints, mlflow_place
from pipelines.sections import (
    CheckpointConfig,
    DataConfig,
    DatasetConfig,
    EvalConfig,
    HealthConfig,
    OptimConfig,
    ScalingConfig,
    StorageConfig,
    TrackingConfig,
    TrainConfig,
)


class Recipe(Section):
    """One training run from data to report; see ``clippy recipe show shapes``."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run and of its folder."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Decides initial weights, the order of samples and patch dropout."""
    model: ModelConfig
    data: DataConfig
    optim: OptimConfig
    train: TrainConfig
    checkpoint: CheckpointConfig = CheckpointConfig()
    health: HealthConfig = HealthConfig()
    eval: EvalConfig = EvalConfig()
    scaling: ScalingConfig = ScalingConfig()
    tracking: TrackingConfig = TrackingConfig()
    storage: StorageConfig = StorageConfig()

    @model_validator(mode="after")
    def _fields_fit_together(self) -> Recipe:
        self._check_batches()
        if self.eval.every is not None and self.eval.every % self.checkpoint.every:
            raise ValueError(
                f"eval.every: {self.eval.every} is not a multiple of checkpoint.every {self.checkpoint.every}; only "
                "checkpoints are validated"
            )
        if self.eval.every is not None and self.eval.benchmark is None:
            raise ValueError(f"eval.benchmark: with eval.every {self.eval.every}, name the benchmark to validate on")
        if self.eval.every is not None and self.eval.url is None:
            raise ValueError(f"eval.url: with eval.every {self.eval.every}, say where the benchmark's data lie")
        if self.optim.warmup_steps >= self.train.steps:
            raise ValueError(
                f"optim.warmup_steps: {self.optim.warmup_steps} must be below train.steps {self.train.steps}"
            )
        patch = self.model.image.arguments.get("patch_size")
        if isinstance(patch, int) and patch > 0 and self.model.image.image_size % patch:
            raise ValueError(
                f"model.image.image_size: {self.model.image.image_size} is not a multiple of the patch size {patch}"
            )
        return self

    @model_validator(mode="after")
    def _warm_up_ends(self) -> Recipe:
        if self.optim.warmup_samples and self.optim.warmup >= self.train.steps:
            raise ValueError(
                f"optim.warmup_samples: {self.optim.warmup_samples} are {self.optim.warmup} steps, which must be below "
                f"train.steps {self.train.steps}"
            )
        return self

    def _check_batches(self) -> None:
        """A global batch is a whole number of micro-batches, equally many for each of a fixed number of workers."""
        batch, micro, workers = self.optim.global_batch_size, self.train.micro_batch_size, self.scaling.max_workers
        if micro is None:
            step, rule = workers, f"is not divisible by scaling.num_workers {workers}"
        elif self.scaling.min_workers == workers:
            step, rule = micro * workers, f"is not divisible by {workers} workers times train.micro_batch_size {micro}"
        else:
            step, rule = micro, f"is not divisible by train.micro_batch_size {micro}"
        if batch % step:
            below = batch - batch % step
            raise ValueError(
                f"optim.global_batch_size: {batch} {rule}; use {f'{below} or ' if below else ''}{below + step}"
            )
        if micro is not None and batch // micro < workers:
            raise ValueError(
                f"optim.global_batch_size: {batch} is {batch // micro} micro-batches of train.micro_batch_size "
                f"{micro}, fewer than the {workers} workers; use {micro * workers}, or fewer workers"
            )

    @property
    def micro_batch_size(self) -> int:
        """Pairs of one pass through the towers: the unit of random draws, whatever the number of workers."""
        return self.train.micro_batch_size or self.optim.global_batch_size // self.scaling.max_workers

    @property
    def run_url(self) -> str:
        """The run's folder."""
        return f"{self.storage.url.rstrip('/')}/{self.name}"

    def places(self) -> dict[str, str]:
        """What a training reads and writes, by the field that names it: folders, files, URLs and servers."""
        named: dict[str, str | None] = {"storage.url": self.storage.url}
        named |= endpoints(self.storage.storage_options, "storage.storage_options")
        sections: dict[str, DataConfig | DatasetConfig] = {"data": self.data}
        sections |= {f"data.sources.{number}": source for number, source in enumerate(self.data.sources)}
        for section, data in sections.items():
            named |= {f"{section}.url": data.url, f"{section}.manifest": data.manifest}
            named |= endpoints(data.storage_options, f"{section}.storage_options")
        if self.eval.every:
            named["eval.url"] = self.eval.url
            named |= endpoints(self.eval.storage_options, "eval.storage_options")
        if self.tracking.enabled:
            named["tracking.uri"] = mlflow_place(self.tracking.uri)
        return {name: place for name, place in named.items() if place}

    def absolute(self) -> Recipe:
        """The same recipe with folders of this machine as absolute paths: Ray's workers run in folders of their own."""
        recipe, places = self, self.places()
        if self.eval.url:  # of a run whose checkpoints are evaluated afterwards, too
            places["eval.url"] = self.eval.url
        for name, place in places.items():
            if (path := anchored(place)) != place:
                recipe = _replaced(recipe, name.split("."), path)
        return recipe

    def differences(self, other: Recipe) -> list[str]:
        """'field: here -> there' for each field that decides the result and differs between the two."""
        mine, theirs = self.flat(), other.flat()
        return [
            f"{name}: {mine.get(name)!r} -> {theirs.get(name)!r}"
            for name in {**mine, **theirs}
            if mine.get(name) != theirs.get(name) and not name.startswith(_FREE)
        ]


def _replaced(section: Any, path: Sequence[str], value: str) -> Any:
    """The section, or list of sections, with another value for the field that ``path`` leads to."""
    if not path:
        return value
    name, *rest = path
    if isinstance(section, tuple):
        return tuple(_replaced(one, rest, value) if i == int(name) else one for i, one in enumerate(section))
    return section.model_copy(update={name: _replaced(getattr(section, name), rest, value)})


_FREE = (
    "scaling.",
    "tracking.",
    "storage.",
    "eval.",
    "data.prefetch_batches",
    "data.storage_options",
    "data.object_store_gib",
    "data.max_invalid_fraction",
    "train.activation_checkpointing",
    "train.compile",
    "train.micro_batch_size",
    "train.log_every",
    "train.profile_steps",
    "train.ledger",
    "checkpoint.",
    "health.",
)
"""Fields that may differ when a run goes on: they change where and how it runs and what stops it, not its result."""


def recipe_names() -> list[str]:
    """Names of the recipes that ship with the package."""
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in files("pipelines.recipes").iterdir()
        if entry.name.endswith(".yaml")
    )


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of that name or file, laid over the one that its ``base`` names, ``a.b=c`` overrides applied.

    Raises ConfigError listing every problem at once.
    """
    source = name_or_path if name_or_path in recipe_names() else str(Path(name_or_path))
    return Recipe.build(source, recipe_values(name_or_path), overrides)


def recipe_values(name_or_path: str, derived: tuple[str, ...] = ()) -> dict[str, Any]:
    """The fields of a recipe and of its bases; ``derived`` are those that build on it."""
    values = parse_mapping(name_or_path, _text(name_or_path))
    base = values.pop("base", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise ConfigError(name_or_path, [f"base: must be the name or file of a recipe (got {base!r})"])
    base = beside(name_or_path, base)
    if base in (name_or_path, *derived):
        raise ConfigError(name_or_path, [f"base: {base} builds on this recipe itself"])
    return merge(recipe_values(base, (name_or_path, *derived)), values)


def recipe_files(name_or_path: str) -> list[str]:
    """The files that a recipe is read from: its own and those of its bases, but for what ships with the package."""
    if name_or_path in recipe_names():
        return []
    base = parse_mapping(name_or_path, _text(name_or_path)).get("base")
    return [name_or_path, *(recipe_files(beside(name_or_path, base)) if base else [])]


def beside(source: str, base: str) -> str:
    """The recipe that ``base`` names in the file ``source``: one that ships, or a file in the same folder."""
    is_file = base not in recipe_names() and Path(base).suffix in (".yaml", ".yml")
    return str(Path(source).parent / base) if is_file else base


def _text(name_or_path: str) -> str:
    if name_or_path in recipe_names():
        return files("pipelines.recipes").joinpath(f"{name_or_path}.yaml").read_text(encoding="utf-8")
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml") and not path.exists():
        known = recipe_names()
        raise ConfigError(
            name_or_path,
            [f"neither a recipe's name (see: clippy recipe list) nor a YAML file{nearest(name_or_path, known)}"],
        )
    return read_text(path)
