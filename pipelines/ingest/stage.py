"""One part of a source to checked rows in a Parquet of its own, and the refused rows, with causes, in another.

A part counts as staged once its marker, a JSON of what it holds, is there; it is written last.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clippy.images import ImageError
from pipelines.columns import DataError
from pipelines.ingest.config import ImportConfig
from pipelines.ingest.fetch import FETCHES, StorageError
from pipelines.ingest.images import check_image
from pipelines.ingest.parts import Part, read_part
from pipelines.ingest.rows import EMPTY_CAPTION, NOT_TEXT, NULL_CAPTION, SourceRow, is_missing, is_text
from pipelines.ingest.sources import SourceListing
from pipelines.plan import seeded_permutation
from pipelines.storage import Location

STAGED = pa.schema(
    [
        ("key", pa.string()),
        ("captions", pa.list_(pa.string())),
        ("image", pa.large_binary()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("sha256", pa.binary(32)),
    ]
)
INDEX = pa.schema([("key", pa.string()), ("source", pa.string()), ("position", pa.int64()), ("sha256", pa.binary(32))])
"""What finding duplicates reads of a part's rows, in a file of its own: apart from the images it is read at once."""
REJECTS = pa.schema([(name, pa.string()) for name in ("key", "cause", "source", "message")])

_GROUP_ROWS, _GROUP_BYTES = 64, 8 * 2**20
_WINDOW_BYTES = 128 * 2**20
"""Rows are shuffled among so many bytes of their neighbours before they are staged."""
_ATTEMPTS = 3


@dataclass(frozen=True)
class StagedPart:
    """What became of a part; its marker."""

    index: int
    rows_read: int
    groups: list[int]
    """Rows of each row group of the staged Parquet."""
    image_bytes: int
    rejects: dict[str, int]
    has_lists: bool
    resized: int
    broken: str | None = None
    """What is wrong with a part that gave no rows because its file cannot be read."""

    @property
    def rows(self) -> int:
        """Rows that are kept."""
        return sum(self.groups)


def part_name(index: int) -> str:
    """Of a part's files in the staging folder, before their endings."""
    return f"part-{index:06d}"


def stage_part(config: ImportConfig, source: SourceListing, staging: Location, part: Part) -> StagedPart:
    """Read, check and stage one part. Raises DataError for a file that cannot be read."""
    attempts = _ATTEMPTS if "://" in source.root + staging.url else 1  # what fails on a disk fails again
    for attempt in range(1, attempts + 1):
        try:
            staged = _stage(config, source, staging, part)
            break
        except (DataError, OSError) as error:
            if attempt < attempts:
                time.sleep(2**attempt)
            elif config.skip_broken_files and isinstance(error, DataError) and not isinstance(error, StorageError):
                staged = StagedPart(part.index, 0, [], 0, {}, False, 0, broken=str(error))
            else:
                raise
    (staging / f"{part_name(part.index)}.json").write_text(json.dumps(asdict(staged)))
    return staged


@dataclass
class _Counts:
    """What is learnt of a part on the way."""

    rows_read: int
    image_bytes: int
    has_lists: bool
    resized: int
    rejects: list[dict[str, str]]


class _RefusedError(ValueError):
    """A row that is no pair."""

    def __init__(self, cause: str, message: str) -> None:
        self.cause = cause
        super().__init__(message)


def _stage(config: ImportConfig, source: SourceListing, staging: Location, part: Part) -> StagedPart:
    counts = _Counts(0, 0, False, 0, [])
    groups: list[int] = []
    index: list[dict[str, Any]] = []
    name = part_name(part.index)
    with ThreadPoolExecutor(FETCHES) as pool:
        kept = _kept_rows(config, read_part(config, source, staging, part, pool), counts)
        with write_parquet(staging / f"{name}.parquet", STAGED) as writer:
            for window in _windows(kept) if config.shuffle is not None else (kept,):
                if config.shuffle is not None:
                    window = _shuffled(list(window), f"{config.shuffle}/window/{part.index}/{len(groups)}")
                for group in _cut(window, _GROUP_ROWS, _GROUP_BYTES):
                    writer.write_table(pa.Table.from_pylist(group, STAGED))
                    groups.append(len(group))
                    index += [{name: row[name] for name in INDEX.names} for row in group]
    for ending, schema, table in (("rejects", REJECTS, counts.rejects), ("index", INDEX, index)):
        if table and (ending == "rejects" or config.deduplicate):
            with write_parquet(staging / f"{name}.{ending}.parquet", schema) as writer:
                writer.write_table(pa.Table.from_pylist(table, schema))
    causes = Counter(reject["cause"] for reject in counts.rejects)
    staged = StagedPart(
        part.index, counts.rows_read, groups, counts.image_bytes, dict(causes), counts.has_lists, counts.resized
    )
    if staged.rows + causes.total() != staged.rows_read:
        raise RuntimeError(f"part {part.index}: {staged.rows_read} rows read, but {staged.rows} kept and {causes}")
    return staged


