"""``clippy runs``: what runs there are, how one stands, and which checkpoints it can do without."""

from __future__ import annotations

import argparse
import json
import time
from typing import TYPE_CHECKING, Any

from cluster.verbs import add_json, columns, print_result, table, verb

if TYPE_CHECKING:
    from pipelines.runs import Run
    from pipelines.storage import Location


def add_runs_verbs(verbs: Any) -> None:
    actions = verbs.add_parser("runs", help="list runs, show one, remove old checkpoints").add_subparsers(
        title="commands", metavar="COMMAND", required=True
    )
    command = verb(actions, "list", _list, "list the runs of a folder: status, progress, speed, checkpoints")
    command.add_argument(
        "place", nargs="?", default="runs", metavar="STORAGE", help="folder or s3:// URL of runs (default: runs)"
    )
    _add_common(command)
    command = verb(actions, "show", _show, "show one run: recipe, progress, checkpoints, and how it goes on")
    command.add_argument("place", metavar="RUN", help="a run folder")
    command.add_argument("--verify", action="store_true", help="read each checkpoint and compare checksums")
    _add_common(command)
    command = verb(actions, "prune", _prune, "remove older checkpoints and half-written ones, never the newest or best")
    command.add_argument("place", metavar="RUN|STORAGE", help="a run folder, or a folder of runs")
    command.add_argument("--keep-last", type=int, required=True, metavar="N", help="whole checkpoints to keep")
    command.add_argument("--keep-every", type=int, metavar="M", help="also keep those whose step is a multiple of M")
    command.add_argument("--dry-run", action="store_true", help="tell what would go, and remove nothing")
    command.add_argument("--force", action="store_true", help="even if the run seems to be running")
    _add_common(command)


def _add_common(command: Any) -> None:
    command.add_argument(
        "--storage-option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="how the place is opened, e.g. endpoint_url=http://host:9000; may be repeated",
    )
    add_json(command)


def _place(options: argparse.Namespace) -> Location:
    from pipelines.sections import StorageConfig
    from pipelines.storage import locate

    overrides = [f"storage_options.{option}" for option in options.storage_option]
    storage = StorageConfig.load("clippy runs", f"url: {json.dumps(options.place)}", overrides)
    return locate(storage.url, storage.storage_options)


def _list(options: argparse.Namespace) -> None:
    from pipelines.runs import find_runs

    place = _place(options)
    runs = find_runs(place)
    rows = [_HEADINGS, *map(_row, runs)]
    print_result([run.as_dict() for run in runs], options.json, columns(rows) if runs else f"no runs in {place.url}")


_HEADINGS = ("run", "status", "step", "loss", "images/s", "checkpoints", "changed")


def _row(run: Run) -> tuple[str, ...]:
    from pipelines.inspection.units import bytes_text

    saved = f"{len(run.checkpoints)}, {bytes_text(run.checkpoint_bytes)}" if run.checkpoints else "none"
    return (
        run.name,
        run.status,
        f"{run.step}/{run.steps or '?'}",
        "" if run.loss is None else f"{run.loss:.3f}",
        f"{run.images_per_second:.0f}" if run.images_per_second else "",
        saved,
        _ago(run.changed),
    )


def _ago(moment: float | None) -> str:
    from pipelines.console import duration

    return "" if moment is None else f"{duration(max(0.0, time.time() - moment))} ago"


def _show(options: argparse.Namespace) -> None:
    from pipelines.runs import describe_run, read_run

    place = _place(options)
    run = read_run(place)
    if run is None:
        raise ValueError(f"{place.url}: no run lies here; see: clippy runs list")
    values = describe_run(run, options.verify)
    print_result(values, options.json, _as_text(values))


def _as_text(values: dict[str, Any]) -> str:
    def counts(rows: dict[str, int] | None) -> str:
        return ", ".join(f"{cause} {n:,}" for cause, n in (rows or {}).items()) or "none"

    def number(name: str, form: str) -> str:
        return "unknown" if values[name] is None else format(values[name], form)

    lacking = values["steps_without_finite_loss"]
    facts = {
        "run": values["run"],
        "status": f"{values['status']}, step {values['step']} of {values['steps'] or '?'}",
        "changed": _ago(values["changed"]),
        "loss": number("loss", ".3f") + (f" ({lacking} steps without a finite one)" if lacking else ""),
        "images/s": number("images_per_second", ".0f"),
        "data wait": number("data_wait_fraction", ".0%"),
        **({"what bounds it": values["verdict"]} if values["verdict"] else {}),
        "health": counts({name.replace("_", " "): n for name, n in values["health"].items() if n}),
        **({"best": "step {step}, {metric} {value:.4f}".format(**values["best"])} if values["best"] else {}),
        "invalid rows": counts(values["invalid_rows"]),
        "left out by index": counts(values["excluded_rows"]),
        "MLflow": f"run {values['mlflow_run_id']} in {values['mlflow_uri']}" if values["mlflow_run_id"] else "off",
        **values["recipe"],
    }
    lines = [table(facts), "", _checkpoint_lines(values)]
    if values["resume"]:
        lines += ["", f"to go on: {values['resume']}"]
    return "\n".join(lines)


def _checkpoint_lines(values: dict[str, Any]) -> str:
    from pipelines.inspection.units import bytes_text

    def row(checkpoint: dict[str, Any], note: str) -> tuple[str, ...]:
        return checkpoint["name"], bytes_text(checkpoint["bytes"]), _ago(checkpoint["changed"]), note

    rows = [row(c, (c["damage"] or "verified") if "damage" in c else "") for c in values["checkpoints"]]
    rows += [row(leftover, "half-written") for leftover in values["leftovers"]]
    return columns(rows) if rows else "no checkpoint yet"


def _prune(options: argparse.Namespace) -> None:
    from dataclasses import asdict

    from pipelines.inspection.units import bytes_text
    from pipelines.prune import prune

    place = _place(options)
    results = prune(place, options.keep_last, options.keep_every, dry_run=options.dry_run, force=options.force)
    lines = []
    for result in results:
        what = result.left_alone or f"keeps {len(result.kept)}, removes {', '.join(result.removed) or 'nothing'}"
        lines.append(f"{result.run}: {what}")
    freed = sum(result.freed_bytes for result in results)
    lines.append(f"{'would free' if options.dry_run else 'freed'} {bytes_text(freed)}")
    values = {"dry_run": options.dry_run, "freed_bytes": freed, "runs": [asdict(result) for result in results]}
    print_result(values, options.json, "\n".join(lines))
