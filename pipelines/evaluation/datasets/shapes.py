"""The evaluation splits of the generated scenes, as ``clippy data shapes`` writes them: Parquet with masks."""

from __future__ import annotations

import io
import json
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from clippy.vocabulary import ClassList
from pipelines.columns import DataError
from pipelines.evaluation.dataset import Example
from pipelines.storage import Location

SPLITS = ("single", "multi", "camouflage", "spurious")
_GROUPS_HELD = 2
"""Row groups that are held at once; threads read neighbours."""


def load_classes(root: Location) -> tuple[ClassList, tuple[str, ...]]:
    """The class list beside the splits, and the prompts. Raises DataError if there is none."""
    file = root / "evaluation" / "classes.json"
    try:
        content = json.loads(file.read_text())
        classes = ClassList(
            name="shapes",
            source="invented words, generated with the scenes",
            names=tuple(entry["name"] for entry in content["classes"]),
            kinds=tuple(entry["kind"] for entry in content["classes"]),
        )
        return classes, tuple(content["templates"])
    except FileNotFoundError:
        raise DataError(
            f"{root.url}: no shapes benchmark, evaluation/classes.json is missing; run: clippy data shapes {root.url}"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file.url}: not the class list of the shapes benchmark ({error})") from None


@dataclass(frozen=True)
class _Group:
    """A row group, and the number of its first row in the split."""

    path: str
    index: int
    first_row: int
    rows: int


@dataclass(frozen=True)
class ShapesSplit:
    """Scenes of one split with masks, segments, the main object's class and what stands behind it."""

    root: Location
    name: str
    groups: tuple[_Group, ...]
    _held: _Held = field(default_factory=lambda: _Held(), repr=False, compare=False)

    def __len__(self) -> int:
        return sum(group.rows for group in self.groups)

    def read(self, index: int) -> Example:
        """Row ``index`` of the split."""
        group = next(group for group in self.groups if index < group.first_row + group.rows)
        row = self._held.get(self.root, group)[index - group.first_row]
        attributes = {"background": int(row["background"]), "object": int(row["label"])}
        if "group" in row:
            attributes["place"] = int(row["group"]) % 2
        return Example(
            key=f"{self.name}-{index:04d}",
            pixels=_pixels(row["image"], "RGB"),
            label=int(row["label"]),
            mask=_pixels(row["mask"], "L").astype(np.int32),
            segments=_pixels(row["instances"], "L").astype(np.int32),
            attributes=attributes,
        )


class _Held:
    """The row groups read last; a copy elsewhere begins empty."""

    def __init__(self) -> None:
        self._lock, self._groups = threading.Lock(), OrderedDict[_Group, list[dict[str, Any]]]()

    def __reduce__(self) -> tuple[type[_Held], tuple[()]]:
        return _Held, ()

    def get(self, root: Location, group: _Group) -> list[dict[str, Any]]:
        with self._lock:
            if group not in self._groups:
                with root.filesystem.open_input_file(group.path) as stream, pq.ParquetFile(stream) as file:
                    self._groups[group] = file.read_row_group(group.index).to_pylist()
                if len(self._groups) > _GROUPS_HELD:
                    self._groups.popitem(last=False)
            return self._groups[group]


def open_shapes(root: Location, split: str) -> ShapesSplit:
    """One split, from its footers alone. Raises DataError if it is missing."""
    files = [info for info in (root / "evaluation" / split).list() if info.type == pafs.FileType.File]
    paths = [info.path for info in files if info.base_name.endswith(".parquet")]
    if not paths:
        raise DataError(f"{root.url}/evaluation/{split}: no Parquet file; run: clippy data shapes {root.url}")
    groups, first = [], 0
    for path in paths:
        with root.filesystem.open_input_file(path) as stream:
            footer = pq.read_metadata(stream)
        for index in range(footer.num_row_groups):
            rows = footer.row_group(index).num_rows
            groups.append(_Group(path, index, first, rows))
            first += rows
    return ShapesSplit(root, split, tuple(groups))


def _pixels(data: bytes, mode: str) -> NDArray[np.uint8]:
    return np.array(Image.open(io.BytesIO(data)).convert(mode))
