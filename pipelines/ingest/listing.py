"""Listings of image files, of whatever form, brought to one: Parquet that many tasks can read side by side.

A CSV cannot be cut where a line ends, since a quoted caption may hold line breaks; its Parquet can.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.ingest.config import Format, ImportConfig
from pipelines.ingest.fetch import fetch_files
from pipelines.ingest.rows import (
    IMAGE_EXTENSIONS,
    NOT_TEXT,
    SourceRow,
    is_missing,
    is_text,
    row_from_members,
    wanted_member,
)
from pipelines.ingest.sources import SourceListing
from pipelines.ingest.tables import _BATCH_ROWS, EmptyTableError, iterate_records, make_row, open_parquet, table_columns
from pipelines.storage import Location

NOT_JSON, SURPLUS_FIELDS = "not_json", "surplus_fields"

_TABLE = pa.schema(
    [
        ("row", pa.int64()),
        ("key", pa.string()),
        ("image", pa.string()),
        ("captions", pa.list_(pa.string())),
        ("is_list", pa.bool_()),
        ("cause", pa.string()),
    ]
)
_MESSAGES = {
    NOT_JSON: "the line is no JSON object",
    NOT_TEXT: "the caption is neither text nor a list of texts",
    SURPLUS_FIELDS: "the row has more fields than the header; put a field that holds the separator in quotation marks",
}
"""Of rows that the listing itself refuses, by cause."""
_SAMPLES = pa.schema([("key", pa.string()), ("extensions", pa.list_(pa.string()))])
"""Of images with files beside them: the path without its extension, and the extensions there are."""


def write_table_listing(
    config: ImportConfig, location: Location, format: Format, out: Location, rows_per_group: int
) -> list[int]:
    """Bring one CSV, TSV or JSONL file to Parquet; returns the rows of each row group."""
    try:
        columns = table_columns(config, location, format)
    except EmptyTableError:
        return _write((), _TABLE, out, rows_per_group)

    def entries() -> Iterator[dict[str, Any]]:
        for row, record in iterate_records(location, format):
            if record is None:
                yield {"row": row, "is_list": False, "cause": NOT_JSON if format == "jsonl" else SURPLUS_FIELDS}
                continue
            caption = record.get(columns.caption)
            captions = [None if is_missing(c) else c for c in (caption if isinstance(caption, list) else [caption])]
            key = record.get(columns.key) if columns.key else None
            yield {
                "row": row,
                "key": None if key is None else _text(key),
                "image": _text(record.get(columns.image) or ""),
                "captions": [None if item is None else _text(item) for item in captions],
                "is_list": isinstance(caption, list),
                "cause": None if all(item is None or is_text(item) for item in captions) else NOT_TEXT,
            }

    return _write(entries(), _TABLE, out, rows_per_group)


def write_sample_listing(listing: SourceListing, config: ImportConfig, out: Location, rows_per_group: int) -> list[int]:
    """Bring image files with captions beside them to Parquet; returns the rows of each row group."""
    samples: dict[str, list[str]] = {}
    for file in listing.files:
        stem, dot, extension = file.name.rpartition(".")
        if dot and wanted_member(extension.lower(), config):
            samples.setdefault(stem, []).append(extension)
    images = {config.image_column} if config.image_column else set(IMAGE_EXTENSIONS)
    wanted = ((key, found) for key, found in samples.items() if images & {extension.lower() for extension in found})
    return _write(({"key": key, "extensions": found} for key, found in wanted), _SAMPLES, out, rows_per_group)


def listing_rows(
    listing: Location, name: str, groups: list[int], root: Location, config: ImportConfig, pool: Executor
) -> Iterator[SourceRow]:
    """Rows of some row groups of a listing made by one of the above from the file ``name``, or from files."""
    with open_parquet(listing) as file:
        for batch in file.iter_batches(_BATCH_ROWS, row_groups=groups, use_threads=False):
            entries = batch.to_pylist()
            yield from _table_rows(entries, name, root, config, pool) if name else _samples(entries, root, config, pool)


def _table_rows(
    entries: list[dict[str, Any]], name: str, root: Location, config: ImportConfig, pool: Executor
) -> Iterator[SourceRow]:
    folders = [(root / name).url.rpartition("/")[0], root.url]
    stem = name.rpartition(".")[0]
    images = fetch_files([entry["image"] for entry in entries], folders, config.storage_options, pool)
    for entry, image in zip(entries, images, strict=True):
        source, captions = f"{name}#row {entry['row']}", entry["captions"]
        key = entry["key"] or f"{stem}-{entry['row']}"
        if entry["cause"] is not None:
            yield SourceRow(source, key, cause=entry["cause"], message=_MESSAGES[entry["cause"]])
            continue
        yield make_row(source, key, captions if entry["is_list"] else captions[0], image)


def _samples(
    entries: list[dict[str, Any]], root: Location, config: ImportConfig, pool: Executor
) -> Iterator[SourceRow]:
    paths = [f"{entry['key']}.{extension}" for entry in entries for extension in entry["extensions"]]
    contents = iter(fetch_files(paths, [root.url], config.storage_options, pool))
    for entry in entries:
        fetched = dict(zip(entry["extensions"], contents, strict=False))
        members = {extension.lower(): data for extension, data in fetched.items() if isinstance(data, bytes)}
        yield row_from_members(entry["key"], "", members, config)


def _write(entries: Iterable[dict[str, Any]], schema: pa.Schema, out: Location, rows_per_group: int) -> list[int]:
    entries, groups = iter(entries), []
    with out.filesystem.open_output_stream(out.path) as stream, pq.ParquetWriter(stream, schema) as writer:
        while chunk := list(islice(entries, rows_per_group)):
            writer.write_table(pa.Table.from_pylist(chunk, schema), row_group_size=rows_per_group)
            groups.append(len(chunk))
    return groups


def _text(value: Any) -> str:
    """Text that Parquet can hold: half of a surrogate pair, which JSON may spell, becomes a question mark."""
    return str(value).encode("utf-8", "replace").decode()
