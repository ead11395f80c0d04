"""COCO instances: objects with their boxes and outlines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipelines.columns import DataError
from pipelines.evaluation.dataset import Example, Region
from pipelines.evaluation.datasets.coco_json import CocoPicture, class_of, read_coco
from pipelines.evaluation.datasets.coco_masks import decode_segmentation
from pipelines.evaluation.datasets.files import Layout, read_file
from pipelines.evaluation.datasets.labels import check_size, class_ids, decode_picture
from pipelines.storage import Location

COCO_INSTANCES = Layout(
    "COCO instances",
    """
val2017/000000000139.jpg, ...        or images/val2017/
annotations/instances_val2017.json
""",
    homes=("", "coco"),
)


def open_coco_instances(root: Location, split: str) -> InstancePictures:
    """Objects of 80 classes. Raises DataError."""
    folder, file = COCO_INSTANCES.find(root, f"annotations/instances_{split}2017.json")
    pictures = COCO_INSTANCES.find_within(folder, root, f"{split}2017", f"images/{split}2017")
    fields = ("id", "category_id", "bbox", "segmentation", "iscrowd")
    return InstancePictures((folder / file).url, folder / pictures, read_coco(folder / file, fields))


@dataclass(frozen=True, eq=False)
class InstancePictures:
    """Pictures with the objects in them, if any; crowds are left out."""

    source: str
    """The annotation file, for messages."""
    pictures: Location
    described: tuple[CocoPicture, ...]

    def __len__(self) -> int:
        return len(self.described)

    def read(self, index: int) -> Example:
        """A picture with a region for each object. Raises DataError."""
        described = self.described[index]
        picture = self.pictures / described.file
        pixels = decode_picture(read_file(picture), picture.url)
        check_size(described.width, described.height, self.source, pixels, picture.url)
        annotations = (annotation for annotation in described.annotations() if not annotation["iscrowd"])
        regions = tuple(self._region(annotation, described) for annotation in annotations)
        return Example(described.file, pixels, regions=regions)

    def _region(self, annotation: dict[str, Any], described: CocoPicture) -> Region:
        label = class_of(annotation["category_id"], class_ids("coco-instances"), self.source)
        try:
            left, top, width, height = map(float, annotation["bbox"])
            mask = decode_segmentation(annotation["segmentation"], described.height, described.width)
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{self.source}: annotation {annotation['id']} is not as COCO's are ({error})") from None
        return Region(label, (left, top, left + width, top + height), mask)
