"""Cityscapes: fine annotations of its 30 labels, as the 19 classes that are trained on or as the 27 of STEGO."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.dataset import VOID
from pipelines.evaluation.datasets.files import Layout, exists, list_stems
from pipelines.evaluation.datasets.labels import class_ids, id_map
from pipelines.evaluation.datasets.masked import MaskedPictures, checked
from pipelines.storage import Location

CITYSCAPES = Layout(
    "Cityscapes",
    """
leftImg8bit/val/frankfurt/frankfurt_000000_000294_leftImg8bit.png, ...
gtFine/val/frankfurt/frankfurt_000000_000294_gtFine_labelIds.png, ...
gtFine/val/frankfurt/frankfurt_000000_000294_gtFine_instanceIds.png, ...    may be missing
""",
    homes=("", "cityscapes"),
)
FIRST_THING = 24
"""This label and those after it are annotated object by object."""


def open_cityscapes19(root: Location, split: str) -> MaskedPictures:
    """The 19 classes of the benchmark; all other labels are void. Raises DataError."""
    return _open(root, split, class_ids("cityscapes19"))


def open_cityscapes27(root: Location, split: str) -> MaskedPictures:
    """Labels 7 to 33 as 27 classes (STEGO); all other labels are void. Raises DataError."""
    return _open(root, split, class_ids("cityscapes27"))


def _open(root: Location, split: str, classes: dict[int, int]) -> MaskedPictures:
    folder, pictures = CITYSCAPES.find(root, f"leftImg8bit/{split}")
    names = list_stems(folder / pictures, "_leftImg8bit.png", recursive=True)
    instances = f"gtFine/{split}/{{}}_gtFine_instanceIds.png"
    has_instances = bool(names) and exists(folder / instances.format(names[0]))
    dataset = MaskedPictures(
        folder,
        names,
        f"{pictures}/{{}}_leftImg8bit.png",
        f"gtFine/{split}/{{}}_gtFine_labelIds.png",
        id_map(dict.fromkeys(range(34), VOID) | classes, "0 to 33, Cityscapes' label ids"),
        (instances, _segments) if has_instances else None,
    )
    return checked(dataset, CITYSCAPES, root)


def _segments(stored: NDArray[np.integer], mask: NDArray[np.int32]) -> NDArray[np.int32]:
    """Objects, and each other class as a segment, numbered from 1; what is void in the mask is void.

    An object stores 1000 times its label and a number of its own, all else its label. A thing without a number is a
    group of objects that were not told apart: void.
    """
    groups = (stored >= FIRST_THING) & (stored < 1000)
    counted = (mask != VOID) & ~groups
    there = np.zeros(2**16, dtype=np.bool_)
    there[stored[counted]] = True
    return np.where(counted, np.cumsum(there, dtype=np.int32)[stored], np.int32(VOID))
