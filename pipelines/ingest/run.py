"""``clippy data import``: pairs from tars, Parquet, listings or folders of files to our Parquet, on Ray Data.

Two phases. Each part of the source becomes a staged Parquet of checked rows; then a plan, a pure function of what was
staged, says which rows make up which shard, and each shard is written whole. Nothing but counts travels between tasks.
A start after a kill finds what is staged and written, and goes on; the result is the same to the byte.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data

from pipelines.columns import DataError
from pipelines.console import Console, duration
from pipelines.index import index_dataset
from pipelines.ingest.config import ImportConfig
from pipelines.ingest.fetch import open_location
from pipelines.ingest.parts import Part
from pipelines.ingest.plan import ImportPlan, plan_shards
from pipelines.ingest.rows import DUPLICATE
from pipelines.ingest.shards import Shard, make_shards, read_duplicates, shard_name, write_rejects, write_shard
from pipelines.ingest.stage import StagedPart, stage_part
from pipelines.ingest.state import SUMMARY_FILE, ImportJob, held, open_job, read_staged, read_summary
from pipelines.local_ray import ray_session
from pipelines.manifest import Manifest
from pipelines.sections import DatasetConfig, ScalingConfig
from pipelines.storage import Location

REJECTS_FILE = "_rejects.parquet"
_ITEMS = 256
"""Tasks dealt out at a time."""
_REMOTE_CPUS = 0.5
"""A task that works on object storage waits about half of its time."""

Task = Callable[[ImportJob, dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class ImportSummary:
    """How an import ended; also DEST's ``_import.json``."""

    source: str
    dest: str
    format: str
    files: int
    rows_read: int
    rows_written: int
    rejects: dict[str, int]
    """Rows refused, by cause; each is in ``_rejects.parquet``."""
    broken_files: dict[str, str]
    """Files left out because they cannot be read, and what is wrong with each."""
    resized: int
    """Images made smaller."""
    shards: int
    bytes: int
    seconds: float
    """Of the start that finished it."""
    manifest_digest: str
    options: dict[str, Any]


def import_dataset(
    config: ImportConfig, console: Console | None = None, ray_address: str | None = None
) -> ImportSummary:
    """Import, or go on with an import that was stopped, and index what was written.

    Raises ValueError, with one clear sentence, for whatever cannot work; nothing half-written counts then.
    """
    console, config, started = console or Console(), config.absolute(), time.monotonic()
    dest = open_location(config.dest, config.dest_storage.storage_options)
    finished = read_summary(config, dest)
    if finished is not None:
        console.line(f"{config.dest}: imported already")
        return ImportSummary(**finished)
    with held(dest):
        summary = _import(config, dest, console, ray_address, started)
    console.line(
        f"{config.dest}: {summary.rows_written:,} of {summary.rows_read:,} rows in {duration(summary.seconds)}"
    )
    return summary


def _import(
    config: ImportConfig, dest: Location, console: Console, ray_address: str | None, started: float
) -> ImportSummary:
    job, parts, broken = open_job(config, dest, console.count)
    console.line(f"{config.source}: {len(job.source.files):,} {job.source.format} files in {len(parts):,} parts")
    with ray_session(ScalingConfig(ray_address=ray_address)):
        staged = _stage_parts(job, parts, console)
        duplicates = _find_duplicates(job, staged, console)
        plan = plan_shards(staged, duplicates, config.row_group_rows, round(config.shard_mib * 2**20), config.shuffle)
        _write_shards(job, plan, staged, duplicates, console)
    broken |= {parts[part.index].file: part.broken for part in staged if part.broken is not None}
    return _finish(job, plan, staged, duplicates, broken, started)


def _stage_parts(job: ImportJob, parts: list[Part], console: Console) -> list[StagedPart]:
    """Every part staged, in order."""
    staged = read_staged(job.staging, parts)
    if staged:
        console.line(f"going on: {len(staged):,} of {len(parts):,} parts are staged already")
    rows, started = 0, time.monotonic()
    waiting = (asdict(part) for part in parts if part.index not in staged)
    for result in _run_tasks(_stage_task, waiting, job):
        part = StagedPart(**result)
        staged[part.index] = part
        rows += part.rows_read
        speed = rows / (time.monotonic() - started)
        console.count(f"{rows:,} rows, {speed:,.0f} images/s, parts", len(staged), len(parts))
    console.clear()
    return [staged[part.index] for part in parts]


def _find_duplicates(job: ImportJob, staged: list[StagedPart], console: Console) -> list[np.ndarray]:
    if not job.config.deduplicate:
        return [np.zeros(0, dtype=bool)] * len(staged)
    console.line("looking for duplicates")
    return read_duplicates(job.staging, staged)


