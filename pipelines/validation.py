"""What validated checkpoints came to, in the run's folder: one small file a step, and which step is the best."""

from __future__ import annotations

import json
from typing import Any

from pipelines.checkpoints import checkpoint_name, committed_steps
from pipelines.recipe import EvalConfig
from pipelines.run_folder import RunFolder
from pipelines.storage import Location

VALIDATION, BEST_FILE = "validation", "best.json"


def record(folder: RunFolder, step: int, numbers: dict[str, float], config: EvalConfig, error: str = "") -> bool:
    """Write down what a checkpoint came to, or why nothing came of it; True if it is the best so far."""
    _file(folder, step).write_text(json.dumps({"step": step, "numbers": numbers, "error": error}, indent=2) + "\n")
    value, before = numbers.get(config.best), best(folder)
    if value is None:
        return False
    sign = 1 if config.best_is == "max" else -1
    if before and before["metric"] == config.best and sign * before["value"] >= sign * value:
        return False
    marked = {"step": step, "metric": config.best, "value": value}
    (folder.location / VALIDATION / BEST_FILE).write_text(json.dumps(marked, indent=2) + "\n")
    return True


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
