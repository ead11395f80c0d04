"""What every verb of the command line shares: how it is declared and how its result is printed."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from contextvars import ContextVar
from typing import Any, TextIO

MODEL_HELP = (
    "a run folder, one of its checkpoints, a model folder, or the folder or hub name of a CLIP or GroupViT of "
    "transformers or a CLIP of open_clip; open_clip's own by open_clip:ARCHITECTURE:WEIGHTS"
)

_results: ContextVar[TextIO | None] = ContextVar("results", default=None)


def verb(
    verbs: Any, name: str, action: Callable[[argparse.Namespace], int | None], help: str
) -> argparse.ArgumentParser:
    """A subcommand that runs ``action``; ``help`` is its line in the list and its description."""
    verb: argparse.ArgumentParser = verbs.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
    verb.set_defaults(action=action)
    return verb


def add_json(verb: argparse.ArgumentParser) -> None:
    """The ``--json`` of every command that reports."""
    verb.add_argument("--json", action="store_true", help="print the result as JSON on standard output")


def print_result(values: Any, as_json: bool, text: str) -> None:
    """The result on standard output: for programs or for people."""
    print(json.dumps(values, indent=2) if as_json else text, file=_results.get())


@contextmanager
def result_alone(as_json: bool) -> Iterator[None]:
    """While the block runs, what others print, such as Ray, goes to standard error where a program reads the result."""
    token = _results.set(sys.stdout)
    try:
        with redirect_stdout(sys.stderr) if as_json else nullcontext():
            yield
    finally:
        _results.reset(token)


def table(values: dict[str, Any]) -> str:
    """One value a line, names aligned."""
    width = max(map(len, values))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in values.items())


def columns(rows: Sequence[tuple[str, ...]]) -> str:
    """Rows of text, columns aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def read_words(option: str, text: str | None) -> list[str]:
    """Words of a comma-separated list, or of the lines of ``@FILE``. Raises ValueError."""
    if text is None or not text.strip():
        return []
    if not text.startswith("@"):
        return [word.strip() for word in text.split(",")]
    try:
        with open(text[1:], encoding="utf-8") as lines:
            return [line.strip() for line in lines if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        problem = getattr(error, "strerror", None) or error
        raise ValueError(f"{option}: {text[1:]}: cannot be read as a list of words, one a line: {problem}") from None
