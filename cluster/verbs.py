"""What every verb of the command line shares: how it is declared and how its result is printed."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from typing import Any


def verb(verbs: Any, name: str, action: Callable[[argparse.Namespace], int | None], help: str) -> Any:
    """A subcommand that runs ``action``; ``help`` is its line in the list and its description."""
    verb = verbs.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
    verb.set_defaults(action=action)
    return verb


def add_json(verb: Any) -> None:
    """The ``--json`` of every command that reports."""
    verb.add_argument("--json", action="store_true", help="print the result as JSON on standard output")


def print_result(values: Any, as_json: bool, text: str) -> None:
    """The result on standard output: for programs or for people."""
    print(json.dumps(values, indent=2) if as_json else text, file=sys.__stdout__)


def result_alone(as_json: bool) -> AbstractContextManager[Any]:
    """While the block runs, what others print, such as Ray, goes to standard error where a program reads the result."""
    return redirect_stdout(sys.stderr) if as_json else nullcontext()


def table(values: dict[str, Any]) -> str:
    """One value a line, names aligned."""
    width = max(map(len, values))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in values.items())
