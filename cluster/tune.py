"""``clippy tune``: studies, shown, listed and run."""

from __future__ import annotations

import argparse
from typing import Any

from cluster.tune_report import add_report_verb
from cluster.verbs import add_json, print_result, verb

_OVERRIDES = "fields to set, of the study (budget.trials=20, name=mine) or of its base recipe (data.url=...)"
_ACTIONS = ("run", "list", "show", "report")
"""What follows ``clippy tune``; any other word is a study."""


def add_tune_verbs(verbs: Any) -> None:
    """``clippy tune STUDY`` is short for ``clippy tune run STUDY``."""
    noun = verbs.add_parser("tune", help="search over recipes: run a study, report it, list and show those that ship")
    actions = noun.add_subparsers(title="commands", metavar="COMMAND", required=True)
    command = verb(
        actions, "run", _run, "run a study; the same command again goes on (clippy tune STUDY is short for it)"
    )
    _add_study(command)
    command = verb(
        actions, "show", _show, "print a study, its base recipe and overrides resolved, as YAML that can be run"
    )
    _add_study(command)
    add_json(verb(actions, "list", _list, "the studies that ship with the package"))
    add_report_verb(actions)


def _add_study(command: Any) -> None:
    command.add_argument("study", metavar="STUDY", help="a study's name (see: clippy tune list) or a YAML file")
    command.add_argument("overrides", nargs="*", metavar="a.b=c", help=_OVERRIDES)
    add_json(command)


def with_run(arguments: list[str]) -> list[str]:
    """``tune STUDY ...`` as ``tune run STUDY ...``."""
    words = [argument for argument in arguments[1:] if not argument.startswith("-")]
    if arguments[:1] == ["tune"] and words and words[0] not in _ACTIONS:
        return ["tune", "run", *arguments[1:]]
    return arguments


def _run(options: argparse.Namespace) -> int:
    from tuning.study import load_study

    study = load_study(options.study, options.overrides)  # a wrong study is refused before ray is imported
    from tuning.search import run_study

    outcome = run_study(study)
    print_result(outcome.as_dict(), options.json, outcome.as_text())
    return 130 if outcome.status == "stopped" else 0


def _show(options: argparse.Namespace) -> None:
    from tuning.study import load_study

    study = load_study(options.study, options.overrides)
    print_result(study.model_dump(mode="json"), options.json, study.to_yaml().rstrip())


def _list(options: argparse.Namespace) -> None:
    from tuning.study import Study, load_study, study_names

    studies: dict[str, Study] = {name: load_study(name) for name in study_names()}
    width = max(map(len, studies))
    lines = [f"{name:<{width}}  {study.about}" for name, study in studies.items()]
    print_result({name: study.about for name, study in studies.items()}, options.json, "\n".join(lines))
