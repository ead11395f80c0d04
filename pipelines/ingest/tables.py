"""Rows of Parquet, CSV, TSV and JSONL: which columns hold a pair, and what lies in them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.columns import (
    IMAGE_NAMES,
    DataError,
    find_status,
    holds_images,
    is_list,
    is_text,
    key_text,
    plain_type,
    values,
)
from pipelines.ingest.config import Format, ImportConfig
from pipelines.ingest.fetch import StorageError, fetch_files, unreadable
from pipelines.ingest.rows import CAPTION_FIELDS, KEY_FIELDS, MISSING_FILE, NULL_IMAGE, STATUS, SourceRow, pick
from pipelines.storage import Location

PATH_NAMES = (
    *("filepath", "file_path", "image_path", "img_path", "image_file", "file_name", "filename", "path"),
    *("image", "img", "file", "image_url", "img_url", "url", "uri"),
)
_KEY_NAMES = (*KEY_FIELDS, "sha256")
_BATCH_ROWS = 64
_BUFFER = 4 * 2**20
_PEEK_LINES = 100
_FIELD_LIMIT = 16 * 2**20

Kind = Literal["bytes", "struct", "text", "list", "other"]


@dataclass(frozen=True)
class TableColumns:
    """Names of the columns that hold a pair; ``image_kind`` is bytes, a struct of bytes and path, or text: a path."""

    image: str
    image_kind: Kind
    caption: str
    key: str | None
    status: str | None

    def names(self) -> list[str]:
        """All that are to be read."""
        return list(dict.fromkeys(n for n in (self.image, self.caption, self.key, self.status) if n is not None))


def find_table_columns(
    kinds: Mapping[str, Kind], first: Mapping[str, Any], status: str | None, config: ImportConfig, name: str
) -> TableColumns:
    """The columns of a table from its columns' kinds and, for those of text, the first value that is not null.

    Raises DataError naming the file, what it has and the option that tells.
    """
    has = ", ".join(kinds)
    image = _find_image(kinds, first, config, name)
    captions = [column for column, kind in kinds.items() if kind in ("text", "list") and column != image]
    caption = pick(kinds if config.caption_column else captions, config.caption_column, CAPTION_FIELDS)
    if caption is None:
        wanted = repr(config.caption_column) if config.caption_column else f"caption ({', '.join(CAPTION_FIELDS)})"
        raise DataError(f"{name}: has no column {wanted}; it has {has}; name it with --caption-column")
    key = pick([column for column in kinds if column != image], config.key_column, _KEY_NAMES)
    if key is None and config.key_column is not None:
        raise DataError(f"{name}: has no column {config.key_column!r}; it has {has}; name it with --key-column")
    return TableColumns(image, kinds[image], caption, key, status)


def _find_image(kinds: Mapping[str, Kind], first: Mapping[str, Any], config: ImportConfig, name: str) -> str:
    told, has = config.image_column, ", ".join(f"{column} ({kind})" for column, kind in kinds.items())
    if told is not None:
        if kinds.get(told) not in ("bytes", "struct", "text"):
            raise DataError(f"{name}: has no column {told!r} of images or paths; it has {has}; see --image-column")
        return told
    binary = [column for column, kind in kinds.items() if kind in ("bytes", "struct")]
    structs = [column for column, kind in kinds.items() if kind == "struct"]
    found = pick(binary, None, IMAGE_NAMES) or (structs[0] if len(structs) == 1 else None)
    if found is not None:
        return found
    text = [column for column, kind in kinds.items() if kind == "text"]
    web = [column for column in text if str(first.get(column)).startswith(("http://", "https://"))]
    found = pick([column for column in text if column not in web], None, PATH_NAMES)
    if found is None and pick(web, None, PATH_NAMES):
        raise DataError(f"{name}: column {web[0]!r} holds web addresses; download them first, as img2dataset does")
    if found is None:
        raise DataError(f"{name}: has no column of images or of their paths; it has {has}; name it with --image-column")
    return found


def has_images(config: ImportConfig, location: Location, format: Format) -> bool:
    """Whether a table holds images or their paths.

    Raises TableError for a file that is no table of this format, EmptyTableError where no row tells, StorageError.
    """
    try:
        table_columns(config, location, format)
    except (TableError, EmptyTableError, StorageError):
        raise
    except DataError:
        return False
    return True


class TableError(DataError):
    """A file that is no table at all, or breaks off."""


class EmptyTableError(DataError):
    """A CSV, TSV or JSONL file without a row, as tools write for a shard that nothing fell to."""


def table_columns(config: ImportConfig, location: Location, format: Format) -> TableColumns:
    """The columns of a Parquet, CSV, TSV or JSONL file."""
    if format == "parquet":
        with open_parquet(location) as file:
            return parquet_columns(file, config, location.url)
    records = list(islice(iterate_records(location, format), _PEEK_LINES))
    if not records:
        raise EmptyTableError(f"{location.url}: has no row")
    first: dict[str, Any] = {}
    for _, record in records:
        first |= {name: value for name, value in (record or {}).items() if first.get(name) in (None, "")}
    kinds = {name: _kind_of_value(value) for name, value in first.items()}
    status = "status" if isinstance(first.get("status"), str) else None
    return find_table_columns(kinds, first, status, config, location.url)


def _kind_of_value(value: Any) -> Kind:
    if isinstance(value, list):
        return "list"
    return "other" if isinstance(value, dict) else "text"


@contextmanager
def open_parquet(location: Location) -> Iterator[pq.ParquetFile]:
    """The file, read page by page; what goes wrong in the block is a TableError that names it."""
    try:
        with (
            location.filesystem.open_input_file(location.path) as stream,
            pq.ParquetFile(stream, buffer_size=_BUFFER, pre_buffer=False) as file,
        ):
            yield file
    except (pa.ArrowException, OSError) as error:
        raise unreadable(location, error, "not a readable Parquet file", TableError) from None


def parquet_columns(file: pq.ParquetFile, config: ImportConfig, name: str) -> TableColumns:
    """The columns of a Parquet file, by type, name, and where only paths are left, by their first value."""
    names = file.schema_arrow.names
    kinds = {field.name: _kind_of_type(field.type) for field in file.schema_arrow}
    paths = [column for column, kind in kinds.items() if kind == "text" and column.lower() in PATH_NAMES]
    first: dict[str, Any] = {}
    if paths and not {"bytes", "struct"} & set(kinds.values()):
        for batch in islice(file.iter_batches(batch_size=16, columns=paths), 1):
            for column in paths:
                first[column] = next((value for value in values(batch.column(column)) if value), None)
    columns = find_table_columns(kinds, first, find_status(file.schema_arrow), config, name)
    twice = next((column for column in columns.names() if names.count(column) > 1), None)
    if twice is not None:
        raise DataError(f"{name}: has {names.count(twice)} columns of the name {twice!r}; rename all but one")
    return columns


def _kind_of_type(type: pa.DataType) -> Kind:
    type = plain_type(type)
    if holds_images(type):
        return "struct" if pa.types.is_struct(type) else "bytes"
    if is_list(type):
        return "list" if is_text(type.value_type) else "other"
    return "text" if is_text(type) or pa.types.is_integer(type) else "other"


def parquet_rows(
    root: Location, name: str, groups: list[int], first_row: int, config: ImportConfig, pool: Executor
) -> Iterator[SourceRow]:
    """Rows of some row groups, the first of which is row ``first_row`` of the file."""
    stem, folders = name.rpartition(".")[0], [(root / name).url.rpartition("/")[0], root.url]
    with open_parquet(root / name) as file:
        columns = parquet_columns(file, config, (root / name).url)
        row = first_row
        for batch in file.iter_batches(_BATCH_ROWS, row_groups=groups, columns=columns.names(), use_threads=False):
            table = {column: values(batch.column(column)) for column in columns.names()}
            keys = table[columns.key] if columns.key else [None] * len(batch)
            statuses = table[columns.status] if columns.status else ["success"] * len(batch)
            images = _load_images(table[columns.image], columns.image_kind, folders, config, pool)
            for i, image in enumerate(images):
                source = f"{name}#row {row + i}"
                key = f"{stem}-{row + i}" if keys[i] is None else key_text(keys[i])
                yield make_row(source, key, table[columns.caption][i], image, statuses[i])
            row += len(batch)


def _load_images(
    values: list[Any], kind: Kind, folders: list[str], config: ImportConfig, pool: Executor
) -> list[bytes | str | None]:
    """Bytes, or a sentence where the file is missing, or None where there is nothing."""
    if kind == "bytes":
        return values
    paths = values
    if kind == "struct":  # a Hugging Face image: its bytes, or the path that it was loaded from
        held = [(value or {}).get("bytes") for value in values]
        if all(image is not None for image in held):
            return held
        paths = [
            (value or {}).get("path") if image is None else None for value, image in zip(values, held, strict=True)
        ]
        fetched = fetch_files(paths, folders, config.storage_options, pool)
        return [new if image is None else image for image, new in zip(held, fetched, strict=True)]
    paths = [None if path is None else str(path) for path in paths]  # a number names a file too
    return fetch_files(paths, folders, config.storage_options, pool)


def make_row(
    source: str, key: str, caption: Any, image: bytes | str | None, status: str | None = "success"
) -> SourceRow:
    """The row of a table, refused where its status or its missing image say so."""
    if status != "success":
        return SourceRow(source, key, cause=STATUS, message=f"status is {status}")
    if image is None:
        return SourceRow(source, key, cause=NULL_IMAGE, message="there is no image")
    if isinstance(image, str):
        return SourceRow(source, key, cause=MISSING_FILE, message=image)
    return SourceRow(source, key, caption, image)


def iterate_records(location: Location, format: Format) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Row number and fields of each row of a CSV, TSV or JSONL file.

    None stands for a JSON line that is broken, and for a row of more fields than the header has: which of them a
    separator has cut in two cannot be known. Raises TableError for a file that is no UTF-8 text, or a CSV that cannot
    be told apart.
    """
    try:
        with location.filesystem.open_input_stream(location.path, buffer_size=_BUFFER) as stream:
            lines = io.TextIOWrapper(stream, "utf-8-sig", newline="" if format != "jsonl" else "\n")
            yield from enumerate(_json_lines(lines) if format == "jsonl" else _csv_lines(lines, format))
    except UnicodeDecodeError as error:
        raise TableError(f"{location.url}: not text in UTF-8: {error}") from None
    except (csv.Error, pa.ArrowException, OSError) as error:
        raise unreadable(location, error, "cannot be read", TableError) from None


