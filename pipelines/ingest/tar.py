"""Samples of a webdataset tar, read in one pass. A tar that breaks off is an error, never a shorter dataset."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from pipelines.ingest.config import ImportConfig
from pipelines.ingest.fetch import unreadable
from pipelines.ingest.rows import SourceRow, row_from_members, wanted_member
from pipelines.storage import Location

_BLOCK = tarfile.BLOCKSIZE
_BUFFER = 4 * 2**20
_WITHOUT_CONTENT = (
    tarfile.LNKTYPE,
    tarfile.SYMTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
    tarfile.DIRTYPE,
    tarfile.FIFOTYPE,
)
"""Links, folders and devices, whatever size they state."""


def tar_rows(location: Location, name: str, config: ImportConfig) -> Iterator[SourceRow]:
    """One row a sample: consecutive members with the same name up to the first dot of its last part.

    Raises DataError for a tar that is none, or that ends before its end mark, StorageError where it is not handed out.
    """
    compression = "gzip" if name.lower().endswith("gz") else None
    try:
        with location.filesystem.open_input_stream(location.path, compression, _BUFFER) as stream:
            yield from _samples(stream, name, config)
    except (tarfile.TarError, pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise unreadable(location, error, "not a whole tar file") from None


def _samples(stream: Any, name: str, config: ImportConfig) -> Iterator[SourceRow]:
    current: str | None = None
    members: dict[str, bytes] = {}
    for path, size in _headers(stream):
        folder, slash, base = path.rpartition("/")
        stem, dot, extension = base.partition(".")
        if not stem or not dot:  # .DS_Store, ._photo.jpg, Makefile
            _skip(stream, size + -size % _BLOCK)
            continue
        key, extension = f"{folder}{slash}{stem}", extension.lower()
        if key != current or extension in members:  # the same member again: another sample of the same name
            if current is not None:
                yield row_from_members(current, f"{name}#", members, config)
            current, members = key, {}
        if wanted_member(extension, config):
            members[extension] = _read(stream, size)
            _skip(stream, -size % _BLOCK)
        else:
            members[extension] = b""
            _skip(stream, size + -size % _BLOCK)
    if current is not None:
        yield row_from_members(current, f"{name}#", members, config)


def _headers(stream: Any) -> Iterator[tuple[str, int]]:
    """Path and bytes of each regular file. The caller consumes the content, padded to whole blocks, in between."""
    extended: dict[str, str] = {}
    while True:
        block = stream.read(_BLOCK)
        if block == bytes(_BLOCK):
            return _check_end(stream)
        if len(block) < _BLOCK:
            raise tarfile.ReadError("it breaks off" if block else "it ends without an end mark")
        path, size, kind = _parse_header(block)
        if kind in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            extended |= _pax_records(_read_padded(stream, size))
        elif kind == tarfile.GNUTYPE_LONGNAME:
            extended["path"] = _text(_read_padded(stream, size).rstrip(b"\0"))
        elif kind in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE):
            yield extended.get("path", path), int(extended.get("size", size))
            extended = {}
        else:
            if kind not in _WITHOUT_CONTENT:
                _skip(stream, size + -size % _BLOCK)
            if kind not in (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK):
                extended = {}


def _parse_header(block: bytes) -> tuple[str, int, bytes]:
    """Path, bytes and kind of a member: ``tarfile`` reads a dozen fields more, which takes as long as half a decode."""
    try:
        if int(block[148:156].strip(b" \0"), 8) != sum(block[:148]) + sum(block[156:]) + 8 * ord(" "):
            raise tarfile.ReadError("a header's checksum is wrong")
        field = block[124:136]  # octal digits, or from 8 GiB on a binary number
        size = int.from_bytes(field[1:], "big") if field[0] == 0x80 else int(field.strip(b" \0") or b"0", 8)
    except ValueError:
        raise tarfile.ReadError("a header is no header of a tar") from None
    name = block[:100].partition(b"\0")[0]
    prefix = block[345:500].partition(b"\0")[0] if block[257:263] == b"ustar\0" else b""
    return _text(prefix + b"/" + name if prefix else name), size, block[156:157]


def _check_end(stream: Any) -> None:
    while rest := stream.read(_BUFFER):
        if rest.strip(b"\0"):
            raise tarfile.ReadError("more data follows its end mark, as in tars joined by cat")


def _pax_records(content: bytes) -> dict[str, str]:
    """``length key=value`` lines of an extended header."""
    records = {}
    while content.strip(b"\0"):
        length, _, _ = content.partition(b" ")
        if not length.isdigit() or int(length) <= len(length):
            raise tarfile.ReadError("a broken extended header")
        name, _, value = content[len(length) + 1 : int(length) - 1].partition(b"=")
        records[name.decode("utf-8", "replace")] = _text(value)
        content = content[int(length) :]
    return records


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _read(stream: Any, size: int) -> bytes:
    content = stream.read(size)
    if len(content) < size:
        raise tarfile.ReadError("it breaks off within a member")
    return content


def _read_padded(stream: Any, size: int) -> bytes:
    return _read(stream, size + -size % _BLOCK)[:size]


def _skip(stream: Any, size: int) -> None:
    while size > 0:
        size -= len(_read(stream, min(size, _BUFFER)))
