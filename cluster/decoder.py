"""``clippy decoder``: what masks of some classes add to a frozen model."""

from __future__ import annotations

import argparse
from typing import Any

from cluster.verbs import MODEL_HELP, add_json, print_result, read_words, table, verb


def add_decoder_verbs(verbs: Any) -> None:
    """Declare them."""
    actions = verbs.add_parser("decoder", help="train a decoder on masks, an upper bound").add_subparsers(
        title="commands", metavar="COMMAND", required=True
    )
    command = verb(
        actions, "train", _train, "train a light decoder over a frozen model on masks, as LSeg does; again resumes"
    )
    command.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    command.add_argument("--benchmark", required=True, metavar="NAME", help="one with masks: clippy evaluate --list")
    command.add_argument("--data", required=True, metavar="URL", help="where the benchmark lies")
    command.add_argument("--out", required=True, metavar="FOLDER", help="for the decoder")
    command.add_argument("--split", metavar="NAME", help="default: train, or the only one that there is")
    words = "comma-separated, or @FILE with one a line"
    command.add_argument("--seen", metavar="WORDS", help=f"the only classes whose masks are shown; {words}")
    command.add_argument("--unseen", metavar="WORDS", help=f"classes whose pixels are void in training; {words}")
    command.add_argument("--steps", type=int, default=2000, metavar="N", help="(default: 2000)")
    command.add_argument("--batch-size", type=int, default=16, metavar="N", help="pictures a step (default: 16)")
    command.add_argument("--learning-rate", type=float, default=1e-3, metavar="R", help="the highest (default: 0.001)")
    command.add_argument(
        "--size", type=int, metavar="PIXELS", help="side of the crops that the model sees (default: as it was trained)"
    )
    command.add_argument("--seed", type=int, default=0, metavar="N", help="of start, order and crops (default: 0)")
    command.add_argument("--checkpoint-every", type=int, default=200, metavar="N", help="steps (default: 200)")
    add_json(command)


def _train(options: argparse.Namespace) -> None:
    from pipelines.decoder import DecoderRequest, train_decoder

    summary = train_decoder(
        DecoderRequest(
            model=options.model,
            benchmark=options.benchmark,
            data=options.data,
            out=options.out,
            split=options.split,
            seen=tuple(read_words("--seen", options.seen)) or None,
            unseen=tuple(read_words("--unseen", options.unseen)),
            steps=options.steps,
            batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            size=options.size,
            seed=options.seed,
            checkpoint_every=options.checkpoint_every,
        )
    )
    values = summary.as_dict()
    shown = {name: ", ".join(value) if isinstance(value, tuple) else value for name, value in values.items()}
    print_result(values, options.json, table(shown))
