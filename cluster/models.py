"""``clippy model``: bring other people's weights in, and look at a model."""

from __future__ import annotations

import argparse
from typing import Any

from cluster.verbs import add_json, print_result, table, verb


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
    command.add_argument("model", metavar="MODEL", help="a model folder, a run folder or one of its checkpoints")
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
    from clippy.model import CLIPpy
    from pipelines.checkpoints import local_folder
    from pipelines.evaluate import find_target

    target = find_target(options.model)
    with local_folder(target.model) as folder:
        model = CLIPpy.from_pretrained(folder)
    values = {
        "model": target.model.url,
        **({"step": target.step} if target.step is not None else {}),
        **describe(model),
    }
    print_result(values, options.json, table(values))