def _kept_rows(config: ImportConfig, rows: Iterator[SourceRow], counts: _Counts) -> Iterator[dict[str, Any]]:
    """The rows that are pairs, as rows of ``STAGED``; the others go to ``counts.rejects``."""
    for position, row in enumerate(rows):
        counts.rows_read += 1
        key, source = _storable(row.key), _storable(row.source)
        try:
            if row.cause is not None:
                raise _RefusedError(row.cause, row.message)
            captions = read_captions(row.caption)
            original = row.image or b""
            image, width, height = check_image(original, config.max_short_side, config.quality, config.verify)
        except (_RefusedError, ImageError) as error:
            message = _storable(str(error))[:500]
            counts.rejects.append({"key": key, "cause": error.cause, "source": source, "message": message})
            continue
        counts.has_lists |= not is_text(row.caption)
        counts.image_bytes += len(image)
        counts.resized += image is not original
        yield {
            "key": key,
            "captions": captions,
            "image": image,
            "width": width,
            "height": height,
            "sha256": hashlib.sha256(original).digest(),
            "source": source,
            "position": position,
        }


def read_captions(caption: Any) -> list[str]:
    """The captions of a row: text, or a list of texts, blank ones left out.

    Raises an error with its cause for a caption that is null, blank or no text.
    """
    if is_missing(caption):
        raise _RefusedError(NULL_CAPTION, "there is no caption")
    captions = []
    for text in caption if isinstance(caption, list) else [caption]:
        if isinstance(text, bytes):
            try:
                text = text.decode("utf-8-sig")
            except UnicodeDecodeError as error:
                raise _RefusedError(NOT_TEXT, f"the caption is no UTF-8: {error}") from None
        if is_missing(text) or not str(text).strip():
            continue
        if not is_text(text):
            raise _RefusedError(NOT_TEXT, f"the caption is a {type(text).__name__}, neither text nor a list of texts")
        captions.append(_storable(str(text)))
    if not captions:
        raise _RefusedError(EMPTY_CAPTION, "the caption is blank")
    return captions


def _windows(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    return _cut(rows, 2**31, _WINDOW_BYTES)


def _cut(
    rows: Iterator[dict[str, Any]] | list[dict[str, Any]], max_rows: int, max_bytes: int
) -> Iterator[list[dict[str, Any]]]:
    """Consecutive rows, together at most so many and about so many bytes."""
    group: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        group.append(row)
        size += len(row["image"])
        if len(group) == max_rows or size >= max_bytes:
            yield group
            group, size = [], 0
    if group:
        yield group


def _shuffled(rows: list[dict[str, Any]], seed: str) -> list[dict[str, Any]]:
    return [rows[i] for i in seeded_permutation(len(rows), seed)]


def _storable(text: str) -> str:
    """Text as UTF-8 can hold it: half of a surrogate pair becomes a question mark."""
    return text.encode("utf-8", "replace").decode()


@contextmanager
def write_parquet(location: Location, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """A Parquet file written as it comes. On a disk it appears whole; on object storage its marker makes it count."""
    options = parquet_options(schema)
    target = Path(location.path)
    temporary = str(target.with_name(f".{target.name}.part")) if location.is_local else location.path
    with (
        location.filesystem.open_output_stream(temporary) as stream,
        pq.ParquetWriter(stream, schema, **options) as writer,
    ):
        yield writer
    if location.is_local:
        Path(temporary).replace(target)


def parquet_options(schema: pa.Schema) -> dict[str, Any]:
    """How columns are stored: images neither compressed once more nor copied into statistics."""
    leaves = [f"{field.name}.list.element" if pa.types.is_list(field.type) else field.name for field in schema]
    small = [leaf for leaf in leaves if leaf not in ("image", "sha256")]
    return {
        "compression": {leaf: "zstd" if leaf in small else "none" for leaf in leaves},
        "use_dictionary": False,
        "write_statistics": small,
    }
