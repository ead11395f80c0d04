"""Time to the first batch, memory of the driver and requests to storage, by the number of shards of a dataset.

    python benchmarks/many_shards.py [--shards 100 1000 13400] [--json]

Each shard has 39 row groups of 256 rows, as one of ten thousand photographs has, so that the manifest is as long as a
real one: 13,400 shards are 134 million rows. The pictures are tiny and the same in every shard (hard links of one
file), because what is measured is what grows with the number of shards. The dataset lies on object storage (nginx, or
moto) behind the counting proxy of ``storage_proxy.py``, its manifest beside it, as ``clippy data index`` left it.

first_batch_seconds  from the start of a fresh process, imports and Ray included, until every worker has its first batch
driver_rss_bytes     the most resident memory that the driver had until then
list_requests        listings that storage was asked for until then
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import loaders
import pyarrow as pa
import pyarrow.parquet as pq
from photographs import ROW_GROUP_ROWS, make_photograph
from PIL import Image
from servers import BUCKET, clean_up_when_terminated, serve_folder, storage_options
from storage_proxy import read_counts, start_proxy

from pipelines.console import Console
from pipelines.sections import DatasetConfig

GROUPS = 39
IMAGE_SIZE = 224


def main() -> None:
    """Make the shards, index them, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, nargs="+", default=[100, 1000, 13400])
    parser.add_argument("--delay-ms", type=float, default=0, help="added to every request (default: 0)")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--first-batch", nargs=3, metavar=("URL", "ENDPOINT", "STARTED"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.first_batch:
        url, endpoint, started = options.first_batch
        print(json.dumps(first_batch(url, endpoint, float(started))))
        return
    clean_up_when_terminated()
    results = {}
    for shards in options.shards:
        with tempfile.TemporaryDirectory(prefix="shards") as folder:
            results[str(shards)] = measure(Path(folder), shards, options.delay_ms)
    if options.json:
        names = ("first_batch_seconds", "driver_rss_bytes", "list_requests")
        print(
            json.dumps({shards: {name: found[name] for name in names} for shards, found in results.items()}, indent=2)
        )
    else:
        print(table(results))


def measure(folder: Path, shards: int, delay_ms: float) -> dict[str, Any]:
    """All figures of a dataset of so many shards."""
    from pipelines.index import index_dataset

    console = Console()
    make_shards(folder, shards)
    started = time.perf_counter()
    index_dataset(DatasetConfig(url=str(folder)), lambda done, total: console.count("shards indexed", done, total))
    index_seconds = time.perf_counter() - started
    console.line(f"indexed {shards} shards of this disk in {index_seconds:.1f} s")
    with serve_folder(folder) as server, start_proxy(server, delay_ms=delay_ms) as endpoint:
        command = [sys.executable, __file__, "--first-batch", f"s3://{BUCKET}", endpoint, str(time.time())]
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    console.line(f"{shards} shards: first batch after {found['first_batch_seconds']:.1f} s")
    return {"index_seconds": index_seconds, **found}


def make_shards(folder: Path, shards: int) -> None:
    """So many Parquet files of our layout, all one file under as many names."""
    images = []
    for index in range(8):
        picture = Image.open(io.BytesIO(make_photograph(0, index))).resize((48, 32))
        content = io.BytesIO()
        picture.save(content, "JPEG")
        images.append(content.getvalue())
    rows = range(GROUPS * ROW_GROUP_ROWS)
    columns = {
        "key": [f"{row:08d}" for row in rows],
        "caption": [f"picture number {row}" for row in rows],
        "image": pa.array([images[row % len(images)] for row in rows], pa.large_binary()),
    }
    first = folder / "00000.parquet"
    pq.write_table(pa.table(columns), first, row_group_size=ROW_GROUP_ROWS, compression="zstd")
    for shard in range(1, shards):
        os.link(first, folder / f"{shard:05d}.parquet")


def first_batch(url: str, endpoint: str, started: float) -> dict[str, Any]:
    """In the fresh process: start a training's stream, one epoch long, and wait for its first batch."""
    import ray

    from pipelines.local_ray import ray_session

    marks = {"imports": time.time()}
    with tempfile.TemporaryDirectory() as scratch:
        job = loaders.make_job(url, storage_options(endpoint), IMAGE_SIZE, 0, scratch)
        marks["manifest"] = time.time()
        with ray_session(job.recipe.scaling):
            marks["ray"] = time.time()
            shards, ahead = loaders.split_stream(job)
            wait = ray.remote(num_cpus=0)(_wait)
            waiting = [wait.remote(job, shard, ahead, rank) for rank, shard in enumerate(shards)]
            ray.wait(waiting, num_returns=len(waiting))  # the workers' own clock says when, if they were first
            counts = read_counts(endpoint)
            marks["first_batch"] = max(ray.get(waiting))
            rss = peak_resident_bytes()
    return {
        "first_batch_seconds": round(marks["first_batch"] - started, 2),
        "driver_rss_bytes": rss,
        "list_requests": counts["list"],
        "requests": counts["requests"],
        "steps": job.recipe.train.steps,
        "seconds_until": {name: round(when - started, 2) for name, when in marks.items()},
    }


def _wait(job: Any, shard: Any, ahead: int, rank: int) -> float:
    next(iter(loaders.worker_batches(job, shard, ahead, rank)))
    return time.time()


def peak_resident_bytes() -> int:
    """Of this process, without what the process that started it had."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    except OSError:  # no Linux; macOS counts bytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def table(results: dict[str, dict[str, Any]]) -> str:
    """A line for each number of shards."""
    lines = ["  shards      steps   index  first batch   driver RSS   requests   listings   manifest read   Ray up"]
    for shards, found in results.items():
        until = found["seconds_until"]
        lines.append(
            f"{shards:>8}{found['steps']:>11}{found['index_seconds']:>6.1f} s{found['first_batch_seconds']:>11.1f} s"
            f"{found['driver_rss_bytes'] / 2**20:>9.0f} MiB{found['requests']:>11}{found['list_requests']:>11}"
            f"{until['manifest']:>14.1f} s{until['ray']:>7.1f} s"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
