"""Waterbirds: birds of land and of water on backgrounds of both (Sagawa et al., Group DRO)."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipelines.columns import DataError
from pipelines.evaluation.datasets.files import Layout, read_text
from pipelines.evaluation.datasets.labelled import LabelledPictures
from pipelines.storage import Location

WATERBIRDS = Layout(
    "Waterbirds",
    """
waterbird_complete95_forest2water2/
  metadata.csv    img_id,img_filename,y,split,place,place_filename
  001.Black_footed_Albatross/Black_Footed_Albatross_0001_796111.jpg, ...
""",
    homes=("waterbird_complete95_forest2water2", "data/waterbird_complete95_forest2water2", "waterbirds_v1.0", ""),
)
SPLITS = {"train": 0, "val": 1, "test": 2}


@dataclass(frozen=True)
class _Row:
    file: str
    split: int
    y: int
    place: int


def open_waterbirds(root: Location, split: str) -> LabelledPictures:
    """Land birds 0 and water birds 1, with ``place``, the same of the background, and ``group`` = 2 y + place.

    Raises DataError.
    """
    folder, table = WATERBIRDS.find(root, "metadata.csv")
    rows = [row for row in _read_rows(folder / table) if row.split == SPLITS[split]]
    if not rows:
        raise DataError(f"{(folder / table).url}: has no row of split {SPLITS[split]} ({split})")
    labels, places = (np.array([getattr(row, name) for row in rows], dtype=np.int32) for name in ("y", "place"))
    files = tuple(row.file for row in rows)
    return LabelledPictures(folder, files, labels, {"place": places, "group": 2 * labels + places})


def _read_rows(table: Location) -> list[_Row]:
    reader = csv.DictReader(io.StringIO(read_text(table)))
    has = reader.fieldnames or ()
    missing = [name for name in ("img_filename", "split", "y", "place") if name not in has]
    if missing:
        raise DataError(f"{table.url}: has no column {missing[0]}; it has {', '.join(has)}")
    rows = []
    for row in reader:
        where = f"{table.url}, line {reader.line_num}"
        numbers = (_number(row, name, last, where) for name, last in (("split", 2), ("y", 1), ("place", 1)))
        rows.append(_Row(row["img_filename"], *numbers))
    return rows


def _number(row: Mapping[str, str], name: str, last: int, where: str) -> int:
    if row[name] not in map(str, range(last + 1)):
        raise DataError(f"{where}: has {name} {row[name]!r}; it is 0 to {last}")
    return int(row[name])
