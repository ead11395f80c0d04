"""What validated checkpoints came to, in the run's folder: one small file a step, and which step is the best."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pipelines.checkpoints import checkpoint_name, committed_steps
from pipelines.run_folder import RunFolder
from pipelines.sections import EvalConfig
from pipelines.storage import Location

VALIDATION, BEST_FILE = "validation", "best.json"


def record(
    folder: RunFolder, step: int, numbers: dict[str, float], config: EvalConfig, time_ms: int, error: str = ""
) -> bool:
    """Write down what a checkpoint came to, or why nothing came of it; True if it is the best so far.

    ``time_ms`` is when that was known. May be called again after storage refused something.
    """
    value = numbers.get(config.best)
    is_best = value is not None and _beats(value, step, best(folder), config)
    if is_best:  # before the rest: a checkpoint that is no longer due and not yet the best would not be kept
        marked = {"step": step, "metric": config.best, "value": value}
        (folder.location / VALIDATION / BEST_FILE).write_text(json.dumps(marked, indent=2) + "\n")
    result = {"step": step, "benchmark": config.benchmark, "numbers": numbers, "error": error, "time_ms": time_ms}
    _file(folder, step).write_text(json.dumps(result, indent=2) + "\n")
    return is_best


def _beats(value: float, step: int, before: dict[str, Any], config: EvalConfig) -> bool:
    if not before or before["metric"] != config.best or before["step"] == step:
        return True
    return value > before["value"] if config.best_is == "max" else value < before["value"]


def recorded(folder: RunFolder) -> Iterator[dict[str, Any]]:
    """``step``, ``benchmark``, ``numbers``, ``error`` and ``time_ms`` of each checkpoint that was validated."""
    for info in (folder.location / VALIDATION).list():
        if info.base_name.startswith("step-"):
            yield folder.read_json(f"{VALIDATION}/{info.base_name}")


def best(folder: RunFolder) -> dict[str, Any]:
    """``step``, ``metric`` and ``value`` of the best checkpoint; empty before the first validation."""
    file = folder.location / VALIDATION / BEST_FILE
    return json.loads(file.read_text()) if file.exists() else {}


def steps_due(folder: RunFolder, every: int | None) -> list[int]:
    """Checkpoints to be validated that are not yet, oldest first."""
    if every is None:
        return []
    steps = committed_steps(folder.checkpoints)
    return [step for step in steps if step % every == 0 and not _file(folder, step).exists()]


def steps_to_keep(folder: RunFolder, every: int | None) -> set[int]:
    """The best checkpoint, and those still to be validated."""
    if every is None:
        return set()
    return {*steps_due(folder, every), *(step for key, step in best(folder).items() if key == "step")}


def _file(folder: RunFolder, step: int) -> Location:
    return folder.location / VALIDATION / f"{checkpoint_name(step)}.json"
