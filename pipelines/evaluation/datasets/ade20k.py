"""ADE20K as the scene parsing challenge of 2016 gives it out."""

from __future__ import annotations

from pipelines.evaluation.dataset import VOID
from pipelines.evaluation.datasets.files import Layout, list_stems
from pipelines.evaluation.datasets.labels import class_ids, id_map
from pipelines.evaluation.datasets.masked import MaskedPictures, checked
from pipelines.storage import Location

ADE20K = Layout(
    "ADE20K",
    """
ADEChallengeData2016/
  images/validation/ADE_val_00000001.jpg, ...
  annotations/validation/ADE_val_00000001.png, ...    0 other, 1 to 150 classes
""",
    homes=("ADEChallengeData2016", "ade/ADEChallengeData2016", ""),
)
FOLDERS = {"val": "validation", "train": "training"}


def open_ade20k(root: Location, split: str) -> MaskedPictures:
    """150 classes; what is none of them is void. Raises DataError."""
    folder, pictures = ADE20K.find(root, f"images/{FOLDERS[split]}")
    classes = id_map({0: VOID} | class_ids("ade20k"), "0 to 150, 0 being none of the classes")
    names = list_stems(folder / pictures, ".jpg")
    dataset = MaskedPictures(folder, names, f"{pictures}/{{}}.jpg", f"annotations/{FOLDERS[split]}/{{}}.png", classes)
    return checked(dataset, ADE20K, root)
