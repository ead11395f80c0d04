"""Remove checkpoints that a run no longer needs, and what kills left half-written."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

from pipelines import validation
from pipelines.checkpoints import STATE_FILE, remove
from pipelines.console import duration
from pipelines.run_folder import CHECKPOINTS, RunFolder
from pipelines.runs import Run, find_runs
from pipelines.storage import Location


@dataclass(frozen=True)
class Pruned:
    """What was removed of one run, or would be."""

    run: str
    kept: tuple[str, ...]
    removed: tuple[str, ...]
    """Names of folders, half-written ones too."""
    freed_bytes: int
    left_alone: str | None = None
    """Why nothing of it was touched."""


def prune(
    place: Location, keep_last: int, keep_every: int | None = None, *, dry_run: bool = False, force: bool = False
) -> list[Pruned]:
    """Remove all but the last ``keep_last`` whole checkpoints, those of each ``keep_every``-th step, and the best.

    The newest that was not saved amid skipped steps stays too: a run that is not well would go back to it.

    ``place`` is a run or a folder of runs. A run that seems to be running is left alone among others, and an error if
    it is the one that was named, unless ``force``. Raises ValueError for that and for numbers below 1.
    """
    for option, number in (("--keep-last", keep_last), ("--keep-every", keep_every)):
        if number is not None and number < 1:
            raise ValueError(f"{option}: must be at least 1 (got {number}); a run goes on from its newest checkpoint")
    runs = find_runs(place)
    if not runs:
        raise ValueError(f"{place.url}: no run lies here")
    results = []
    for run in runs:
        busy = None if force else _busy(run)
        if busy and run.location.path == place.path:
            raise ValueError(f"{place.url}: {busy}; wait until it ends, or give --force if it has")
        results.append(_untouched(run, busy) if busy else _prune(run, keep_last, keep_every, dry_run))
    return results


def _busy(run: Run) -> str | None:
    """Why the run had better be left alone."""
    if run.status not in ("running", "unfinished"):
        return None
    if run.changed is None:
        return "its storage does not tell when files changed, so it may be running"
    if run.status == "running":
        return f"seems to be running, its files changed {duration(max(0.0, time.time() - run.changed))} ago"
    return None


def _untouched(run: Run, reason: str) -> Pruned:
    return Pruned(run.location.url, tuple(checkpoint.name for checkpoint in run.checkpoints), (), 0, reason)


def _prune(run: Run, keep_last: int, keep_every: int | None, dry_run: bool) -> Pruned:
    kept = _kept(run, keep_last, keep_every)
    surplus = [c for c in (*run.checkpoints, *run.leftovers) if c.name not in kept]
    if not dry_run:
        for checkpoint in surplus:
            folder = run.location / CHECKPOINTS / checkpoint.name
            if checkpoint.step is None:
                folder.remove_folder()
            else:
                remove(folder)
    return Pruned(
        run.location.url,
        tuple(kept),
        tuple(checkpoint.name for checkpoint in surplus),
        sum(checkpoint.bytes for checkpoint in surplus),
    )


def _kept(run: Run, keep_last: int, keep_every: int | None) -> list[str]:
    """Names of the checkpoints to keep. One with files missing is kept, but does not count as one of the last."""
    if len(run.checkpoints) <= keep_last:
        return [checkpoint.name for checkpoint in run.checkpoints]
    states = {c.name: _state(run.location / CHECKPOINTS / c.name) for c in run.checkpoints}
    damaged = [c for c in run.checkpoints if not states[c.name].get("files", {}).keys() <= c.files]
    sound = [c for c in run.checkpoints if c not in damaged]
    best = validation.best(RunFolder(run.location)).get("step")
    healthy = [c for c in sound if states[c.name].get("healthy", True)]
    kept = {c.name for c in (*damaged, *sound[-keep_last:], *healthy[-1:])}
    kept |= {c.name for c in sound if c.step == best or (keep_every and (c.step or 0) % keep_every == 0)}
    return [c.name for c in run.checkpoints if c.name in kept]


def _state(checkpoint: Location) -> dict[str, Any]:
    """``state.json``; where it cannot be read, one that names a file that is not there."""
    try:
        state = json.loads((checkpoint / STATE_FILE).read_text())
    except ValueError:
        state = None
    return state if isinstance(state, dict) and isinstance(state.get("files"), dict) else {"files": {"": ""}}
