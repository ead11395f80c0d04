"""``clippy cluster submit``, ``status``, ``logs``, ``stop`` and ``list``: commands as jobs of a Ray cluster."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.verbs import add_json, columns, print_result, table, verb

if TYPE_CHECKING:
    from cluster.job_server import JobServer, Node
    from cluster.jobs import Job
    from cluster.package import Package
    from cluster.submission import Submission
    from pipelines.console import Console

_DEFAULT_MIB = 50.0


def add_job_verbs(actions: Any) -> None:
    """Declare the verbs."""
    _add_submit(actions)
    command = verb(actions, "status", _status, "tell how a job stands, or what nodes the cluster has and what is free")
    command.add_argument("job", metavar="JOB", nargs="?", help="as submit printed it; without one, the cluster's nodes")
    _add_common(command)
    command = verb(actions, "logs", _logs, "print what a job printed so far, or go on printing until it is over")
    command.add_argument("job", metavar="JOB", help="as submit printed it")
    command.add_argument("--follow", action="store_true", help="until it is over; exit code 1 if it fails")
    _add_common(command)
    command = verb(actions, "stop", _stop, "ask a job to save a checkpoint and end")
    command.add_argument("job", metavar="JOB", help="as submit printed it")
    _add_common(command)
    _add_common(verb(actions, "list", _list, "list the jobs of a cluster, the newest first"))


def _add_submit(actions: Any) -> None:
    command = verb(
        actions, "submit", _submit, "run a clippy command on a Ray cluster, with the code and recipes of this folder"
    )
    command.usage = "clippy cluster submit [options] -- COMMAND ..."
    command.epilog = "Example: clippy cluster submit --address http://head:8265 -- train shapes train.steps=500"
    command.add_argument(
        "words", metavar="COMMAND", nargs=argparse.REMAINDER, help="train, tune, evaluate, data import, data index, ..."
    )
    command.add_argument(
        "--env", action="append", default=[], metavar="NAME", help="pass on this variable of the environment; repeat"
    )
    command.add_argument(
        "--follow", action=argparse.BooleanOptionalAction, help="print its log; default: on a terminal"
    )
    how = command.add_mutually_exclusive_group()
    how.add_argument(
        "--no-install", action="store_true", help="the cluster's nodes have clippy and all it needs; install nothing"
    )
    how.add_argument(
        "--image", metavar="URI", help="run in this container image, which has all it needs; this folder stays here"
    )
    command.add_argument("--exclude", action="append", default=[], metavar="PATTERN", help="leave these files out too")
    command.add_argument(
        "--include", action="append", default=[], metavar="PATTERN", help="send these files whatever they are called"
    )
    command.add_argument(
        "--max-mib", type=float, default=_DEFAULT_MIB, metavar="N", help=f"refuse more (default: {_DEFAULT_MIB:g})"
    )
    command.add_argument(
        "--allow-local-paths", action="store_true", help="all nodes see the folders of this machine that it names"
    )
    command.add_argument(
        "--autoscaling", action="store_true", help="the cluster adds nodes; do not refuse what it cannot hold yet"
    )
    command.add_argument("--dry-run", action="store_true", help="check and tell everything, send nothing")
    _add_common(command)


def _add_common(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--address",
        metavar="URL",
        help="the cluster's job server, as http://HOST:8265; default: RAY_API_SERVER_ADDRESS, RAY_ADDRESS, or what "
        "clippy cluster up --local started",
    )
    add_json(command)


def _submit(options: argparse.Namespace) -> int:
    from cluster.submission import read_command

    submission = read_command(options.words[1:] if options.words[:1] == ["--"] else options.words)
    from cluster.jobs import read_environment, requirements, submit
    from cluster.package import MOST_MIB
    from pipelines.console import Console

    console, environment = Console(), read_environment(options.env)
    if not 0 < options.max_mib <= MOST_MIB:
        raise ValueError(f"--max-mib: must be above 0 and at most {MOST_MIB:g} (got {options.max_mib:g})")
    _check_image(options, submission)
    server = _connect(options)
    if not (server.is_local or options.allow_local_paths):
        submission.check_places(environment)
    _check_cluster(server, submission, options.autoscaling, console)
    package = None if options.image else _package(options, submission, console)
    install = [] if server.is_local or options.no_install or options.image else requirements(Path.cwd())
    report: dict[str, Any] = {"address": server.shown, "command": ["clippy", *submission.words]}
    report |= {"package": package.as_dict() if package else None}
    if options.dry_run:
        print_result(report, options.json, f"would run: clippy {shlex.join(submission.words)}")
        return 0
    name = submit(server, submission, package, environment=environment, install=install, image=options.image)
    console.line(f"job {name} is sent to {server.shown}")
    if install:
        console.line("the cluster installs its Python packages first, which takes minutes the first time")
    follows = sys.stdout.isatty() if options.follow is None else options.follow
    if not follows:
        print_result(report | {"job": name}, options.json, name)
        console.line(_hints(server, name))
        return 0
    return _follow(server, name, console, options.json, report)


def _package(options: argparse.Namespace, submission: Submission, console: Console) -> Package:
    from cluster.package import find_package

    package = find_package(Path.cwd(), options.exclude, options.include)
    console.line(package.as_text())
    package.check_size(options.max_mib)
    missing = [file for file in submission.files if file not in package.sizes]
    if missing:
        raise ValueError(f"RECIPE: {missing[0]}: is left out of the package; add --include {missing[0]}")
    return package


def _check_image(options: argparse.Namespace, submission: Submission) -> None:
    """Raises ValueError for what cannot go with an image, in which Ray puts no files and no secrets of ours."""
    if options.image and submission.files:
        raise ValueError(
            f"--image: the image would not have {submission.files[0]}; name a recipe that ships with clippy, or start "
            "the cluster's nodes from this image and use --no-install"
        )
    if options.image and options.env:
        raise ValueError("--env: goes with a package, not with --image; set these variables on the cluster's nodes")


def _check_cluster(server: JobServer, submission: Submission, autoscaling: bool, console: Console) -> None:
    """Say what the cluster has. Raises ValueError where that can never hold the training."""
    from pipelines.local_ray import check_demand

    server.check_version()
    nodes = server.nodes()
    resources = [node.resources for node in nodes]
    total = {name: sum(one.get(name, 0) for one in resources) for name in ("CPU", "GPU")}
    amounts = ", ".join(f"{amount:g} {name}" for name, amount in total.items() if amount)
    console.line(f"cluster: Ray {server.ray_version}, {len(nodes)} nodes, {amounts or 'no CPU'}")
    if submission.recipe is None:
        return
    try:
        remedy = "have more nodes started first" + ("" if autoscaling else " (--autoscaling: the cluster adds them)")
        check_demand(submission.recipe, resources, {}, f"the cluster at {server.shown}", remedy)
    except ValueError as error:
        if not autoscaling:
            raise
        console.line(f"note: {error}; with --autoscaling, the job waits for nodes that the cluster adds")


def _follow(server: JobServer, name: str, console: Console, as_json: bool, report: dict[str, Any] | None = None) -> int:
    """Print the log until the job is over; the exit code is 0 if it succeeded, 1 if it failed, 130 if stopped."""
    from cluster.jobs import follow

    try:
        job = follow(server, name, lambda text: print(text, end="", flush=True))
    except KeyboardInterrupt:
        console.line(f"\nthe job goes on\n{_hints(server, name)}")
        return 130
    if as_json:
        print_result(job.as_dict() | (report or {}), True, "")
    if job.status == "FAILED":
        console.line(f"clippy: job {name} failed: {job.error}")
        return 1
    console.line(f"job {name} {'was stopped' if job.status == 'STOPPED' else 'succeeded'}")
    return 130 if job.status == "STOPPED" else 0


def _hints(server: JobServer, name: str) -> str:
    follows, stops = server.command("logs", "--follow", name), server.command("stop", name)
    return f"  follow: {follows}\n  stop:   {stops}"


def _status(options: argparse.Namespace) -> None:
    server = _connect(options)
    if options.job is not None:
        from cluster.jobs import find_job

        job = find_job(server, options.job)
        print_result(job.as_dict(), options.json, _facts(job))
        return
    nodes = server.nodes()
    rows = [("node", "address", "CPU free", "GPU free", "memory")]
    for node in nodes:
        place = f"{node.address} (head)" if node.is_head else node.address
        rows.append((node.node_id[:12], place, _free(node, "CPU"), _free(node, "GPU"), _memory(node.resources)))
    values = {
        "address": server.shown,
        "ray_version": server.ray_version,
        "nodes": [node.as_dict() for node in nodes],
    }
    heading = f"Ray {server.ray_version} at {server.shown}, {len(nodes)} nodes"
    print_result(values, options.json, f"{heading}\n{columns(rows)}")


def _free(node: Node, name: str) -> str:
    total = node.resources.get(name, 0)
    return f"{total - node.used.get(name, 0):g} of {total:g}" if node.used is not None else f"? of {total:g}"


def _memory(resources: Mapping[str, float]) -> str:
    from pipelines.inspection.units import bytes_text

    return bytes_text(resources.get("memory", 0))


def _facts(job: Job) -> str:
    facts = {"job": job.name, "status": job.status.lower(), "command": job.command, "ran": _ran(job)}
    return table(facts | ({"error": job.error} if job.status == "FAILED" else {}))


def _ran(job: Job) -> str:
    from pipelines.console import duration

    return duration((job.ended or time.time()) - job.started) if job.started else "not yet"


def _logs(options: argparse.Namespace) -> int:
    from cluster.jobs import find_job, logs
    from pipelines.console import Console

    server = _connect(options)
    job = find_job(server, options.job)
    if options.follow:
        return _follow(server, job.name, Console(), options.json)
    text = logs(server, job.name)
    print_result(job.as_dict() | {"logs": text}, options.json, text.rstrip("\n"))
    return 0


def _stop(options: argparse.Namespace) -> None:
    from cluster.jobs import STOP_SECONDS, stop

    job = stop(_connect(options), options.job)
    text = f"{job.name} was asked to stop; it saves a checkpoint first, and is killed after {STOP_SECONDS} s"
    print_result({"job": job.name, "asked_to_stop": True}, options.json, text)


def _list(options: argparse.Namespace) -> None:
    from cluster.jobs import list_jobs

    server = _connect(options)
    jobs = list_jobs(server)
    rows = [("job", "status", "ran", "command")]
    rows += [(job.name, job.status.lower(), _ran(job), job.command) for job in jobs]
    print_result([job.as_dict() for job in jobs], options.json, columns(rows) if jobs else f"no jobs at {server.shown}")


def _connect(options: argparse.Namespace) -> JobServer:
    from cluster.job_server import connect

    return connect(options.address)
