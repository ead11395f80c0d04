"""COCO-Stuff 164k and COCO-Object, both of its pixel maps of things and stuff."""

from __future__ import annotations

from pipelines.evaluation.dataset import VOID
from pipelines.evaluation.datasets.files import Layout, first_existing, list_stems
from pipelines.evaluation.datasets.labels import IdMap, class_ids, id_map, own_ids
from pipelines.evaluation.datasets.masked import MaskedPictures, checked
from pipelines.storage import Location

_TREE = """
val2017/000000000139.jpg, ...                    or images/val2017/
stuffthingmaps/val2017/000000000139.png, ...     or annotations/val2017/
"""
_HOMES = ("", "coco", "coco_stuff164k")
COCO_STUFF = Layout(
    "COCO-Stuff", f"{_TREE}or beside them 000000000139_labelTrainIds.png, as MMSegmentation has it", _HOMES
)
COCO_OBJECT = Layout(
    "COCO-Object", f"{_TREE}or beside them 000000000139_instanceTrainIds.png, as GroupViT has it", _HOMES
)

_RULE = "0 to 181 without those of things that were never annotated, and 255 for void"


def open_coco_stuff(root: Location, split: str) -> MaskedPictures:
    """171 classes: 80 things, then 91 kinds of stuff; unlabelled pixels are void. Raises DataError."""
    raw = id_map({category - 1: i for category, i in class_ids("coco-stuff").items()} | {255: VOID}, _RULE)
    return _open(root, split, COCO_STUFF, raw, "_labelTrainIds", own_ids(171))


def open_coco_object(root: Location, split: str) -> MaskedPictures:
    """81 classes: 0 for stuff, then 80 things. Raises DataError.

    Unlabelled pixels are background and not void, as in GroupViT's and TCL's ``convert_coco_object.py``, by whose
    masks the published numbers were measured.
    """
    objects = class_ids("coco-object")
    raw = id_map({category - 1: objects.get(category, 0) for category in class_ids("coco-stuff")} | {255: 0}, _RULE)
    return _open(root, split, COCO_OBJECT, raw, "_instanceTrainIds", own_ids(81))


def _open(root: Location, split: str, layout: Layout, raw: IdMap, ending: str, converted: IdMap) -> MaskedPictures:
    """With converted masks where there are any: they are what the raw ones would give."""
    folder, pictures = layout.find(root, f"{split}2017", f"images/{split}2017")
    masks = layout.find_within(folder, root, f"stuffthingmaps/{split}2017", f"annotations/{split}2017")
    names = list_stems(folder / pictures, ".jpg")
    is_converted = bool(names) and first_existing(folder / masks, f"{names[0]}{ending}.png") is not None
    mask = f"{masks}/{{}}{ending}.png" if is_converted else f"{masks}/{{}}.png"
    dataset = MaskedPictures(folder, names, f"{pictures}/{{}}.jpg", mask, converted if is_converted else raw)
    return checked(dataset, layout, root)