def _write_shards(
    job: ImportJob, plan: ImportPlan, staged: list[StagedPart], duplicates: list[np.ndarray], console: Console
) -> None:
    there = {info.base_name for info in job.dest.list()}
    done = sum(shard_name(index, plan.shards) in there for index in range(plan.shards))
    waiting = (asdict(shard) for shard in make_shards(plan, staged, duplicates) if shard.name not in there)
    for _ in _run_tasks(_write_task, waiting, job):
        done += 1
        console.count("shards", done, plan.shards)
    console.clear()


def _finish(
    job: ImportJob,
    plan: ImportPlan,
    staged: list[StagedPart],
    duplicates: list[np.ndarray],
    broken: dict[str, str],
    started: float,
) -> ImportSummary:
    """Write rejects, manifest and summary, in this order, and remove what was staged."""
    rejects: Counter[str] = Counter()
    for part in staged:
        rejects.update(part.rejects)
    rejects[DUPLICATE] += sum(int(left_out.sum()) for left_out in duplicates)
    rejects = +rejects
    listed = write_rejects(job.staging, job.dest / REJECTS_FILE, staged, duplicates)
    if not plan.shards:
        raise DataError(
            f"source: no row of {job.config.source} is a usable pair ({_by_cause(rejects)}); "
            f"{job.config.dest}/{REJECTS_FILE} names each"
        )
    manifest = _index(job)
    rows_read, rows_written = sum(part.rows_read for part in staged), int(manifest.rows.sum())
    if not rows_read - rows_written == rejects.total() == listed:
        raise RuntimeError(f"{rows_read} rows read, {rows_written} written, {listed} refused: {_by_cause(rejects)}")
    summary = ImportSummary(
        source=job.config.source,
        dest=job.config.dest,
        format=job.source.format,
        files=len(job.source.files),
        rows_read=rows_read,
        rows_written=rows_written,
        rejects=dict(rejects.most_common()),
        broken_files=broken,
        resized=sum(part.resized for part in staged),
        shards=len(manifest.shards),
        bytes=int(manifest.shard_bytes.sum()),
        seconds=time.monotonic() - started,
        manifest_digest=manifest.digest,
        options=job.config.deciding(),
    )
    _remove_leftovers(job)
    (job.dest / SUMMARY_FILE).write_text(json.dumps(asdict(summary), indent=2))
    job.staging.remove_folder()
    return summary


def _index(job: ImportJob) -> Manifest:
    options = job.config.dest_storage.storage_options
    return index_dataset(DatasetConfig(url=job.config.dest, storage_options=options)).manifest


def _remove_leftovers(job: ImportJob) -> None:
    """Files that a killed start was writing."""
    for info in job.dest.list():
        if info.base_name.startswith((".shard-", f".{REJECTS_FILE}")):
            job.dest.filesystem.delete_file(info.path)


def _by_cause(rejects: dict[str, int]) -> str:
    return ", ".join(f"{cause} {count:,}" for cause, count in rejects.items()) or "none refused"


def _run_tasks(task: Task, items: Iterable[dict[str, Any]], job: ImportJob) -> Iterator[dict[str, Any]]:
    """Run ``task`` on each item, one Ray task an item; yields results as they come, and raises a task's DataError."""
    texts = (json.dumps(item) for item in items)
    tables = []
    while some := list(islice(texts, _ITEMS)):
        tables.append(pa.table({"item": pa.array(some, pa.large_string())}))
    if not tables:
        return
    ray.data.DataContext.get_current().enable_progress_bars = False  # ours says more
    small = ray.put(replace(job, source=replace(job.source, files=())))  # files may be millions
    cpus = 1 if job.dest.is_local and "://" not in job.source.root else _REMOTE_CPUS
    results = (
        ray.data.from_arrow(tables)
        .repartition(target_num_rows_per_block=1)
        .map_batches(_run_block, batch_size=None, batch_format="pyarrow", num_cpus=cpus, fn_args=(task, small))
    )
    for batch in results.iter_batches(batch_size=None, batch_format="pyarrow"):
        for text in batch.column("result").to_pylist():
            result = json.loads(text)
            if "error" in result:
                raise DataError(result["error"])
            yield result


def _run_block(block: pa.Table, task: Task, job_ref: ray.ObjectRef) -> pa.Table:
    results = []
    for item in block.column("item").to_pylist():
        try:
            results.append(task(_fetch_job(job_ref), json.loads(item)))
        except (DataError, OSError) as error:  # raised here, it would reach the user as Ray's traceback
            results.append({"error": str(error)})
    return pa.table({"result": pa.array([json.dumps(result) for result in results], pa.large_string())})


@lru_cache(maxsize=2)
def _fetch_job(job_ref: ray.ObjectRef) -> ImportJob:
    return ray.get(job_ref)


def _stage_task(job: ImportJob, item: dict[str, Any]) -> dict[str, Any]:
    return asdict(stage_part(job.config, job.source, job.staging, Part(**item)))


def _write_task(job: ImportJob, item: dict[str, Any]) -> dict[str, Any]:
    write_shard(job.config, job.staging, job.dest, Shard(**item))
    return {}
