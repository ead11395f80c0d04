"""What run folders tell of their runs: how far each came, what it keeps, how it goes on. Needs neither torch nor Ray.

A list of hundreds of runs reads of each its summary or recipe, the end of ``metrics.jsonl``, and which files there are.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow.fs as pafs

from clippy.config import ConfigError
from pipelines import validation
from pipelines.checkpoints import STATE_FILE, WRITING, CheckpointError, local_folder, verify
from pipelines.recipe import Recipe
from pipelines.run_folder import CHECKPOINTS, METRICS_FILE, RECIPE_FILE, RUN_FILE, SUMMARY_FILE, RunFolder
from pipelines.storage import Location, locate

_CHECKPOINT_NAME = re.compile(r"step-(\d+)")

QUIET_SECONDS = 300
"""A run of which nothing changed for so long does not seem to be running, unless it speaks more seldom."""
_TAIL_BYTES = 128 * 1024
_READERS = 16
_MAIN_FIELDS = (
    *("model.image.name", "model.image.image_size", "model.image.pooling", "model.text.tokenizer", "seed"),
    *(
        "optim.global_batch_size",
        "optim.learning_rate",
        "train.steps",
        "train.precision",
        "train.micro_batch_size",
        "checkpoint.every",
    ),
    *("scaling.num_workers", "scaling.use_gpu"),
)


@dataclass(frozen=True)
class Checkpoint:
    """A folder of ``checkpoints/``."""

    name: str
    step: int | None
    """None for what a kill left of a checkpoint that was being written or removed."""
    bytes: int
    changed: float | None
    """Seconds since 1970, as all times here; None where the storage does not tell."""
    files: frozenset[str]


@dataclass(frozen=True)
class Run:
    """A run in a few facts."""

    location: Location
    status: str
    """'finished', 'stopped' by a person, 'running' if its files changed lately, else 'unfinished'."""
    step: int
    steps: int | None
    """Of the whole run; None where the recipe cannot be read."""
    loss: float | None
    images_per_second: float | None
    """Of the last log line."""
    checkpoints: tuple[Checkpoint, ...]
    """Whole ones, oldest first."""
    leftovers: tuple[Checkpoint, ...]
    """Half-written or half-removed ones."""
    changed: float | None

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.location.path.rstrip("/").rpartition("/")[2]

    @property
    def checkpoint_bytes(self) -> int:
        """Size of all whole checkpoints."""
        return sum(checkpoint.bytes for checkpoint in self.checkpoints)

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        values = {name: value for name, value in self.__dict__.items() if name not in ("location", "leftovers")}
        return {
            "name": self.name,
            "run": self.location.url,
            **values,
            "checkpoints": [_plain(checkpoint) for checkpoint in self.checkpoints],
            "leftovers": [_plain(checkpoint) for checkpoint in self.leftovers],
            "checkpoint_bytes": self.checkpoint_bytes,
        }


def find_runs(place: Location) -> list[Run]:
    """The run that lies at ``place``, or all runs directly inside, by name. Raises ValueError if nothing is there."""
    run = read_run(place)
    if run:
        return [run]
    entries = place.list()
    if not entries and not place.exists():
        raise ValueError(f"{place.url}: there is no such folder; name a run, or the storage.url in which runs lie")
    folders = [place / info.base_name for info in entries if info.type == pafs.FileType.Directory]
    with ThreadPoolExecutor(_READERS) as readers:  # each waits on the storage most of the time
        return [run for run in readers.map(read_run, folders) if run]


def read_run(location: Location) -> Run | None:
    """What the folder tells; None if no run lies there."""
    files = {info.base_name: info for info in location.list()}
    if RECIPE_FILE not in files:
        return None
    folder = RunFolder(location)
    summary = folder.read_json(SUMMARY_FILE) if SUMMARY_FILE in files else {}
    records = _last_records(location / METRICS_FILE, files[METRICS_FILE].size) if METRICS_FILE in files else []
    found = _checkpoints(location / CHECKPOINTS)
    whole = tuple(sorted((c for c in found if c.step is not None), key=lambda c: c.step or 0))
    step = max([r["step"] for r in records[-1:]] + [c.step or 0 for c in whole[-1:]], default=0)
    times = [_changed(files[name]) for name in (RECIPE_FILE, METRICS_FILE) if name in files]
    changed = _latest([*times, *(checkpoint.changed for checkpoint in found)])
    speed = next((r["images_per_second"] for r in reversed(records) if r.get("images_per_second")), None)
    status, steps = summary.get("status", "unfinished"), summary.get("steps")
    if summary.get("step", 0) < step or not summary:  # no summary of its newest step: still going on, or killed
        recipe = _recipe(folder)
        status, steps = "unfinished", recipe.train.steps if recipe else None
        if steps and whole and whole[-1].step == steps:  # trained without Ray, or its driver was killed at the end
            status = "finished"
        elif changed is not None and time.time() - changed < _quiet_seconds(recipe, location, speed):
            status = "running"
    loss = records[-1].get("loss") if records else None
    return Run(
        location,
        status,
        step,
        steps,
        _finite(loss),
        speed,
        whole,
        tuple(c for c in found if c.step is None),
        changed,
    )


def describe_run(run: Run, checked: bool = False) -> dict[str, Any]:
    """All that ``clippy runs show`` tells; ``checked`` reads each checkpoint whole and compares checksums."""
    folder = RunFolder(run.location)
    recipe, summary, known = folder.read_recipe(), folder.read_json(SUMMARY_FILE), folder.read_json(RUN_FILE)
    records = folder.read_metrics()
    flat = recipe.flat()
    last: dict[str, Any] = next((record for record in reversed(records) if "invalid_rows" in record), {})
    values = run.as_dict()
    if checked:
        for checkpoint in values["checkpoints"]:
            checkpoint["damage"] = _damage(run.location / CHECKPOINTS / checkpoint["name"])
    return values | {
        "recipe": {"data": recipe.data.urls} | {name: flat[name] for name in _MAIN_FIELDS if name in flat},
        "invalid_rows": last.get("invalid_rows", summary.get("invalid_rows", {})),
        "excluded_rows": summary.get("excluded_rows"),
        "steps_without_finite_loss": sum(_finite(record.get("loss")) is None for record in records),
        "data_wait_fraction": last.get("data_wait_fraction"),
        "verdict": summary.get("verdict"),
        "health": {name: last[name] for name in ("skipped_steps", "rollbacks", "loss_spikes") if name in last},
        "best": validation.best(folder),
        "mlflow_uri": known.get("mlflow_uri"),
        "mlflow_run_id": known.get("mlflow_run_id"),
        "resume": None if run.status == "finished" else resume_command(run, recipe),
    }


def resume_command(run: Run, recipe: Recipe) -> str:
    """The command that goes on with the run, wherever its folder lies by now."""
    url = run.location.url.rstrip("/")
    moved = locate(recipe.run_url, recipe.storage.storage_options).path != run.location.path
    more = f" storage.url={url.rpartition('/')[0] or '.'}" if moved else ""
    if run.location.is_local:
        return f"clippy train {url}/{RECIPE_FILE}{more}"
    return f"clippy train {RECIPE_FILE}{more}  # a copy of {url}/{RECIPE_FILE}"  # a recipe is read from a disk


def _damage(checkpoint: Location) -> str | None:
    """What is wrong with a checkpoint, in one sentence."""
    try:
        with local_folder(checkpoint) as folder:
            verify(folder, checkpoint.url)
    except CheckpointError as error:
        return str(error)
    return None


def _checkpoints(folder: Location) -> list[Checkpoint]:
    """Everything in ``checkpoints/`` that is a checkpoint or was to become one, from one listing."""
    selector = pafs.FileSelector(folder.path, recursive=True, allow_not_found=True)
    inside: dict[str, dict[str, pafs.FileInfo]] = {}
    for info in folder.filesystem.get_file_info(selector):
        name, _, file = info.path[len(folder.path) :].lstrip("/").partition("/")
        files = inside.setdefault(name, {})
        if info.type == pafs.FileType.File:
            files[file] = info
    return [
        Checkpoint(
            name,
            int(match[1]) if match and STATE_FILE in files else None,
            sum(info.size for info in files.values()),
            _latest(map(_changed, files.values())),
            frozenset(files),
        )
        for name, files in sorted(inside.items())
        if (match := _CHECKPOINT_NAME.fullmatch(name)) or name.startswith(WRITING)
    ]


def _last_records(file: Location, size: int) -> list[dict[str, Any]]:
    """The last lines of ``metrics.jsonl``; a line cut short is left out."""
    start = max(0, size - _TAIL_BYTES)
    with file.filesystem.open_input_file(file.path) as stream:
        stream.seek(start)
        lines = stream.read().decode(errors="replace").splitlines()
    records = []
    for line in lines[1:] if start else lines:
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def _recipe(folder: RunFolder) -> Recipe | None:
    try:
        return folder.read_recipe()
    except ConfigError:  # of another version, or edited: no reason not to list the run
        return None


def _quiet_seconds(recipe: Recipe | None, location: Location, speed: float | None) -> float:
    """How long a running run may leave its files alone: twice the time between two lines, or uploads of them."""
    if recipe is None or not speed:
        return QUIET_SECONDS
    steps = recipe.train.log_every if location.is_local else recipe.checkpoint.every
    return max(QUIET_SECONDS, 2 * steps * recipe.optim.global_batch_size / speed)


def _changed(info: pafs.FileInfo) -> float | None:
    return info.mtime_ns / 1e9 if info.mtime_ns is not None else None


def _latest(times: Iterable[float | None]) -> float | None:
    return max((moment for moment in times if moment is not None), default=None)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _plain(checkpoint: Checkpoint) -> dict[str, Any]:
    values: Mapping[str, Any] = asdict(checkpoint)
    return {name: value for name, value in values.items() if name != "files"}
