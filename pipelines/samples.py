"""One unit of the plan: read its rows from Parquet, then decode them. Plain functions; the stream runs them as tasks.

A row that gives no pair keeps its place, marked with a cause, so that the order never depends on what images hold.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clippy import images
from clippy.tokens import CaptionTokenizer
from pipelines.columns import DataError, usable_mask
from pipelines.manifest import Manifest, changed_shard, missing_shard
from pipelines.plan import Plan, Rows
from pipelines.recipe import DataConfig
from pipelines.storage import Location, locate

VALID = "valid"
CAUSES = (VALID, "null_image", "empty_caption", images.NOT_AN_IMAGE, images.TRUNCATED, images.TOO_LARGE)
"""What can become of a row; its index is the ``cause`` column of a decoded unit."""


@dataclass(frozen=True, eq=False)
class Source:
    """Everything a task needs to make any unit: the dataset, its manifest and the order."""

    data: DataConfig
    manifest: Manifest
    seed: int
    unit_rows: int

    @cached_property
    def plan(self) -> Plan:
        """The order of samples."""
        return Plan(self.manifest.usable_rows, self.manifest.digest, self.seed)

    @cached_property
    def folder(self) -> Location:
        """The dataset's folder."""
        return locate(self.data.url, self.data.storage_options)


@dataclass(frozen=True)
class Decoding:
    """How rows become arrays."""

    image_size: int
    tokenizer_json: str
    max_tokens: int


def read_unit(source: Source, unit: int) -> pa.Table:
    """Rows of one unit, in order, still encoded: columns unit, key, image (bytes or null) and caption.

    Raises DataError when a shard is gone or is not the one that was indexed.
    """
    runs = source.plan.rows(unit * source.unit_rows, (unit + 1) * source.unit_rows)
    table = pa.concat_tables([_read_rows(source, run) for run in runs])
    return table.add_column(0, "unit", pa.repeat(pa.scalar(unit, pa.int64()), len(table)))


def decode_unit(table: pa.Table, decoding: Decoding) -> dict[str, np.ndarray]:
    """Arrays of one unit: unit, key, cause, pixels uint8 (rows, size, size, 3) and ids int32 (rows, tokens).

    A row without a pair has zero pixels and the ids of an empty caption.
    """
    size = decoding.image_size
    pixels = np.zeros((len(table), size, size, 3), dtype=np.uint8)
    causes = np.zeros(len(table), dtype=np.int8)
    captions = table.column("caption").to_pylist()
    for i, image in enumerate(table.column("image")):
        cause = _decode_row(image, captions[i], pixels[i])
        causes[i] = CAUSES.index(cause)
        if cause != VALID:
            captions[i] = ""
    tokenizer = _tokenizer(decoding.tokenizer_json, decoding.max_tokens)
    return {
        "unit": table.column("unit").to_numpy(),
        "key": np.array(table.column("key").to_pylist(), dtype=object),
        "cause": causes,
        "pixels": pixels,
        "ids": tokenizer(captions, width=decoding.max_tokens),
    }


def _decode_row(image: pa.Scalar, caption: str, pixels: np.ndarray) -> str:
    """Decode one image into ``pixels`` and return VALID, or the cause why it is no sample."""
    if not caption.strip():
        return "empty_caption"
    if not image.is_valid:
        return "null_image"
    try:
        pixels[:] = images.decode_image(image.as_py(), len(pixels))
    except images.ImageError as error:
        return error.cause
    return VALID


@lru_cache(maxsize=4)
def _tokenizer(text: str, max_tokens: int) -> CaptionTokenizer:
    return CaptionTokenizer.from_json(text, max_tokens)


def _read_rows(source: Source, run: Rows) -> pa.Table:
    """The wanted rows of one row group, as columns key, image, caption."""
    manifest, columns = source.manifest, source.manifest.columns
    shard_index, group = int(manifest.shard_of_group[run.group]), int(manifest.group_in_shard[run.group])
    shard = manifest.shards[shard_index]
    names = [name for name in (columns.image, columns.caption, columns.key, columns.status) if name]
    table = _read_group(source, shard_index, group, names)
    usable = np.flatnonzero(usable_mask(table, columns))
    if len(usable) != manifest.usable_rows[run.group]:
        raise DataError(changed_shard(source.data.url, shard))
    rows = usable[run.rows]
    wanted = table.take(pa.array(rows))
    image = wanted.column(columns.image)
    if pa.types.is_struct(image.type):
        image = pc.struct_field(image, "bytes")
    if columns.key is None:
        keys = pa.array([f"{shard}:{group}:{row}" for row in rows.tolist()], pa.string())
    else:
        keys = wanted.column(columns.key).cast(pa.string())
    return pa.table(
        {
            "key": keys,
            "image": image.cast(pa.large_binary()),  # 32-bit offsets overflow at 2 GiB in a column
            "caption": wanted.column(columns.caption).cast(pa.string()),
        }
    )


def _read_group(source: Source, shard_index: int, group: int, names: Sequence[str]) -> pa.Table:
    manifest, shard = source.manifest, source.manifest.shards[shard_index]
    path = (source.folder / shard).path
    try:
        with source.folder.filesystem.open_input_file(path) as stream:
            if stream.size() != manifest.shard_bytes[shard_index]:
                raise DataError(changed_shard(source.data.url, shard))
            footer = _footer(manifest.digest, path, stream)
            with pq.ParquetFile(stream, metadata=footer, pre_buffer=True) as file:
                return file.read_row_group(group, columns=list(names), use_threads=False)
    except FileNotFoundError:
        raise DataError(missing_shard(source.data.url, shard)) from None
    except (pa.ArrowException, IndexError) as error:
        raise DataError(f"{source.data.url}/{shard}: row group {group} cannot be read: {error}") from None


_FOOTERS: OrderedDict[tuple[str, str], pq.FileMetaData] = OrderedDict()


def _footer(digest: str, path: str, stream: pa.NativeFile) -> pq.FileMetaData:
    """The shard's footer, kept for the next unit that this process reads from it."""
    key = (digest, path)
    if key in _FOOTERS:
        _FOOTERS.move_to_end(key)
        return _FOOTERS[key]
    _FOOTERS[key] = pq.read_metadata(stream)
    if len(_FOOTERS) > 64:
        _FOOTERS.popitem(last=False)
    return _FOOTERS[key]
