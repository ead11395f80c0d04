"""Pictures with masks and labels in Parquet: users' own, and the ``shapes`` benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
from numpy.typing import NDArray

from clippy.vocabulary import ClassList
from pipelines.columns import IMAGE_NAMES, KEY_NAMES, DataError, holds_images
from pipelines.evaluation.dataset import VOID, Example
from pipelines.evaluation.datasets.files import Layout, exists, list_files
from pipelines.evaluation.datasets.labels import decode_numbers, decode_picture
from pipelines.evaluation.datasets.own_classes import FORMS, OwnClasses, read_classes
from pipelines.evaluation.datasets.row_groups import RowGroups, Shard, describe_shard
from pipelines.shards import retry
from pipelines.storage import Location

PARQUET = Layout(
    "evaluation data in Parquet",
    f"""
*.parquet    columns: image, bytes as they are or as Hugging Face has them; and at least one of
             mask, PNGs with numbers of classes, 255 void; label, numbers of classes; segments, PNGs, 0 ground
{FORMS}
""",
)
SHAPES = Layout(
    "shapes benchmark",
    """
evaluation/classes.json
evaluation/single/*.parquet
evaluation/multi/*.parquet, ...
as this command writes them: clippy data shapes FOLDER
""",
)
SHAPES_SPLITS = ("multi", "single", "camouflage", "spurious")
_NAMES = {"image": IMAGE_NAMES, "mask": ("mask",), "segments": ("segments", "instances"), "label": ("label",)}


def open_parquet(root: Location, split: str) -> ParquetPictures:
    """All rows of a Parquet file or of those in a folder. Raises DataError."""
    if root.path.endswith(".parquet") and not _is_folder(root):  # Spark calls folders so
        folder, files = root.parent, [root.path.rpartition("/")[2]]
        if not exists(root):
            raise PARQUET.missing(folder, files[0])
    else:
        folder, files = root, list_files(root, (".parquet",))
        if not files:
            raise PARQUET.missing(root, "*.parquet")
    own = read_classes(folder)
    if own is None:
        raise PARQUET.missing(folder, "classes.json")
    return _open(folder, files, own)


def _is_folder(location: Location) -> bool:
    info = retry(lambda: location.filesystem.get_file_info(location.path), location)
    return info.type == pafs.FileType.Directory


def open_shapes(root: Location, split: str) -> ParquetPictures:
    """A split of the generated benchmark; ``background`` and ``group`` are attributes. Raises DataError."""
    own, folder = read_classes(root / "evaluation"), root / "evaluation" / split
    files = list_files(folder, (".parquet",))
    if own is None or not files:
        raise SHAPES.missing(root, "evaluation/classes.json" if own is None else f"evaluation/{split}/*.parquet")
    return _open(folder, files, own)


@dataclass(frozen=True, eq=False)
class ParquetPictures:
    """Rows by number, over all files in the order of their names.

    Row groups are read whole and the last few kept: reading in the order of the numbers reads each of them once.
    """

    shards: tuple[Shard, ...]
    columns: Mapping[str, str]
    """``image``, ``mask``, ``segments``, ``label``, ``key``, as far as there are, to their columns."""
    attributes: tuple[str, ...]
    own: OwnClasses
    groups: RowGroups = field(default_factory=RowGroups)

    @property
    def classes(self) -> ClassList:
        """The classes written down beside the data."""
        return self.own.classes

    def __len__(self) -> int:
        return sum(shard.num_rows for shard in self.shards)

    def read(self, index: int) -> Example:
        """A picture with what its row says. Raises DataError."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        shard, row = self._locate(index)
        name = f"{shard.location.url}, row {row}"
        values = self.groups.read_row(shard, row, [*self.columns.values(), *self.attributes])
        told = {what: values[column] for what, column in self.columns.items()}
        pixels = decode_picture(_bytes(told["image"], f"{name}: the image"), name)
        label, attributes = told.get("label"), {key: values[key] for key in self.attributes if values[key] is not None}
        if label is not None and not 0 <= label < len(self.classes):
            raise DataError(f"{name}: has the label {label}; labels are 0 to {len(self.classes) - 1}")
        mask, segments = (self._numbers(told.get(what), f"{name}: the {what}", pixels, name) for what in _DRAWN)
        return Example(
            key=str(told["key"]) if told.get("key") is not None else f"{shard.location.path.rpartition('/')[2]}:{row}",
            pixels=pixels,
            label=label,
            mask=None if mask is None else self.own.ids()(mask, f"{name}: the mask"),
            segments=None if segments is None else np.where(segments == self.own.void, VOID, segments.astype(np.int32)),
            attributes=attributes,
        )

    def _locate(self, index: int) -> tuple[Shard, int]:
        for shard in self.shards:
            if index < shard.num_rows:
                return shard, index
            index -= shard.num_rows
        raise IndexError(index)

    def _numbers(self, value: Any, name: str, pixels: NDArray[np.uint8], picture: str) -> NDArray[np.integer] | None:
        return None if value is None else decode_numbers(_bytes(value, name), name, pixels, picture)


_DRAWN = ("mask", "segments")


def _bytes(value: Any, name: str) -> bytes:
    """The bytes of a column of bytes, or of Hugging Face's bytes and path."""
    data = value.get("bytes") if isinstance(value, dict) else value
    if not data:
        raise DataError(f"{name}: has no bytes")
    return data


def _open(folder: Location, files: list[str], own: OwnClasses) -> ParquetPictures:
    with ThreadPoolExecutor(16) as pool:  # they wait on storage
        described = list(pool.map(lambda file: describe_shard(folder / file), files))
    shards, schemas = zip(*described, strict=True)
    columns = _columns(schemas[0], f"{folder.url}/{files[0]}")
    attributes = tuple(c.name for c in schemas[0] if pa.types.is_integer(c.type) and c.name not in columns.values())
    for file, schema in zip(files, schemas, strict=True):
        lacking = {*columns.values(), *attributes} - set(schema.names)
        if lacking:
            raise DataError(f"{folder.url}/{file}: has no column {sorted(lacking)[0]!r}, which {files[0]} has")
    return ParquetPictures(shards, columns, attributes, own)


def _columns(schema: pa.Schema, name: str) -> dict[str, str]:
    found = {
        what: next((n for n in names if n in schema.names), None)
        for what, names in (_NAMES | {"key": KEY_NAMES}).items()
    }
    columns = {what: column for what, column in found.items() if column is not None}
    has = ", ".join(schema.names)
    if "image" not in columns:
        raise DataError(f"{name}: has no image column (looked for {', '.join(IMAGE_NAMES)}); it has {has}")
    if columns.keys() <= {"image", "key"}:
        raise DataError(f"{name}: has no mask, label or segments; it has {has}")
    for what in ("image", *_DRAWN):
        if what in columns and not holds_images(schema.field(columns[what]).type):
            kind = schema.field(columns[what]).type
            raise DataError(f"{name}: column {columns[what]!r} holds {kind}, not the bytes of images")
    if "label" in columns and not pa.types.is_integer(schema.field(columns["label"]).type):
        raise DataError(f"{name}: column 'label' holds {schema.field('label').type}, not numbers of classes")
    return columns
