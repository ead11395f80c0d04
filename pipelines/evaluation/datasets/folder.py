"""Users' own pictures, with masks or labels beside them."""

from __future__ import annotations

import csv
import io
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clippy.vocabulary import ClassList
from pipelines.columns import DataError
from pipelines.evaluation.dataset import Example
from pipelines.evaluation.datasets.files import Layout, exists, list_pictures, list_stems, read_file, read_text
from pipelines.evaluation.datasets.labels import IdMap, decode_numbers, decode_picture
from pipelines.evaluation.datasets.own_classes import FORMS, OwnClasses, named_classes, read_classes
from pipelines.storage import Location

FOLDER = Layout(
    "evaluation data",
    f"""
images/a.jpg, ...
masks/a.png, ...     numbers of classes as palette or grey PNG, 255 void
and, or instead of masks,
labels.csv           file,label: names of images, and names or numbers of classes
{FORMS}
or, with a folder for each class,
cat/a.jpg, ...
dog/b.jpg, ...
""",
)


@dataclass(frozen=True, eq=False)
class FolderPictures:
    """Pictures with a class each, a mask each, or both."""

    folder: Location
    files: tuple[str, ...]
    classes: ClassList
    labels: NDArray[np.int32] | None = None
    masks: Location | None = None
    ids: IdMap | None = None

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> Example:
        """A picture with what is known of it. Raises DataError."""
        name = self.files[index]
        file = self.folder / name
        pixels = decode_picture(read_file(file), file.url)
        label = None if self.labels is None else int(self.labels[index])
        if self.masks is None or self.ids is None:
            return Example(name, pixels, label=label)
        mask = self.masks / f"{_stem(name)}.png"
        stored = decode_numbers(read_file(mask), mask.url, pixels, file.url)
        return Example(name, pixels, label=label, mask=self.ids(stored, mask.url))


def open_folder(root: Location, split: str) -> FolderPictures:
    """All pictures of a folder. Raises DataError."""
    own = read_classes(root)
    folder = root / "images" if exists(root / "images") else root
    has_masks, has_labels = (exists(root / name) for name in ("masks", "labels.csv"))
    if folder is root and (has_masks or has_labels):
        raise FOLDER.missing(root, "images/*.jpg")
    files = list_pictures(folder)
    if files and all("/" in file for file in files):
        if has_masks or has_labels:
            beside = "masks" if has_masks else "labels.csv"
            raise DataError(f"{folder.url}/{files[0]}: lies in a subfolder; with {beside} all pictures lie in images/")
        return _by_subfolder(folder, files, own)
    files = [file for file in files if "/" not in file]
    if not files or folder is root:
        raise FOLDER.missing(root, "images/*.jpg")
    if own is None:
        raise FOLDER.missing(root, "classes.json")
    if not has_masks and not has_labels:
        raise FOLDER.missing(root, "masks/*.png")
    if has_masks:
        _check_masks(root / "masks", files)
    return FolderPictures(
        folder,
        tuple(files),
        own.classes,
        _labels(root / "labels.csv", files, own.classes) if has_labels else None,
        root / "masks" if has_masks else None,
        own.ids() if has_masks else None,
    )


def _by_subfolder(folder: Location, files: list[str], own: OwnClasses | None) -> FolderPictures:
    """A class is a subfolder, as torchvision's ImageFolder has it; without a list, in the order of their names."""
    found = [file.partition("/")[0] for file in files]
    own = own or named_classes(tuple(sorted(set(found))), folder)
    numbers = {name: i for i, name in enumerate(own.classes.names)}
    strange = next((name for name in found if name not in numbers), None)
    if strange is not None:
        raise DataError(f"{folder.url}/{strange}: is none of the classes of {own.classes.source}")
    labels = np.array([numbers[name] for name in found], dtype=np.int32)
    return FolderPictures(folder, tuple(files), own.classes, labels)


def _check_masks(masks: Location, files: list[str]) -> None:
    """Raise DataError unless each picture has a mask of its own."""
    there = set(list_stems(masks, ".png"))
    without = [file for file in files if _stem(file) not in there]
    if without:
        name = f"{masks.url}/{_stem(without[0])}.png"
        raise DataError(f"{name}: is missing; {len(without)} of {len(files)} pictures have no mask")
    stem, count = Counter(map(_stem, files)).most_common(1)[0]
    if count > 1:
        raise DataError(f"{masks.url}/{stem}.png: belongs to {count} pictures; give them different names")


def _labels(table: Location, files: list[str], classes: ClassList) -> NDArray[np.int32]:
    reader = csv.DictReader(io.StringIO(read_text(table)))
    if not {"file", "label"} <= set(reader.fieldnames or ()):
        raise DataError(f"{table.url}: has the columns {', '.join(reader.fieldnames or ())}; it needs file and label")
    numbers = {str(i): i for i in range(len(classes))} | {name: i for i, name in enumerate(classes.names)}
    labels: dict[str, int] = {}
    for row in reader:
        label = (row["label"] or "").strip()
        if label not in numbers:
            raise DataError(f"{table.url}, line {reader.line_num}: has the label {label!r}, none of {classes.source}")
        file = (row["file"] or "").removeprefix("images/")
        if labels.setdefault(file, numbers[label]) != numbers[label]:
            raise DataError(f"{table.url}, line {reader.line_num}: gives {file} a second label, {label!r}; keep one")
    without = next((file for file in files if file not in labels), None)
    if without is not None:
        raise DataError(f"{table.url}: has no row for {without}")
    return np.array([labels[file] for file in files], dtype=np.int32)


def _stem(file: str) -> str:
    return file.rpartition(".")[0]
