"""The results that the words on a command line name: an evaluation, a folder of them, or a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow.fs as pafs

from clippy.config import ConfigError
from pipelines.evaluation.result import EVALUATION_FOLDER, PICTURES, RESULT_FILE, Result, read_result
from pipelines.storage import Location, locate

_DEPTH = 3
"""Levels of folders below the one that is named: checkpoint, benchmark, protocol."""


@dataclass(frozen=True)
class FoundResult:
    """A result, and the folder that it and its pictures lie in."""

    result: Result
    folder: Location


def find_results(places: Sequence[str]) -> list[FoundResult]:
    """The results at ``places``, in their order; one that is named twice comes once.

    A place is an ``evaluation.json``, its folder, a run folder (all results below its ``evaluation/``), or a folder
    with results at most three levels below. Raises ConfigError, naming the place, where there is none or one cannot
    be read.
    """
    found: dict[str, FoundResult] = {}
    for place in map(locate, places):
        for file in _files(place):
            if file.path not in found:
                found[file.path] = FoundResult(read_result(file), _parent(file))
    return list(found.values())


def _files(place: Location) -> list[Location]:
    if place.path.endswith(".json"):
        return [place]
    if (place / RESULT_FILE).exists():
        return [place / RESULT_FILE]
    evaluations = place / EVALUATION_FOLDER
    files = list(_below(evaluations if evaluations.exists() else place, _DEPTH))
    if not files:
        raise ConfigError(place.url, [f"no {RESULT_FILE} lies here or below; write one with: clippy evaluate"])
    return files


def _below(folder: Location, depth: int) -> Iterator[Location]:
    entries = folder.list()
    if any(entry.base_name == RESULT_FILE for entry in entries):
        yield folder / RESULT_FILE
    if depth:
        for entry in entries:
            if entry.type == pafs.FileType.Directory and entry.base_name != PICTURES:
                yield from _below(folder / entry.base_name, depth - 1)


def _parent(file: Location) -> Location:
    url, path = (text.rpartition("/")[0] for text in (file.url, file.path))
    return Location(url or ".", file.filesystem, path)
