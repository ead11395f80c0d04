"""A benchmark's files under the folder that a user names: where they lie, what is missing, and their bytes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.fs as pafs

from pipelines.columns import DataError
from pipelines.shards import retry
from pipelines.storage import Location


@dataclass(frozen=True)
class Layout:
    """How a benchmark's files usually lie."""

    title: str
    """The benchmark's name as people say it."""
    tree: str
    """The files as a text to be shown, of the usual split."""
    homes: tuple[str, ...] = ("",)
    """Where in the user's folder the benchmark's own folder may be, the usual place first; "" is that folder itself."""

    def find(self, root: Location, *needed: str) -> tuple[Location, str]:
        """The benchmark's own folder, and the first of the ``needed`` entries that is in it.

        Raises DataError, with the expected tree, where no home has any of them.
        """
        for home in self.homes:
            folder = root / home if home else root
            found = first_existing(folder, *needed)
            if found is not None:
                return folder, found
        raise self.missing(root, "/".join(filter(None, (self.homes[0], needed[0]))))

    def find_within(self, folder: Location, root: Location, *names: str) -> str:
        """The first of some entries that is in the benchmark's own folder below the user's ``root``.

        Raises DataError, with the expected tree, where it has none of them.
        """
        found = first_existing(folder, *names)
        if found is None:
            raise self.missing(root, names[0])
        return found

    def missing(self, root: Location, what: str) -> DataError:
        """The error for files that are not there."""
        tree = "\n".join(f"  {line}" for line in self.tree.strip("\n").splitlines())
        return DataError(f"{root.url}: no {self.title} here, {what} is missing; expected:\n{tree}")


def first_existing(folder: Location, *names: str) -> str | None:
    """The first of some entries that is in a folder, or None."""
    return next((name for name in names if exists(folder / name)), None)


def exists(location: Location) -> bool:
    """Whether a file or folder is there. Raises DataError for storage that cannot be asked."""
    return retry(location.exists, location)


def list_files(folder: Location, suffixes: Sequence[str], recursive: bool = False) -> list[str]:
    """Paths inside a folder that end with one of some lower-case suffixes, sorted; none if there is no folder.

    What is hidden is left out, such as the ``._a.jpg`` that archives of a Mac leave behind and what notebooks keep in
    ``.ipynb_checkpoints``.
    """
    selector = pafs.FileSelector(folder.path, recursive=recursive, allow_not_found=True)
    infos = retry(lambda: folder.filesystem.get_file_info(selector), folder)
    start = len(folder.path.rstrip("/")) + 1
    return sorted(
        info.path[start:]
        for info in infos
        if info.type == pafs.FileType.File
        and info.base_name.lower().endswith(tuple(suffixes))
        and "/." not in f"/{info.path[start:]}"
    )


def list_pictures(folder: Location) -> list[str]:
    """Paths of all pictures inside a folder and its subfolders, sorted."""
    from pipelines.pictures import SUFFIXES  # brings torch, which the catalogue's names do without

    return list_files(folder, SUFFIXES, recursive=True)


def list_stems(folder: Location, suffix: str, recursive: bool = False) -> tuple[str, ...]:
    """``list_files`` without the suffix, which must be written just so."""
    files = list_files(folder, (suffix.lower(),), recursive)
    return tuple(file.removesuffix(suffix) for file in files if file.endswith(suffix))


def read_file(location: Location) -> bytes:
    """A whole file. Raises DataError, naming it, where it is missing or cannot be read."""
    try:
        return retry(location.read_bytes, location)
    except FileNotFoundError:
        raise DataError(f"{location.url}: is missing") from None


def read_text(location: Location) -> str:
    """A whole file of UTF-8. Raises DataError."""
    try:
        return read_file(location).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{location.url}: is no UTF-8 text ({error})") from None


def read_json(location: Location) -> Any:
    """A file of JSON. Raises DataError."""
    try:
        return json.loads(read_text(location))
    except json.JSONDecodeError as error:
        raise DataError(f"{location.url}: is no JSON ({error})") from None
