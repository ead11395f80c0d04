"""``clippy data``: make, import, index and look at datasets."""

from __future__ import annotations

import argparse
import json
import os
from typing import TYPE_CHECKING, Any

from cluster.verbs import add_json, print_result, table, verb

if TYPE_CHECKING:
    from pipelines.ingest.config import ImportConfig
    from pipelines.sections import DatasetConfig


def add_data_verbs(verbs: Any) -> None:
    actions = verbs.add_parser("data", help="make and index datasets").add_subparsers(
        title="commands", metavar="COMMAND", required=True
    )
    command = verb(actions, "shapes", _data_shapes, "generate the shapes benchmark: captioned scenes and masks")
    command.add_argument("out", metavar="OUT", help="folder or s3:// URL")
    command.add_argument("--rows", type=int, default=8192, help="training scenes (default: 8192)")
    command.add_argument("--seed", type=int, default=0, help="same seed, same bytes (default: 0)")
    command.add_argument("--workers", type=int, help="processes (default: one a core); the bytes do not depend on it")
    command.add_argument("--row-group-rows", type=int, default=32, help="rows of a Parquet row group (default: 32)")
    command.add_argument("--shard-rows", type=int, default=1024, help="rows of a shard (default: 1024)")
    command.add_argument("--image-size", type=int, default=64, help="pixels (default: 64)")
    command.add_argument(
        "--background-correlation",
        type=float,
        default=0.5,
        metavar="RHO",
        help="how often a bird is on its own background in training; 0.5 is no shortcut (default: 0.5)",
    )
    command.add_argument(
        "--bird-background-caption-probability",
        type=float,
        default=0.5,
        metavar="P",
        help="how often a bird's caption names the background (default: 0.5)",
    )
    add_json(command)
    _add_import(actions)
    command = verb(actions, "index", _data_index, "write the manifest of a Parquet dataset beside it")
    command.add_argument("url", metavar="URL", help="folder or s3:// URL of Parquet shards")
    command.add_argument(
        "overrides", nargs="*", metavar="data.b=c", help="e.g. data.caption_column=alt data.manifest=URL"
    )
    add_json(command)
    command = verb(actions, "inspect", _data_inspect, "tell whether a dataset is fit to train on and what to change")
    command.add_argument("url", metavar="URL", help="folder or s3:// URL of Parquet shards; only read")
    command.add_argument("overrides", nargs="*", metavar="data.b=c", help="e.g. data.caption_column=alt")
    command.add_argument("--html", metavar="FILE", help="also write a data card with a contact sheet of the images")
    command.add_argument(
        "--sample-rows", type=int, default=512, metavar="N", help="rows to decode, spread over all (default: 512)"
    )
    command.add_argument(
        "--image-size", type=int, default=224, metavar="PIXELS", help="size that training will use (default: 224)"
    )
    add_json(command)
    command = verb(
        actions, "bench", _data_bench, "run a recipe's input pipeline without its model, and say what bounds it"
    )
    command.add_argument("recipe", metavar="RECIPE", help="a recipe's name or a YAML file")
    command.add_argument(
        "overrides", nargs="*", metavar="a.b=c", help="recipe fields to set, e.g. scaling.num_workers=4"
    )
    command.add_argument("--batches", type=int, default=40, help="global batches to read (default: 40)")
    add_json(command)


def _add_import(actions: Any) -> None:
    command = verb(actions, "import", _data_import, "bring pairs of any usual form into our Parquet; again resumes")
    command.add_argument(
        "source",
        metavar="SOURCE",
        help="folder, file, URL or brace pattern of webdataset tars, Parquet, CSV, TSV, JSONL, or images and captions",
    )
    command.add_argument("dest", metavar="DEST", help="folder or URL for the Parquet")
    command.add_argument(
        "--format", choices=["wds", "parquet", "csv", "tsv", "jsonl", "files"], help="default: as the files' names tell"
    )
    for what, also in (
        ("image", "member of a tar"),
        ("caption", "member, or field of its JSON"),
        ("key", "JSON field"),
    ):
        command.add_argument(
            f"--{what}-column", metavar="NAME", help=f"column, or {also}; default: found by the usual names"
        )
    command.add_argument("--row-group-rows", type=int, help="rows of every row group but the last (default: 256)")
    command.add_argument("--shard-mib", type=float, help="size of a shard, about (default: 256)")
    command.add_argument("--shuffle", type=int, metavar="SEED", help="shuffle all rows; default: the source's order")
    command.add_argument("--deduplicate", action="store_true", help="of the same image bytes, keep the first row")
    command.add_argument(
        "--max-short-side", type=int, metavar="PIXELS", help="make larger images smaller; others keep their bytes"
    )
    command.add_argument("--quality", type=int, help="JPEG quality of images made smaller (default: 92)")
    command.add_argument(
        "--no-verify", dest="verify", action="store_false", help="read image headers only, do not decode to the end"
    )
    command.add_argument("--skip-broken-files", action="store_true", help="leave out broken files, and report them")
    for name, what in (("--storage-option", "SOURCE"), ("--dest-storage-option", "DEST")):
        command.add_argument(
            name,
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help=f"how {what} is opened, e.g. endpoint_url=http://host:9000 or anon=true; may be repeated",
        )
    command.add_argument("--ray-address", metavar="ADDRESS", help="a running cluster; default: start Ray here")
    add_json(command)


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
    print_result({"url": options.out, "rows": counts}, options.json, f"{options.out}\n{table(counts)}")


