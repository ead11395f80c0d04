"""COCO panoptic: a JSON that names the segments of each picture, and PNGs that show where they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.columns import DataError
from pipelines.evaluation.dataset import VOID, Example
from pipelines.evaluation.datasets.coco_json import CocoPicture, class_of, read_coco
from pipelines.evaluation.datasets.files import Layout, read_file
from pipelines.evaluation.datasets.labels import class_ids, decode_picture, decode_rgb_numbers
from pipelines.storage import Location

COCO_PANOPTIC = Layout(
    "COCO panoptic",
    """
val2017/000000000139.jpg, ...                          or images/val2017/
annotations/panoptic_val2017.json
annotations/panoptic_val2017/000000000139.png, ...     or panoptic_val2017/
""",
    homes=("", "coco"),
)


def open_coco_panoptic(root: Location, split: str) -> PanopticPictures:
    """133 classes: 80 things, then 53 kinds of stuff. Raises DataError."""
    folder, file = COCO_PANOPTIC.find(root, f"annotations/panoptic_{split}2017.json")
    pictures = COCO_PANOPTIC.find_within(folder, root, f"{split}2017", f"images/{split}2017")
    masks = COCO_PANOPTIC.find_within(folder, root, f"annotations/panoptic_{split}2017", f"panoptic_{split}2017")
    described = read_coco(folder / file, ("file_name", "segments_info"))
    return PanopticPictures((folder / file).url, folder / pictures, folder / masks, described)


@dataclass(frozen=True, eq=False)
class PanopticPictures:
    """Pictures with a class for each pixel and the segment that it belongs to, thing or stuff.

    What is in no segment is void. A crowd, whose things were not told apart, has a class and is void as a segment.
    """

    source: str
    """The annotation file, for messages."""
    pictures: Location
    masks: Location
    described: tuple[CocoPicture, ...]

    def __len__(self) -> int:
        return len(self.described)

    def read(self, index: int) -> Example:
        """A picture with mask and segments. Raises DataError."""
        described = self.described[index]
        picture = self.pictures / described.file
        annotations = described.annotations()
        if not annotations:
            raise DataError(f"{self.source}: has no annotation of {described.file}")
        known = class_ids("coco-panoptic")
        try:
            segments, file = annotations[0]["segments_info"], self.masks / annotations[0]["file_name"]
            ids = [int(segment["id"]) for segment in segments]
            classes = [class_of(segment["category_id"], known, self.source) for segment in segments]
            numbers = [VOID if segment["iscrowd"] else i for i, segment in enumerate(segments, start=1)]
        except DataError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{self.source}: the segments of {described.file} are not as COCO's are "
                f"({type(error).__name__}: {error})"
            ) from None
        pixels = decode_picture(read_file(picture), picture.url)
        stored = decode_rgb_numbers(read_file(file), file.url, pixels, picture.url)
        place = _places(stored, ids, file.url)
        # Place 0 is what no segment has.
        table = np.array([[VOID, *classes], [VOID, *numbers]], dtype=np.int32)
        return Example(described.file, pixels, mask=table[0][place], segments=table[1][place])


def _places(stored: NDArray[np.int32], ids: list[int], name: str) -> NDArray[np.int64]:
    """The place of each stored id in ``[0, *ids]``. Raises DataError for one that is not there."""
    known = np.array([0, *ids])
    order = np.argsort(known)
    place = order[np.searchsorted(known[order], stored).clip(max=len(ids))]
    strange = stored[known[place] != stored]
    if strange.size:
        raise DataError(f"{name}: has the segment id {strange[0]}, which the annotation file does not name")
    return place