def _json_lines(lines: io.TextIOWrapper) -> Iterator[dict[str, Any] | None]:
    for line in lines:
        if line.strip():
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):  # the latter for brackets within thousands of brackets
                record = None
            yield record if isinstance(record, dict) else None


def _csv_lines(lines: io.TextIOWrapper, format: Format) -> Iterator[dict[str, Any] | None]:
    csv.field_size_limit(_FIELD_LIMIT)
    header = lines.readline()
    tab = format == "tsv" or ("\t" in header and "," not in header)  # open_clip's .csv are separated by tabs
    delimiter = "\t" if tab else ","
    names = next(csv.reader([header], delimiter=delimiter), [])
    for row in _csv_rows(lines, delimiter):
        if row:
            yield None if any(row[len(names) :]) else dict(zip(names, row, strict=False))


def _csv_rows(lines: Iterable[str], delimiter: str) -> Iterator[list[str]]:
    """The fields of each row below the header. Raises csv.Error for a stray mark that would take in the rows below."""
    line = ""

    def read() -> Iterator[str]:
        nonlocal line
        for text in lines:
            line = text
            yield text

    reader = csv.reader(read(), delimiter=delimiter, strict=True)
    while True:
        first = reader.line_num
        try:
            row = next(reader, None)
        except csv.Error as error:
            if reader.line_num - first > 1:
                raise csv.Error(
                    f"line {first + 2} begins a field with a quotation mark that no other closes ({error}); put such "
                    "fields in quotation marks, and write those inside of them twice"
                ) from None
            row = next(csv.reader([line], delimiter=delimiter), [])  # "so" he said: within its line all is clear
        if row is None:
            return
        yield row
