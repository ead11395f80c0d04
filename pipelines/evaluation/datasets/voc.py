"""PASCAL VOC 2012 and PASCAL Context: image sets that name pictures and palette PNGs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.dataset import VOID
from pipelines.evaluation.datasets.files import Layout, exists
from pipelines.evaluation.datasets.labels import IdMap, class_ids, id_map, own_ids
from pipelines.evaluation.datasets.masked import MaskedPictures, checked, read_names
from pipelines.storage import Location

VOC = Layout(
    "PASCAL VOC 2012",
    """
VOCdevkit/VOC2012/
  ImageSets/Segmentation/val.txt    a name a line
  JPEGImages/NAME.jpg
  SegmentationClass/NAME.png        classes as palette PNG, 255 void
  SegmentationObject/NAME.png       objects as palette PNG; may be missing
""",
    homes=("VOCdevkit/VOC2012", "VOC2012", ""),
)
CONTEXT = Layout(
    "PASCAL Context",
    """
VOCdevkit/VOC2010/
  ImageSets/SegmentationContext/val.txt    a name a line
  JPEGImages/NAME.jpg
  SegmentationClassContext/NAME.png        0 background, 1 to 59 classes
as MMSegmentation's converter pascal_context.py writes them
""",
    homes=("VOCdevkit/VOC2010", "VOC2010", ""),
)


def open_voc(root: Location, split: str) -> MaskedPictures:
    """21 classes, the background being one; segments are the annotated objects. Raises DataError."""
    return _open_voc(root, split, own_ids(21))


def open_voc20(root: Location, split: str) -> MaskedPictures:
    """The 20 classes that are objects; background is void. Raises DataError."""
    return _open_voc(root, split, _without_ground("voc20"))


def open_context60(root: Location, split: str) -> MaskedPictures:
    """60 classes, the background being one. Raises DataError."""
    return _open_context(root, split, own_ids(60))


def open_context59(root: Location, split: str) -> MaskedPictures:
    """The 59 classes that are something; background is void. Raises DataError."""
    return _open_context(root, split, _without_ground("context59"))


def _open_voc(root: Location, split: str, classes: IdMap) -> MaskedPictures:
    folder, image_set = VOC.find(root, f"ImageSets/Segmentation/{split}.txt")
    names = read_names(folder / image_set)
    objects = "SegmentationObject/{}.png"
    has_objects = exists(folder / objects.format(names[0]))
    dataset = MaskedPictures(
        folder,
        names,
        "JPEGImages/{}.jpg",
        "SegmentationClass/{}.png",
        classes,
        (objects, _objects) if has_objects else None,
    )
    return checked(dataset, VOC, root)


def _open_context(root: Location, split: str, classes: IdMap) -> MaskedPictures:
    folder, image_set = CONTEXT.find(root, f"ImageSets/SegmentationContext/{split}.txt")
    names = read_names(folder / image_set)
    dataset = MaskedPictures(folder, names, "JPEGImages/{}.jpg", "SegmentationClassContext/{}.png", classes)
    return checked(dataset, CONTEXT, root)


def _without_ground(name: str) -> IdMap:
    classes = class_ids(name)
    return id_map({0: VOID, 255: VOID} | classes, f"0 to {len(classes)}, and 255 for void")


def _objects(stored: NDArray[np.integer], mask: NDArray[np.int32]) -> NDArray[np.int32]:
    return np.where(stored == 255, VOID, stored.astype(np.int32))
