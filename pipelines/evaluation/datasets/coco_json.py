"""COCO's annotation files: what one says of each picture, kept small."""

from __future__ import annotations

import json
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.columns import DataError
from pipelines.evaluation.datasets.files import read_json
from pipelines.storage import Location


@dataclass(frozen=True)
class CocoPicture:
    """A picture, and what is annotated in it, packed: as objects, polygons take twenty times the space."""

    file: str
    width: int
    height: int
    packed: bytes

    def annotations(self) -> list[dict[str, Any]]:
        """Those that the file has of this picture, in its order."""
        return json.loads(zlib.decompress(self.packed))


def read_coco(file: Location, fields: Sequence[str]) -> tuple[CocoPicture, ...]:
    """All pictures by name, with some fields of their annotations. Raises DataError naming the file."""
    content = read_json(file)
    annotations: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    try:
        for annotation in content["annotations"]:
            annotations[annotation["image_id"]].append({field: annotation[field] for field in fields})
        is_of_others = bool(annotations) and annotations.keys().isdisjoint(image["id"] for image in content["images"])
        pictures = [
            CocoPicture(image["file_name"], image["width"], image["height"], _packed(annotations[image["id"]]))
            for image in content["images"]
        ]
    except (KeyError, TypeError) as error:
        raise DataError(f"{file.url}: is no annotation file of COCO's ({type(error).__name__}: {error})") from None
    if not pictures:
        raise DataError(f"{file.url}: names no picture")
    if is_of_others:
        some, other = next(iter(annotations)), content["images"][0]["id"]
        raise DataError(f"{file.url}: no image_id, such as {some!r}, is the id of a picture, such as {other!r}")
    return tuple(sorted(pictures, key=lambda picture: picture.file))


def class_of(category: int, classes: Mapping[int, int], name: str) -> int:
    """The class of a category id. Raises DataError for one that COCO has not."""
    if category not in classes:
        raise DataError(f"{name}: has the category {category!r}, none of COCO's {len(classes)} ids 1 to {max(classes)}")
    return classes[category]


def _packed(annotations: list[dict[str, Any]]) -> bytes:
    return zlib.compress(json.dumps(annotations, separators=(",", ":")).encode(), level=1)
