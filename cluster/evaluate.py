"""``clippy evaluate``: a model on one benchmark, or on all of the paper's tables."""

from __future__ import annotations

import argparse
from typing import Any

from cluster.verbs import MODEL_HELP, add_json, print_result, table, verb
from pipelines.evaluation.names import BENCHMARKS, PAPER_SUITE

SUITES = {"paper": PAPER_SUITE}


def add_evaluate_verb(verbs: Any) -> None:
    """Declare the verb."""
    command = verb(
        verbs, "evaluate", _evaluate, "measure a model on a benchmark, beside trivial answers; again resumes"
    )
    command.add_argument("checkpoint", metavar="CHECKPOINT", nargs="?", help=MODEL_HELP)
    which = command.add_mutually_exclusive_group()
    which.add_argument("--benchmark", metavar="NAME", help="see --list; default: the one that the run's recipe names")
    which.add_argument("--suite", choices=SUITES, help="several benchmarks in a row: those of the paper's tables")
    command.add_argument("--list", action="store_true", help="print benchmarks, protocols and methods")
    command.add_argument("--data", metavar="URL", help="where the benchmark lies; default: as the run's recipe says")
    command.add_argument("--split", metavar="NAME", help="default: the one that is usually measured")
    command.add_argument("--protocol", metavar="NAME", help="see --list; default: the benchmark's own")
    command.add_argument(
        "--method", default="patches", metavar="NAME", help="see --list; default: the model's own patches"
    )
    command.add_argument(
        "--decoder", metavar="FOLDER", help="read the patches through what clippy decoder train made, as a method"
    )
    command.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="FIELD=VALUE",
        help="fields of the protocol to change, e.g. size=448 refine=true",
    )
    command.add_argument("--skip-missing", action="store_true", help="with --suite: leave out benchmarks without data")
    command.add_argument(
        "--out", metavar="FOLDER", help="for numbers and pictures; default: evaluation/ in the run folder"
    )
    command.add_argument(
        "--workers", type=int, metavar="N", help="copies of the model; the numbers do not depend on it"
    )
    command.add_argument(
        "--gpus-per-worker", type=float, metavar="N", help="default: 1 where the cluster has any, else 0"
    )
    command.add_argument(
        "--ray-address", metavar="ADDRESS", help="a running cluster; default: as the run's recipe says"
    )
    command.add_argument(
        "--mlflow-uri", metavar="URI", help="where a model that lies in no run gets an MLflow run of its own"
    )
    add_json(command)


def _evaluate(options: argparse.Namespace) -> None:
    if options.list:
        print_result(*_listing(options.json))
        return
    if options.checkpoint is None:
        raise ValueError("CHECKPOINT: name a model to evaluate, or --list")
    from pipelines.evaluate import Request, evaluate, evaluate_suite

    request = Request(
        checkpoint=options.checkpoint,
        benchmark=options.benchmark,
        data=options.data,
        split=options.split,
        protocol=options.protocol,
        method=options.method,
        decoder=options.decoder,
        overrides=tuple(options.set),
        out=options.out,
        workers=options.workers,
        gpus_per_worker=options.gpus_per_worker,
        ray_address=options.ray_address,
        mlflow_uri=options.mlflow_uri,
    )
    if options.suite is None:
        result = evaluate(request)
        print_result(result.as_dict(), options.json, result.as_text())
        return
    results = evaluate_suite(request, SUITES[options.suite], options.skip_missing)
    text = "\n\n".join(result.as_text() for result in results)
    print_result([result.as_dict() for result in results], options.json, text)


def _listing(as_json: bool) -> tuple[dict[str, Any], bool, str]:
    from pipelines.evaluation.protocol import METHODS, PROTOCOLS  # whose pydantic --help does without

    values: dict[str, dict[str, Any]] = {
        "benchmarks": {name: benchmark.title for name, benchmark in BENCHMARKS.items()},
        "protocols": {name: protocol.model_dump(exclude_defaults=True) for name, protocol in PROTOCOLS.items()},
        "methods": METHODS,
    }
    text = "\n\n".join(
        f"{title}\n" + table({f"  {name}": _shown(entry) for name, entry in entries.items()})
        for title, entries in values.items()
    )
    return values, as_json, text


def _shown(entry: Any) -> str:
    if isinstance(entry, str):
        return entry
    return ", ".join(f"{name}={value}" for name, value in entry.items() if name != "name") or "the defaults"
