"""The ``clippy`` command: verbs only. Each imports what it needs when it runs, so that ``--help`` is instant."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

_OVERRIDES = "recipe fields to set, e.g. train.steps=200 model.image.pooling=cls"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 2 for a user's mistake, 1 for a failure, 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    action: Callable[[argparse.Namespace], int | None] = options.action
    try:
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="clippy", description="Train, evaluate and use CLIPpy, which learns where things are from captions alone."
    )
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_quickstart(verbs)
    _add_train(verbs)
    _add_evaluate(verbs)
    _add_report(verbs)
    _add_recipe(verbs)
    _add_data(verbs)
    return parser


def _verb(verbs: Any, name: str, action: Callable[[argparse.Namespace], int | None], help: str) -> Any:
    verb = verbs.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
    verb.set_defaults(action=action)
    return verb


def _add_json(verb: Any) -> None:
    verb.add_argument("--json", action="store_true", help="print the result as JSON on standard output")


def _add_quickstart(verbs: Any) -> None:
    verb = _verb(verbs, "quickstart", _quickstart, "make data, train, evaluate and report, all in small; again resumes")
    verb.add_argument("overrides", nargs="*", metavar="a.b=c", help=_OVERRIDES)
    verb.add_argument(
        "--out", default="quickstart", metavar="FOLDER", help="folder for everything (default: quickstart)"
    )
    _add_json(verb)


def _add_train(verbs: Any) -> None:
    verb = _verb(verbs, "train", _train, "train as a recipe says; the same command again resumes")
    verb.add_argument("recipe", metavar="RECIPE", help="a recipe's name (see: clippy recipe list) or a YAML file")
    verb.add_argument("overrides", nargs="*", metavar="a.b=c", help=_OVERRIDES)
    _add_json(verb)


def _add_evaluate(verbs: Any) -> None:
    verb = _verb(verbs, "evaluate", _evaluate, "measure a trained model on a benchmark, beside trivial answers")
    verb.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="a run folder, one of its checkpoints, or a model folder"
    )
    verb.add_argument("--benchmark", choices=["shapes"], help="default: the one that the run's recipe names")
    verb.add_argument("--data", metavar="URL", help="the benchmark's data; default: as the run's recipe says")
    verb.add_argument(
        "--out", metavar="FOLDER", help="for numbers and pictures; default: evaluation/ in the run folder"
    )
    verb.add_argument("--ray-address", metavar="ADDRESS", help="a running cluster; default: as the run's recipe says")
    _add_json(verb)


def _add_report(verbs: Any) -> None:
    verb = _verb(verbs, "report", _report, "write a run as one self-contained HTML page")
    verb.add_argument("run", metavar="RUN", help="a run folder")
    verb.add_argument("--out", metavar="FILE", help="default: report.html in the run folder")
    _add_json(verb)


def _add_recipe(verbs: Any) -> None:
    actions = verbs.add_parser("recipe", help="list recipes, show one resolved").add_subparsers(
        title="commands", metavar="COMMAND", required=True
    )
    verb = _verb(
        actions, "show", _recipe_show, "print a recipe with all defaults and overrides, as YAML that can be run"
    )
    verb.add_argument("recipe", metavar="NAME")
    verb.add_argument("overrides", nargs="*", metavar="a.b=c", help=_OVERRIDES)
    _add_json(verb)
    _add_json(_verb(actions, "list", _recipe_list, "names of the recipes that ship with the package"))


def _add_data(verbs: Any) -> None:
    actions = verbs.add_parser("data", help="make and index datasets").add_subparsers(
        title="commands", metavar="COMMAND", required=True
    )
    verb = _verb(actions, "shapes", _data_shapes, "generate the shapes benchmark: captioned scenes and masks")
    verb.add_argument("out", metavar="OUT", help="folder or s3:// URL")
    verb.add_argument("--rows", type=int, default=8192, help="training scenes (default: 8192)")
    verb.add_argument("--seed", type=int, default=0, help="same seed, same bytes (default: 0)")
    verb.add_argument("--workers", type=int, help="processes (default: one a core); the bytes do not depend on it")
    verb.add_argument("--row-group-rows", type=int, default=32, help="rows of a Parquet row group (default: 32)")
    verb.add_argument("--shard-rows", type=int, default=1024, help="rows of a shard (default: 1024)")
    verb.add_argument("--image-size", type=int, default=64, help="pixels (default: 64)")
    verb.add_argument(
        "--background-correlation",
        type=float,
        default=0.5,
        metavar="RHO",
        help="how often a bird is on its own background in training; 0.5 is no shortcut (default: 0.5)",
    )
    verb.add_argument(
        "--bird-background-caption-probability",
        type=float,
        default=0.5,
        metavar="P",
        help="how often a bird's caption names the background (default: 0.5)",
    )
    _add_json(verb)
    verb = _verb(actions, "index", _data_index, "write the manifest of a Parquet dataset beside it")
    verb.add_argument("url", metavar="URL", help="folder or s3:// URL of Parquet shards")
    verb.add_argument("overrides", nargs="*", metavar="data.b=c", help="e.g. data.caption_column=alt data.manifest=URL")
    _add_json(verb)


def _print(values: Any, as_json: bool, text: str) -> None:
    print(json.dumps(values, indent=2) if as_json else text)


def _table(values: dict[str, Any]) -> str:
    width = max(map(len, values))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in values.items())


def _quickstart(options: argparse.Namespace) -> None:
    from cluster.quickstart import quickstart

    results = quickstart(options.out, options.overrides)
    _print(results.as_dict(), options.json, results.as_text())


def _train(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from pipelines.recipe import load_recipe

    recipe = load_recipe(options.recipe, options.overrides)  # a wrong recipe is refused before torch is imported
    from pipelines.train import run

    summary = run(recipe)
    if options.json:
        print(json.dumps(asdict(summary), indent=2))
    return 0 if summary.status == "finished" else 130


def _evaluate(options: argparse.Namespace) -> None:
    from pipelines.evaluate import evaluate

    evaluation = evaluate(
        options.checkpoint,
        benchmark=options.benchmark,
        data=options.data,
        out=options.out,
        ray_address=options.ray_address,
    )
    _print(evaluation.as_dict(), options.json, evaluation.as_text())


def _report(options: argparse.Namespace) -> None:
    from pipelines.report import write_report

    page = write_report(options.run, options.out)
    _print({"report": page}, options.json, page)


def _recipe_show(options: argparse.Namespace) -> None:
    from pipelines.recipe import load_recipe

    recipe = load_recipe(options.recipe, options.overrides)
    _print(recipe.model_dump(mode="json"), options.json, recipe.to_yaml().rstrip())


def _recipe_list(options: argparse.Namespace) -> None:
    from pipelines.recipe import recipe_names

    _print(recipe_names(), options.json, "\n".join(recipe_names()))


def _data_shapes(options: argparse.Namespace) -> None:
    from pipelines.console import Console
    from pipelines.shapes import generate
    from pipelines.storage import locate

    console, out = Console(), locate(options.out)
    counts = generate(
        out.path,
        filesystem=out.filesystem,
        rows=options.rows,
        seed=options.seed,
        workers=options.workers,
        row_group_rows=options.row_group_rows,
        shard_rows=options.shard_rows,
        image_size=options.image_size,
        background_correlation=options.background_correlation,
        bird_background_caption_probability=options.bird_background_caption_probability,
        progress=lambda done, total: console.count("scenes", done, total),
    )
    console.clear()
    _print({"url": options.out, "rows": counts}, options.json, f"{options.out}\n{_table(counts)}")


def _data_index(options: argparse.Namespace) -> None:
    from clippy.config import ConfigError
    from pipelines.console import Console
    from pipelines.manifest import build_manifest, manifest_location
    from pipelines.recipe import DataConfig

    wrong = [o for o in options.overrides if not o.startswith("data.")]
    if wrong:
        raise ConfigError("clippy data index", [f"{o}: only data.* fields matter here" for o in wrong])
    console = Console()
    data = DataConfig.load(
        "clippy data index", f"url: {json.dumps(options.url)}", [o.removeprefix("data.") for o in options.overrides]
    )
    summary = build_manifest(data, lambda done, total: console.count("shards", done, total)).summary()
    console.clear()
    summary = {"manifest": manifest_location(data).url, **summary}
    _print(summary, options.json, _table(summary))


if __name__ == "__main__":
    sys.exit(main())
