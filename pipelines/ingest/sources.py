"""What the SOURCE of an import is: the files it names, listed once, and the format that they are in."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

import pyarrow.fs as pafs

from pipelines.columns import DataError
from pipelines.ingest.config import Format, ImportConfig
from pipelines.ingest.fetch import open_location
from pipelines.ingest.rows import IMAGE_EXTENSIONS
from pipelines.ingest.tables import EmptyTableError, TableError, has_images
from pipelines.storage import Location, reason

_ENDINGS: dict[Format, tuple[str, ...]] = {
    "wds": (".tar", ".tar.gz", ".tgz"),
    "parquet": (".parquet", ".pq"),
    "csv": (".csv",),
    "tsv": (".tsv",),
    "jsonl": (".jsonl", ".ndjson"),
    "files": tuple(f".{extension}" for extension in IMAGE_EXTENSIONS),
}
_MAX_MATCHES = 1_000_000


@dataclass(frozen=True)
class SourceFile:
    """A file of the source: its path below the root, and its bytes."""

    name: str
    size: int


@dataclass(frozen=True)
class SourceListing:
    """All that an import reads: ``files`` of one format, sorted by name, below the folder ``root``."""

    root: str
    format: Format
    files: tuple[SourceFile, ...]


def list_source(config: ImportConfig) -> SourceListing:
    """List the source, once, and tell its format. Raises DataError naming what is missing or ambiguous."""
    root, infos, is_file = _list(config)
    start = len(root.path.rstrip("/")) + 1
    files = sorted((SourceFile(info.path[start:], info.size) for info in infos), key=lambda file: file.name)
    if config.format is not None and is_file:
        return SourceListing(root.url, config.format, tuple(files))
    kinds = {kind: [f for f in files if f.name.lower().endswith(ends)] for kind, ends in _ENDINGS.items()}
    format = config.format or _tell_format(config, root, kinds)
    chosen = kinds[format]
    if format == "files":  # captions lie in files beside the images
        chosen = files
    if not kinds[format]:
        raise DataError(f"format: no {format} file ({', '.join(_ENDINGS[format])}) in {config.source}")
    return SourceListing(root.url, format, tuple(chosen))


def expand_braces(pattern: str) -> list[str]:
    """``{00..12}`` counted, zeros kept, and ``{a,b}`` listed: every name that the pattern stands for, in order.

    Raises DataError for a brace that is neither, or for more than a million names.
    """
    pieces = re.split(r"\{([^{}]*)\}", pattern)
    if any(brace in piece for piece in pieces for brace in "{}"):
        raise DataError(f"source: {pattern}: a brace is not closed, or lies within another; write {{00000..00012}}")
    choices = [[piece] if i % 2 == 0 else _choices(piece, pattern) for i, piece in enumerate(pieces)]
    count = 1
    for choice in choices:
        count *= len(choice)
    if count > _MAX_MATCHES:
        raise DataError(f"source: {pattern} stands for {count:,} names; name the folder instead")
    return ["".join(names) for names in itertools.product(*choices)]


def _choices(inside: str, pattern: str) -> list[str]:
    counted = re.fullmatch(r"(\d+)\.\.(\d+)", inside)
    if counted:
        first, last = counted.groups()
        if int(first) > int(last):
            raise DataError(f"source: {pattern}: {{{inside}}} counts down; write {{{last}..{first}}}")
        if int(last) - int(first) >= _MAX_MATCHES:
            raise DataError(f"source: {pattern} stands for too many names; name the folder instead")
        width = len(first) if first.startswith("0") else 0
        return [f"{number:0{width}d}" for number in range(int(first), int(last) + 1)]
    if "," in inside:
        return inside.split(",")
    raise DataError(f"source: {pattern}: {{{inside}}} is neither a range, {{00000..00012}}, nor a list, {{a,b}}")


def _list(config: ImportConfig) -> tuple[Location, list[pafs.FileInfo], bool]:
    """The root folder, the files in or at the source, and whether the source names a single file."""
    names = expand_braces(config.source)
    places = [open_location(name, config.storage_options) for name in names]
    try:
        infos = places[0].filesystem.get_file_info([place.path for place in places])
        missing = [place.url for place, info in zip(places, infos, strict=True) if info.type == pafs.FileType.NotFound]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise DataError(f"source: {missing[0]}{more} does not exist; name a folder, a file or {{000..012}}.tar")
        files = [info for info in infos if info.type == pafs.FileType.File]
        for info in infos:
            if info.type == pafs.FileType.Directory:
                inside = places[0].filesystem.get_file_info(pafs.FileSelector(info.path, recursive=True))
                files += [
                    entry
                    for entry in inside
                    if entry.type == pafs.FileType.File and not _is_hidden(entry.path[len(info.path) :].strip("/"))
                ]
        files = list({info.path: info for info in files}.values())  # {a,a} and {a,a/b.tar} name some twice
    except UnicodeDecodeError as error:
        raise DataError(
            f"source: {config.source} holds a file whose name is no UTF-8, {error.object!r}; rename it"
        ) from None
    except OSError as error:
        raise DataError(f"source: {config.source} cannot be listed: {reason(error)}") from None
    is_folder = len(names) == 1 and infos[0].type == pafs.FileType.Directory
    root = config.source if is_folder else config.source.partition("{")[0].rpartition("/")[0] or "/"
    return open_location(root, config.storage_options), files, len(names) == 1 and not is_folder


def _is_hidden(name: str) -> bool:
    """Whether a part of the path begins with '.' or '_', as what tools keep for themselves does."""
    return any(part.startswith(("_", ".")) for part in name.split("/"))


def _any_has_images(config: ImportConfig, root: Location, files: list[SourceFile], kind: Format) -> bool:
    """Whether the first of some tables that can be read and has a row holds images or their paths."""
    for file in files:
        try:
            return has_images(config, root / file.name, kind)
        except EmptyTableError:
            continue
        except TableError as error:
            if not config.skip_broken_files:
                raise DataError(f"{error}; --skip-broken-files leaves such files out") from None
    return False


def _tell_format(config: ImportConfig, root: Location, kinds: dict[Format, list[SourceFile]]) -> Format:
    """The one format that can be meant. img2dataset keeps a Parquet without images beside its tars and files."""
    tables = [kind for kind in kinds if kind not in ("wds", "files") and kinds[kind]]
    useful = [kind for kind in tables if _any_has_images(config, root, kinds[kind], kind)]
    tars: list[Format] = ["wds"] if kinds["wds"] else []
    candidates = tars + useful
    if len(candidates) > 1:
        described = " and ".join(f"{len(kinds[kind])} {kind}" for kind in candidates)
        raise DataError(f"source: {config.source} holds {described} files; say which with --format {candidates[0]}")
    if candidates:
        return candidates[0]
    if kinds["files"]:
        return "files"
    if tables:
        return tables[0]  # without a usable column: the reader says which it looked for
    raise DataError(
        f"source: nothing to import in {config.source}; it may hold webdataset tars, Parquet, CSV, TSV or JSONL, or "
        "images with captions beside them"
    )
