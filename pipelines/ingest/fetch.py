"""Files that an import's rows name, fetched side by side: waiting for one does not hold up the next."""

from __future__ import annotations

import errno
import json
import posixpath
from collections.abc import Sequence
from concurrent.futures import Executor
from functools import lru_cache
from typing import Any

from pipelines.columns import DataError
from pipelines.storage import Location, is_of_storage, locate, reason

FETCHES = 16
"""Files that a task fetches at a time."""
MISSING = (FileNotFoundError, IsADirectoryError, NotADirectoryError)


class StorageError(DataError):
    """The object store failed, which says nothing of the file: to leave it out as broken would lose its rows."""


def unreadable(location: Location, error: Exception, sentence: str, kind: type[DataError] = DataError) -> DataError:
    """What to raise for an ``error`` of reading a file: a StorageError, or a ``kind`` with ``sentence`` and reason."""
    if not location.is_local and is_of_storage(error):
        remedy = "once it does, the same command goes on"
        return StorageError(f"{location.url}: the object store does not hand it out: {reason(error)}; {remedy}")
    return kind(f"{location.url}: {sentence}: {reason(error)}")


def open_location(url: str, options: dict[str, Any]) -> Location:
    """As ``locate``, but with one filesystem for all that a process reads from a bucket."""
    protocol, separator, rest = url.partition("://")
    if not separator or protocol == "file":
        return locate(url)
    bucket, _, path = rest.partition("/")
    base = _open_bucket(f"{protocol}://{bucket}", json.dumps(options, sort_keys=True))
    return Location(url, base.filesystem, f"{base.path}/{path}".rstrip("/"))


@lru_cache(maxsize=64)
def _open_bucket(url: str, options: str) -> Location:
    return locate(url, json.loads(options))


def fetch_files(
    paths: Sequence[str | None], folders: Sequence[str], options: dict[str, Any], pool: Executor
) -> list[bytes | str | None]:
    """The content of each file, a sentence where there is none, or None where no path is given.

    A relative path is looked for in each of ``folders``. Raises DataError for a file that is there and cannot be read.
    """
    return list(pool.map(lambda path: None if not path else _fetch(path, folders, options), paths))


def _fetch(path: str, folders: Sequence[str], options: dict[str, Any]) -> bytes | str:
    if path.startswith(("http://", "https://")):
        return f"{path}: web addresses are not fetched; img2dataset downloads them"
    if "\0" in path:
        return f"{path!r} is no path"
    for url in _candidates(path, folders):
        try:
            location = open_location(url, options)
        except ValueError as error:  # one row's nonsense, as "x://", is no reason to end the import
            return str(error)
        try:
            return location.read_bytes()
        except MISSING:
            continue
        except OSError as error:
            too_long = error.errno == errno.ENAMETOOLONG
            if too_long or (location.is_local and location.filesystem.get_file_info(location.path).is_file is False):
                continue  # a folder, or a name that no file can have
            raise unreadable(location, error, "cannot be read") from None
    return f"{path} does not exist"


def _candidates(path: str, folders: Sequence[str]) -> list[str]:
    if "://" in path or (path.startswith("/") and not any("://" in folder for folder in folders)):
        return [path]
    return list(dict.fromkeys(_join(folder, path) for folder in folders))


def _join(folder: str, path: str) -> str:
    joined = f"{folder.rstrip('/')}/{path.lstrip('/')}"
    protocol, separator, place = joined.partition("://")
    if separator and {".", ".."} & set(path.split("/")):  # names of folders to a disk, but letters to an object store
        return f"{protocol}://{posixpath.normpath(place)}"
    return joined
