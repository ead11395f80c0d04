"""Images per second of the training stream against a limit and two peers, on the same photographs in the same run.

    python benchmarks/input_pipeline.py [--sizes 224 448] [--rounds 3] [--only limit,ours] [--json]

limit           a bare loop over the stream's decoder on rows in memory, one process a core
ours            what a training reads: two workers that do nothing with their batches
ours_50ms       ours from object storage (nginx, or moto) on loopback, every request 50 ms late
open_clip       open_clip's own webdataset loader with its own training transform, one worker a core
plain_ray_data  ray.data.read_parquet, Pillow in map_batches, iter_batches

They run one after the other, each in a fresh process and alone, in turn for so many rounds. The figures are medians,
and so are the ratios, each of what ran in the same round: a machine's speed wanders more from one round to the next.
Needs open_clip_torch and webdataset==0.2.86 for open_clip; uses nginx where it is installed. ``loaders.py`` says what
exactly is timed, ``photographs.py`` what the pictures are.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import loaders
from photographs import write_photographs
from servers import BUCKET, clean_up_when_terminated, serve_folder, storage_options
from storage_proxy import start_proxy

from pipelines.console import Console

NAMES = ("limit", "ours", "ours_50ms", "open_clip", "plain_ray_data")
"""In turn: those whose ratios are asked for stand side by side."""
RATIOS = (("ours", "limit"), ("ours", "open_clip"), ("ours", "plain_ray_data"), ("ours_50ms", "ours"))


def main() -> None:
    """Make the photographs, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 448], help="pixels (default: 224 448)")
    parser.add_argument("--rows", type=int, default=2304, help="photographs, read again and again (default: 2304)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=30, help="of each measurement, half count (default: 30)")
    parser.add_argument("--only", default=",".join(NAMES), help=f"some of {','.join(NAMES)}")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    clean_up_when_terminated()
    names = options.only.split(",")
    if unknown := set(names) - set(NAMES):
        parser.error(f"--only: {', '.join(sorted(unknown))} is none of {', '.join(NAMES)}")
    figures = measure(names, options.sizes, options.rows, options.rounds, options.seconds)
    print(json.dumps(figures, indent=2) if options.json else table(figures, options))


def measure(names: list[str], sizes: list[int], rows: int, rounds: int, seconds: float) -> dict[str, dict[str, float]]:
    """Median images/s by size and name, and median ratios by size and ``name/name``."""
    console = Console()
    if (load := os.getloadavg()[0]) > 0.25 * loaders.CORES:
        console.line(
            f"this machine is busy (load {load:.1f}): whatever else runs takes from some figures, not from all"
        )
    found: dict[str, dict[str, list[float]]] = {str(size): {name: [] for name in names} for size in sizes}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="photographs")))
        console.line(f"making {rows} photographs")
        write_photographs(folder, rows)
        alone(partial(loaders.make_job, str(folder / "parquet"), "{}", sizes[0], 0, str(folder)))  # the manifest
        endpoint = ""
        if "ours_50ms" in names:
            endpoint = stack.enter_context(
                start_proxy(stack.enter_context(serve_folder(folder / "parquet")), delay_ms=50)
            )
        for round_ in range(rounds):
            for size in sizes:
                for name in names:
                    speed = alone(loader(name, folder, endpoint, size, seconds))
                    found[str(size)][name].append(speed)
                    console.line(f"round {round_ + 1} of {rounds}, {size} pixels, {name}: {speed:.0f} images/s")
                of_round = summarise({name: speeds[-1:] for name, speeds in found[str(size)].items()})
                for ratio in (name for name in of_round if name not in names):
                    console.line(f"round {round_ + 1} of {rounds}, {size} pixels, {ratio}: {of_round[ratio]:.3f}")
    return {size: summarise(rates) for size, rates in found.items()}


def summarise(rates: dict[str, list[float]]) -> dict[str, float]:
    """Medians of images/s by name, each a list over rounds, and of the RATIOS within a round."""
    figures = {name: round(statistics.median(speeds), 1) for name, speeds in rates.items()}
    for name, other in RATIOS:
        if {name, other} <= rates.keys():
            pairs = zip(rates[name], rates[other], strict=True)
            figures[f"{name}/{other}"] = round(statistics.median(one / two for one, two in pairs), 3)
    return figures


def loader(name: str, folder: Path, endpoint: str, size: int, seconds: float) -> Callable[[], float]:
    """The measurement of that name."""
    if name == "ours":
        return partial(loaders.ours, str(folder / "parquet"), "{}", size, seconds, str(folder))
    if name == "ours_50ms":
        return partial(loaders.ours, f"s3://{BUCKET}", storage_options(endpoint), size, seconds, str(folder))
    return partial(getattr(loaders, name), folder, size, seconds)


def alone(function: Callable[[], Any]) -> Any:
    """The result of ``function`` in a fresh process, whose chatter goes to standard error: ours is the result."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=os.dup2, initargs=(2, 1)) as pool:
        return pool.submit(function).result()


def table(figures: dict[str, dict[str, float]], options: argparse.Namespace) -> str:
    """A line for each name and ratio, a column for each size."""
    lines = [
        f"{options.rows} photographs of 1024 x 768, 640 x 480 and 384 x 256 pixels, a third each",
        f"{os.cpu_count()} cores; images/s, median of {options.rounds}",
        " " * 20 + "".join(f"{f'{size} pixels':>14}" for size in figures),
    ]
    for name in next(iter(figures.values())):
        digits = 0 if name in NAMES else 2
        lines.append(f"{name:20}" + "".join(f"{figures[size][name]:14.{digits}f}" for size in figures))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
