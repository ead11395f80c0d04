"""Which columns of a Parquet file hold a sample, and which of its rows are one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.sections import DatasetConfig

IMAGE_NAMES = ("image", "jpg", "jpeg", "png", "webp", "bytes", "image_bytes", "img")
CAPTION_NAMES = ("caption", "text", "txt", "TEXT", "alt_text", "title")
KEY_NAMES = ("key", "uid", "id", "sha256", "__key__")


class DataError(ValueError):
    """Data that cannot be used as asked: the sentence names the file, what is wrong and the remedy."""


@dataclass(frozen=True)
class Columns:
    """Names of the columns that hold a sample; ``key`` and ``status`` may be missing."""

    image: str
    caption: str
    key: str | None
    status: str | None


def find_columns(schema: pa.Schema, data: DatasetConfig, name: str) -> Columns:
    """The image, caption, key and status columns of a schema, as told by ``data`` or by their usual names.

    Raises DataError naming the file, the column and what there is instead.
    """
    image = _find(schema, data.image_column, IMAGE_NAMES, "image", name)
    caption = _find(schema, data.caption_column, CAPTION_NAMES, "caption", name)
    _check_types(schema, image, caption, name)
    key = data.key_column or next(
        (k for k in KEY_NAMES if k in schema.names and _names_rows(schema.field(k).type)), None
    )
    if key is not None and key not in schema.names:
        raise DataError(f"{name}: has no column {key!r} (data.key_column); it has {', '.join(schema.names)}")
    if key is not None and not _names_rows(kind := schema.field(key).type):
        raise DataError(f"{name}: column {key!r} holds {kind}, not one name a row; set data.key_column to another")
    return Columns(image, caption, key, find_status(schema))


def find_status(schema: pa.Schema) -> str | None:
    """The column that says "success" of a usable row; one of another kind, an HTTP code or a flag, is not that."""
    if "status" not in schema.names or not _compares_to_text(schema.field(schema.names.index("status")).type):
        return None
    return "status"


def _find(schema: pa.Schema, told: str | None, usual: tuple[str, ...], what: str, name: str) -> str:
    found = told if told in schema.names else next((n for n in usual if told is None and n in schema.names), None)
    if found is None:
        wanted = f"no column {told!r}" if told else f"no {what} column (looked for {', '.join(usual)})"
        raise DataError(f"{name}: has {wanted}; it has {', '.join(schema.names)}; set data.{what}_column")
    return found


def _check_types(schema: pa.Schema, image: str, caption: str, name: str) -> None:
    kind = schema.field(image).type
    if not holds_images(kind):
        raise DataError(f"{name}: column {image!r} holds {kind}, not the bytes of images; set data.image_column")
    kind = plain_type(schema.field(caption).type)
    if is_list(kind):
        kind = kind.value_type
    if not is_text(kind):
        raise DataError(f"{name}: column {caption!r} holds {kind}, not text; set data.caption_column")


def _names_rows(kind: pa.DataType) -> bool:
    """Whether the values of a column can be written as text, which is what keys are."""
    try:
        pa.nulls(0, kind).cast(pa.string())
    except pa.ArrowNotImplementedError:
        return False
    return True


def key_texts(keys: pa.ChunkedArray) -> pa.Array:
    """Keys as text: bytes that are none, such as a digest or a UUID, in hexadecimal."""
    kind = keys.type.storage_type if isinstance(keys.type, pa.BaseExtensionType) else keys.type
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)):
        return keys.cast(pa.string()).combine_chunks()
    return pa.array([None if key is None else key_text(key) for key in keys.cast(kind).to_pylist()], pa.string())


def key_text(key: Any) -> str:
    """One key as ``key_texts`` writes it."""
    if not isinstance(key, bytes):
        return str(key)
    try:
        return key.decode()
    except UnicodeDecodeError:
        return key.hex()


def values(column: pa.ChunkedArray | pa.Array) -> list[Any]:
    """The values of a column; where one of text is no UTF-8, which few writers check, all as bytes."""
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        return column.cast(_as_bytes(column.type)).to_pylist()


def texts(column: pa.ChunkedArray | pa.Array) -> list[Any]:
    """The values of a column of text, or of lists of it; what is no UTF-8 is replaced."""
    return [_replaced(value) for value in values(column)]


def _as_bytes(kind: pa.DataType) -> pa.DataType:
    return pa.list_(_as_bytes(kind.value_type)) if is_list(kind) else pa.large_binary()


def _replaced(value: Any) -> Any:
    if isinstance(value, list):
        return [_replaced(item) for item in value]
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _compares_to_text(kind: pa.DataType) -> bool:
    try:
        pc.equal(pa.nulls(0, plain_type(kind)), "success")
    except pa.ArrowNotImplementedError:
        return False
    return True


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type of the same values that all of Arrow can work with: no dictionary (pandas' categories) and no view."""
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if pa.types.is_string_view(kind):
        return pa.large_string()
    if pa.types.is_binary_view(kind):
        return pa.large_binary()
    is_view = pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind)
    if is_view or (is_list(kind) and plain_type(kind.value_type) != kind.value_type):
        return pa.large_list(plain_type(kind.value_type))
    return kind


def as_plain(table: pa.Table) -> pa.Table:
    """The table with all columns of a ``plain_type``."""
    plain = pa.schema([field.with_type(plain_type(field.type)) for field in table.schema])
    return table if plain.equals(table.schema) else table.cast(plain)


def holds_images(kind: pa.DataType) -> bool:
    """Whether a column holds encoded images: as binary, or in the field ``bytes`` of a struct (Hugging Face)."""
    kind = plain_type(kind)
    if pa.types.is_struct(kind):
        place = kind.get_field_index("bytes")
        kind = plain_type(kind.field(place).type) if place >= 0 else kind
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def is_text(kind: pa.DataType) -> bool:
    """Whether values of a ``plain_type`` are text."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def is_list(kind: pa.DataType) -> bool:
    """Whether a column holds several values a row, as one with several captions an image does."""
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def usable_mask(table: pa.Table, columns: Columns) -> np.ndarray:
    """bool (rows,): which rows of a row group are samples. The index counts by it and the stream reads by it."""
    caption = table.column(columns.caption)
    mask = pc.is_valid(caption)
    if is_list(caption.type):
        mask = pc.and_(mask, pc.fill_null(pc.greater(pc.list_value_length(caption), 0), False))
    if columns.status is not None:
        mask = pc.and_(mask, pc.fill_null(pc.equal(table.column(columns.status), "success"), False))
    return mask.to_numpy(zero_copy_only=False)
