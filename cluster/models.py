"""``clippy model``: bring other people's weights in, and look at a model."""

from __future__ import annotations

import argparse
from typing import Any

from cluster.verbs import MODEL_HELP, add_json, print_result, table, verb


def add_model_verbs(verbs: Any) -> None:
    actions = verbs.add_parser("model", help="import published weights, describe a model").add_subparsers(
        title="commands", metavar="COMMAND", required=True
    )
    command = verb(actions, "import", _import, "make a model folder of the published CLIPpy checkpoint")
    command.add_argument(
        "source", metavar="SOURCE", help="file, folder or hub name; pickles are read without running code"
    )
    command.add_argument("destination", metavar="DEST", help="folder to write; must not exist")
    command.add_argument(
        "--tokenizer", metavar="NAME", help="folder or hub name (default: sentence-transformers/sentence-t5-base)"
    )
    add_json(command)
    command = verb(actions, "info", _info, "describe a model: towers, sizes, pooling, parameters")
    command.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    add_json(command)


def _import(options: argparse.Namespace) -> None:
    from pathlib import Path

    from clippy.describe import describe
    from clippy.released import TOKENIZER, import_released

    model = import_released(options.source, Path(options.destination), options.tokenizer or TOKENIZER)
    values = {"model": options.destination, **describe(model)}
    print_result(values, options.json, table(values))


def _info(options: argparse.Namespace) -> None:
    from clippy.describe import describe
    from pipelines.targets import find_model

    found = find_model(options.model)
    values = {
        "model": found.name,
        **({"step": found.step} if found.step is not None else {}),
        **describe(found.load()),
    }
    print_result(values, options.json, table(values))