def data_config(command: str, options: argparse.Namespace) -> DatasetConfig:
    """The dataset that a command is told of. Raises ConfigError."""
    from clippy.config import ConfigError
    from pipelines.sections import DatasetConfig

    wrong = [o for o in options.overrides if not o.startswith("data.")]
    if wrong:
        raise ConfigError(command, [f"{o}: only data.* fields matter here" for o in wrong])
    overrides = [o.removeprefix("data.") for o in options.overrides]
    return DatasetConfig.load(command, f"url: {json.dumps(options.url)}", overrides)


def _data_index(options: argparse.Namespace) -> None:
    from pipelines.console import Console
    from pipelines.index import index_dataset
    from pipelines.manifest import manifest_location

    console, data = Console(), data_config("clippy data index", options)
    index = index_dataset(data, lambda done, total: console.count("shards", done, total))
    console.clear()
    summary = {"manifest": manifest_location(data).url, **index.summary()}
    named = {name: _some(getattr(index, name)) for name in ("added", "changed", "vanished")}
    print_result(summary, options.json, table({**summary, **named}))


def _some(names: tuple[str, ...]) -> str:
    """How many, and the first few by name."""
    return f"{len(names)}" + (f": {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}" if names else "")


def _data_inspect(options: argparse.Namespace) -> None:
    from pipelines.console import Console
    from pipelines.inspection.collect import inspect_data
    from pipelines.inspection.data_card import write_data_card
    from pipelines.inspection.text import as_text

    if options.html and os.path.isdir(options.html):
        raise ValueError(f"--html: {options.html} is a folder; name a file in it, such as data_card.html")
    console, data = Console(), data_config("clippy data inspect", options)
    inspection = inspect_data(data, options.sample_rows, options.image_size, options.html is not None, console.count)
    console.clear()
    values, text = inspection.as_dict(), as_text(inspection)
    if options.html:
        values["html"] = write_data_card(inspection, options.html)
        text = f"{text}\n\ndata card: {values['html']}"
    print_result(values, options.json, text)


def _data_bench(options: argparse.Namespace) -> None:
    from pipelines.recipe import load_recipe

    recipe = load_recipe(options.recipe, options.overrides)
    from pipelines.bench import bench
    from pipelines.console import Console

    result = bench(recipe, options.batches, Console())
    print_result(result.as_dict(), options.json, result.as_text())


def import_config(options: argparse.Namespace) -> ImportConfig:
    """The import as it is told. Raises ConfigError."""
    from pipelines.ingest.config import ImportConfig

    fields = {name: value for name, value in vars(options).items() if name in ImportConfig.model_fields}
    overrides = [f"{name}={json.dumps(value)}" for name, value in fields.items() if value is not None]
    overrides += [f"storage_options.{option}" for option in options.storage_option]
    overrides += [f"dest_storage.storage_options.{option}" for option in options.dest_storage_option]
    return ImportConfig.load("clippy data import", "{}", overrides)


def _data_import(options: argparse.Namespace) -> None:
    from dataclasses import asdict

    config = import_config(options)  # refused before Ray is imported
    from pipelines.ingest.run import import_dataset

    summary = asdict(import_dataset(config, ray_address=options.ray_address))
    rejects = ", ".join(f"{cause} {count:,}" for cause, count in summary["rejects"].items())
    broken = ", ".join(summary["broken_files"])
    shown = {name: value for name, value in summary.items() if name != "options"}
    shown |= {"rejects": rejects or "none", "broken_files": broken or "none"}
    print_result(summary, options.json, table(shown))
