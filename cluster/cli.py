"""The ``clippy`` command: verbs only. Each imports what it needs when it runs, so that ``--help`` is instant."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

from cluster.cluster_verbs import add_cluster_verbs
from cluster.compare import add_compare_verb
from cluster.data import add_data_verbs
from cluster.decoder import add_decoder_verbs
from cluster.evaluate import add_evaluate_verb
from cluster.models import add_model_verbs
from cluster.runs import add_runs_verbs
from cluster.search import add_search_verb
from cluster.tune import add_tune_verbs, with_run
from cluster.use import add_use_verbs
from cluster.verbs import add_json, print_result, result_alone, verb

_OVERRIDES = "recipe fields to set, e.g. train.steps=200 model.image.pooling=cls"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 2 for a user's mistake, 1 for a failure, 130 after Ctrl-C."""
    options = parse(arguments)
    action: Callable[[argparse.Namespace], int | None] = options.action
    try:
        with result_alone(getattr(options, "json", False)):
            return action(options) or 0
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output left, as `head` does
        sys.stderr.close()
        return 0
    except ValueError as error:
        print(f"clippy: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # no permission, no space, no such bucket: the message names the file
        print(f"clippy: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        if type(error).__name__ != "TrainingError":
            raise
        print(f"clippy: training failed: {error}", file=sys.stderr)
        return 1


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """What a command's words mean; argparse ends the program where they mean nothing."""
    return _parser().parse_args(with_run(list(sys.argv[1:] if arguments is None else arguments)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="clippy", description="Train, evaluate and use CLIPpy, which learns where things are from captions alone."
    )
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_quickstart(verbs)
    _add_train(verbs)
    add_evaluate_verb(verbs)
    add_compare_verb(verbs)
    add_decoder_verbs(verbs)
    add_tune_verbs(verbs)
    _add_report(verbs)
    add_runs_verbs(verbs)
    add_use_verbs(verbs)
    add_search_verb(verbs)
    _add_recipe(verbs)
    add_data_verbs(verbs)
    add_model_verbs(verbs)
    add_cluster_verbs(verbs)
    return parser


def _add_quickstart(verbs: Any) -> None:
    command = verb(
        verbs, "quickstart", _quickstart, "make data, train, evaluate and report, all in small; again resumes"
    )
    command.add_argument("overrides", nargs="*", metavar="a.b=c", help=_OVERRIDES)
    command.add_argument(
        "--out", default="quickstart", metavar="FOLDER", help="folder for everything (default: quickstart)"
    )
    add_json(command)


def _add_train(verbs: Any) -> None:
    command = verb(verbs, "train", _train, "train as a recipe says; the same command again resumes")
    command.add_argument("recipe", metavar="RECIPE", help="a recipe's name (see: clippy recipe list) or a YAML file")
    command.add_argument("overrides", nargs="*", metavar="a.b=c", help=_OVERRIDES)
    add_json(command)


def _add_report(verbs: Any) -> None:
    command = verb(verbs, "report", _report, "write a run as one self-contained HTML page")
    command.add_argument("run", metavar="RUN", help="a run folder")
    command.add_argument("--out", metavar="FILE", help="default: report.html in the run folder")
    add_json(command)


def _add_recipe(verbs: Any) -> None:
    actions = verbs.add_parser("recipe", help="list recipes, show one resolved").add_subparsers(
        title="commands", metavar="COMMAND", required=True
    )
    command = verb(
        actions, "show", _recipe_show, "print a recipe with all defaults and overrides, as YAML that can be run"
    )
    command.add_argument("recipe", metavar="NAME")
    command.add_argument("overrides", nargs="*", metavar="a.b=c", help=_OVERRIDES)
    add_json(command)
    add_json(verb(actions, "list", _recipe_list, "names of the recipes that ship with the package"))


def _quickstart(options: argparse.Namespace) -> None:
    from cluster.quickstart import quickstart

    results = quickstart(options.out, options.overrides)
    print_result(results.as_dict(), options.json, results.as_text())


def _train(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from pipelines.recipe import load_recipe

    recipe = load_recipe(options.recipe, options.overrides)  # a wrong recipe is refused before torch is imported
    from pipelines.train import run

    summary = run(recipe)
    if options.json:
        print_result(asdict(summary), True, "")
    return 0 if summary.status == "finished" else 130


def _report(options: argparse.Namespace) -> None:
    from pipelines.report import write_report

    page = write_report(options.run, options.out)
    print_result({"report": page}, options.json, page)


def _recipe_show(options: argparse.Namespace) -> None:
    from pipelines.recipe import load_recipe

    recipe = load_recipe(options.recipe, options.overrides)
    print_result(recipe.model_dump(mode="json"), options.json, recipe.to_yaml().rstrip())


def _recipe_list(options: argparse.Namespace) -> None:
    from pipelines.recipe import recipe_names

    print_result(recipe_names(), options.json, "\n".join(recipe_names()))


if __name__ == "__main__":
    sys.exit(main())
