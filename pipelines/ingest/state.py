"""What DEST remembers of an import, so that a later start goes on with it: options, source, parts, staged parts."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from pipelines.columns import DataError
from pipelines.ingest.config import ImportConfig
from pipelines.ingest.fetch import FETCHES, open_location
from pipelines.ingest.parts import Part, cut_parts
from pipelines.ingest.shards import read_table
from pipelines.ingest.sources import SourceListing, list_source
from pipelines.ingest.stage import StagedPart, part_name
from pipelines.storage import Location, hold, reason

SUMMARY_FILE, STAGING_FOLDER = "_import.json", "_import"
_STATE_FILE, _SOURCE_FILE, _PARTS_FILE = "import.json", "source.parquet", "parts.parquet"


@dataclass(frozen=True)
class ImportJob:
    """What every task needs to know."""

    config: ImportConfig
    source: SourceListing

    @property
    def dest(self) -> Location:
        """Where shards go."""
        return open_location(self.config.dest, self.config.dest_storage.storage_options)

    @property
    def staging(self) -> Location:
        """Where parts lie before they are shards."""
        return self.dest / STAGING_FOLDER


@contextmanager
def held(dest: Location) -> Iterator[None]:
    """Keep DEST to this process while the block runs; the system lets go when the process ends, however it does.

    Raises DataError if another process of this disk imports into it. An object store knows no such thing.
    """
    if not dest.is_local:
        yield
        return
    is_new = not os.path.exists(dest.path)
    try:
        os.makedirs(dest.path, exist_ok=True)
        folder = os.open(dest.path, os.O_RDONLY)
    except OSError as error:
        raise DataError(f"dest: {dest.url}: is no folder that can be written: {reason(error)}") from None
    try:
        remedy = "wait for it, or choose another DEST"
        hold(folder, DataError(f"dest: {dest.url}: another command is importing into this folder; {remedy}"))
        yield
    finally:
        os.close(folder)
        if is_new:
            with suppress(OSError):  # it holds something, unless nothing came of the import
                os.rmdir(dest.path)


def read_summary(config: ImportConfig, dest: Location) -> dict[str, Any] | None:
    """What a finished import of DEST reported, or None. Raises DataError if it had other options."""
    summary = _read_json(dest / SUMMARY_FILE)
    if summary is not None:
        _check_options(config, summary["options"])
        (dest / STAGING_FOLDER).remove_folder()  # of a start killed between writing the one and removing the other
    return summary


def open_job(
    config: ImportConfig, dest: Location, progress: Callable[[str, int, int], None]
) -> tuple[ImportJob, list[Part], dict[str, str]]:
    """The job, its parts and the broken files left out: as an earlier start found them, or found and kept now.

    Raises DataError for a DEST that holds something else, other options, or a source that has changed since.
    """
    if f"{config.dest.rstrip('/')}/".startswith(f"{config.source.rstrip('/')}/"):
        raise DataError(f"dest: {config.dest} lies within the source {config.source}; choose another DEST")
    staging = dest / STAGING_FOLDER
    state = _read_json(staging / _STATE_FILE)
    if state is None:
        _check_free(config, dest)
        return _start_job(config, staging, progress)
    _check_options(config, state["options"])
    source = list_source(config)
    _check_source(config, source, read_table(staging / _SOURCE_FILE))
    parts = [Part(**row) for row in read_table(staging / _PARTS_FILE).to_pylist()]
    return ImportJob(config, source), parts, state["broken_files"]


def read_staged(staging: Location, parts: list[Part]) -> dict[int, StagedPart]:
    """The parts that were staged by an earlier start, by index."""
    names = {info.base_name for info in staging.list()}
    done = [part.index for part in parts if f"{part_name(part.index)}.json" in names]
    with ThreadPoolExecutor(FETCHES) as pool:
        markers = pool.map(lambda index: _read_json(staging / f"{part_name(index)}.json"), done)
        return {index: StagedPart(**marker) for index, marker in zip(done, markers, strict=True) if marker is not None}


def _start_job(
    config: ImportConfig, staging: Location, progress: Callable[[str, int, int], None]
) -> tuple[ImportJob, list[Part], dict[str, str]]:
    source = list_source(config)
    staging.remove_folder()
    staging.filesystem.create_dir(staging.path)
    parts, broken = cut_parts(config, source, staging, progress)
    files = {"name": [file.name for file in source.files], "size": [file.size for file in source.files]}
    _write_table(staging / _SOURCE_FILE, pa.table(files))
    _write_table(staging / _PARTS_FILE, pa.Table.from_pylist([asdict(part) for part in parts]))
    state = {"options": config.deciding(), "broken_files": broken}  # written last: with it, the job is open
    (staging / _STATE_FILE).write_text(json.dumps(state, indent=2))
    return ImportJob(config, source), parts, broken


def _check_free(config: ImportConfig, dest: Location) -> None:
    try:
        found = dest.filesystem.get_file_info(pafs.FileSelector(dest.path, recursive=True, allow_not_found=True))
    except OSError as error:
        raise DataError(f"dest: {config.dest} cannot be listed: {reason(error)}") from None
    other = next((i.path for i in found if i.path.endswith(".parquet") and f"/{STAGING_FOLDER}/" not in i.path), None)
    if other is not None:
        raise DataError(f"dest: {config.dest} holds Parquet of another origin, {other}; choose an empty DEST")


def _check_options(config: ImportConfig, known: dict[str, Any]) -> None:
    mine = config.deciding()
    differences = [f"{name}: {known.get(name)!r} -> {mine[name]!r}" for name in mine if mine[name] != known.get(name)]
    if differences:
        raise DataError(
            f"dest: {config.dest} holds an import with other options ({', '.join(differences)}); give the same ones to "
            "go on with it, or choose another DEST"
        )


def _check_source(config: ImportConfig, source: SourceListing, known: pa.Table) -> None:
    before = dict(zip(known.column("name").to_pylist(), known.column("size").to_pylist(), strict=True))
    now = {file.name: file.size for file in source.files}
    for name in [*now, *before]:
        if before.get(name) != now.get(name):
            is_now = f"has {now[name]:,} bytes" if name in now else "is gone"
            was = f"it had {before[name]:,}" if name in before else "it was not there"
            raise DataError(
                f"source: {source.root}/{name} {is_now}, and {was} when the import to {config.dest} began; restore "
                "it, or choose another DEST"
            )


def _read_json(location: Location) -> dict[str, Any] | None:
    try:
        return json.loads(location.read_text())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"dest: {location.url} cannot be read: {reason(error)}") from None


def _write_table(location: Location, table: pa.Table) -> None:
    content = pa.BufferOutputStream()
    pq.write_table(table, content, compression="zstd")
    location.write_bytes(content.getvalue())
