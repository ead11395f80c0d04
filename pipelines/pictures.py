"""Pictures that a user names: files, folders, globs and URLs, all looked at before anything is computed."""

from __future__ import annotations

import fnmatch
import glob
import http.client
import os
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow.fs as pafs

from clippy.images import ImageError, verify_image
from pipelines.console import Console
from pipelines.storage import Location, explain, locate

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""What counts as a picture in a folder."""
MAX_BYTES = 128 * 2**20
"""A larger answer of a server, or object, is no picture that is wanted here."""
TIMEOUT_SECONDS, FETCH_SECONDS = 20, 120
"""Longest silence of a server, and longest time for one picture."""


@dataclass(frozen=True)
class NamedPicture:
    """A picture under the name that the user gave it, and the local file that has its bytes."""

    name: str
    file: Path

    def read(self) -> bytes:
        """The file's bytes."""
        return self.file.read_bytes()

    @property
    def stem(self) -> str:
        """The name without folders and suffix, for the names of results."""
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.name).path) if _is_http(self.name) else self.name
        return Path(path).stem or "picture"


@contextmanager
def collect_pictures(arguments: Sequence[str], console: Console | None = None) -> Iterator[list[NamedPicture]]:
    """All pictures of files, folders (not theirs), globs, http(s) and s3 URLs, in order, each once and decodable.

    Remote ones are copied to this machine for as long as the context lasts. Raises ValueError that names the argument
    for a missing file, an empty folder, a glob without a match, bytes that are no picture, and a failed download.
    """
    console = console or Console()
    found = {url: source for argument in arguments for url, source in _expand(argument)}
    with tempfile.TemporaryDirectory() as folder:
        pictures = []
        for number, (url, source) in enumerate(found.items(), 1):
            pictures.append(_local(url, source, Path(folder) / str(number)))
            if len(found) > 1:
                console.count("pictures checked", number, len(found))
        yield pictures


def _expand(argument: str) -> Iterator[tuple[str, Location | None]]:
    """Names and places of the pictures that one argument stands for; None is to be fetched by its URL."""
    if _is_http(argument):
        yield argument, None
        return
    location = locate(argument)
    kind = _kind(location)
    if kind == pafs.FileType.File:
        yield argument, location
    elif kind == pafs.FileType.Directory:
        entries = [info.base_name for info in location.list() if info.type == pafs.FileType.File]
        names = [n for n in entries if n.lower().endswith(SUFFIXES) and not n.startswith(".")]
        if not names:
            raise ValueError(f"IMAGE: {argument}: this folder has no picture; it would end with {', '.join(SUFFIXES)}")
        yield from ((f"{argument.rstrip('/')}/{name}", location / name) for name in names)
    elif glob.has_magic(argument):
        matches = list(_matches(argument, location))
        if not matches:
            raise ValueError(f"IMAGE: {argument}: no file matches this pattern; check it with: ls {argument}")
        yield from matches
    else:
        raise ValueError(f"IMAGE: {argument}: there is no such file or folder; check the name")


def _matches(pattern: str, location: Location) -> Iterator[tuple[str, Location]]:
    if location.is_local:
        for name in sorted(glob.glob(os.path.expanduser(pattern), recursive=True)):
            if os.path.isfile(name):
                yield name, locate(name)
        return
    parent, _, last = pattern.rpartition("/")
    folder = locate(parent)
    for info in folder.list():
        if info.type == pafs.FileType.File and fnmatch.fnmatchcase(info.base_name, last):
            yield f"{parent}/{info.base_name}", folder / info.base_name


def _kind(location: Location) -> pafs.FileType:
    try:
        return location.filesystem.get_file_info(location.path).type
    except OSError as error:
        raise ValueError(f"IMAGE: {location.url}: {explain(error) or error}") from None


def _local(url: str, source: Location | None, copy: Path) -> NamedPicture:
    """The picture as a local file that can be decoded to its end."""
    try:
        if source is None:
            data = _fetch(url)
        elif source.is_local:
            data, copy = source.read_bytes(), Path(source.path)
        else:
            data = _read_object(source)
        if not copy.exists():
            copy.write_bytes(data)
        verify_image(data)
    except ImageError as error:
        raise ValueError(f"IMAGE: {url}: no picture that can be used: {error}; leave it out or replace it") from None
    except OSError as error:
        raise ValueError(f"IMAGE: {url}: cannot be read: {explain(error) or error}") from None
    return NamedPicture(url, copy)


def _read_object(source: Location) -> bytes:
    size = source.filesystem.get_file_info(source.path).size
    if size is not None and size > MAX_BYTES:
        raise ValueError(f"IMAGE: {source.url}: {size} bytes are more than a picture may have, {MAX_BYTES}")
    return source.read_bytes()


def _fetch(url: str) -> bytes:
    """The bytes behind an http(s) URL. Raises ValueError for no answer, a slow one or too large a one."""
    deadline, parts, size = time.monotonic() + FETCH_SECONDS, [], 0
    quoted = urllib.parse.quote(url, safe=":/?#[]@!$&'()*+,;=%~")  # as a browser does with spaces and accents
    try:
        # Some servers refuse the standard library's own name.
        request = urllib.request.Request(quoted, headers={"User-Agent": "clippy-on-ray"})
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
            while part := answer.read1(2**18):
                parts.append(part)
                size += len(part)
                if size > MAX_BYTES:
                    raise OSError(f"larger than a picture may be, {MAX_BYTES} bytes")
                if time.monotonic() > deadline:
                    raise TimeoutError(f"not complete after {FETCH_SECONDS} s")
    except urllib.error.HTTPError as error:
        raise ValueError(f"IMAGE: {url}: the server answers {error.code} {error.reason}; check the URL") from None
    except (OSError, http.client.HTTPException, ValueError) as error:  # no server, silence, a broken answer, no URL
        problem = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise ValueError(f"IMAGE: {url}: cannot be fetched: {problem}; check the URL and the network") from None
    return b"".join(parts)


def _is_http(url: str) -> bool:
    return url.lower().startswith(("http://", "https://"))
