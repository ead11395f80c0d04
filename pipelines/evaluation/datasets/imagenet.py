"""ImageNet-1k and ImageNet-v2. Class numbers follow the sorted WordNet ids, as every published model has them."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence

import numpy as np

from clippy.vocabulary import class_list
from pipelines.columns import DataError
from pipelines.evaluation.datasets.files import Layout, exists, list_pictures, read_file, read_text
from pipelines.evaluation.datasets.labelled import LabelledPictures
from pipelines.shards import retry
from pipelines.storage import Location

IMAGENET = Layout(
    "ImageNet",
    """
val/n01440764/ILSVRC2012_val_00000293.JPEG, ...    a folder for each class, or for some of them
or, with all pictures in one folder,
val/ILSVRC2012_val_00000001.JPEG, ...
and one of
val.txt                                      lines such as: ILSVRC2012_val_00000001.JPEG 65
LOC_val_solution.csv                         lines such as: ILSVRC2012_val_00048981,n03995372 85 1 499 272
ILSVRC2012_validation_ground_truth.txt       with meta.mat, here or in ILSVRC2012_devkit_t12/data/
""",
)
IMAGENET_V2 = Layout(
    "ImageNet-v2",
    """
imagenetv2-matched-frequency-format-val/
  0/*.jpeg
  ...
  999/*.jpeg
""",
)
V2_SPLITS = ("matched-frequency", "threshold0.7", "top-images")
_WNID = re.compile(r"n\d{8}")


def open_imagenet(root: Location, split: str) -> LabelledPictures:
    """1000 classes, by folders or by a list of labels. Raises DataError."""
    for home in (split, f"ILSVRC/Data/CLS-LOC/{split}", ""):
        folder = root / home if home else root
        # Not at once with all that lies below: the root may hold the training pictures as well.
        entries = [info.base_name for info in retry(folder.list, folder)]
        if any(_WNID.fullmatch(entry) for entry in entries):
            return _by_folders(folder, _wnids())
        files = [entry for entry in entries if entry.endswith(".JPEG") and not entry.startswith(".")]
        if files:
            return _by_list(root, folder, files, split)
    raise IMAGENET.missing(root, f"{split}/n01440764")


def open_imagenet_v2(root: Location, split: str) -> LabelledPictures:
    """1000 classes, ten pictures each, of one of the three samples. Raises DataError."""
    name = f"imagenetv2-{split}-format-val"
    folder = root / name if exists(root / name) else root
    if folder is root and not exists(root / "0"):
        raise IMAGENET_V2.missing(root, f"{name}/0")
    # The folders' names sort as texts, 0, 1, 10, 100, ..., and the classes do not.
    return _by_folders(folder, {str(number): number for number in range(1000)})


def _by_folders(folder: Location, classes: dict[str, int]) -> LabelledPictures:
    files = [file for file in list_pictures(folder) if "/" in file]
    labels = []
    for file in files:
        name = file.partition("/")[0]
        if name not in classes:
            known = list(classes)
            raise DataError(f"{folder.url}/{name}: is none of the {len(known)} classes, {known[0]} to {known[-1]}")
        labels.append(classes[name])
    if not files:
        raise DataError(f"{folder.url}: the folders of classes hold no picture")
    return LabelledPictures(folder, tuple(files), np.array(labels, dtype=np.int32))


def _by_list(root: Location, folder: Location, files: Sequence[str], split: str) -> LabelledPictures:
    readers: dict[str, Callable[[Location], dict[str, int]]] = {
        f"{split}.txt": _read_list,
        "LOC_val_solution.csv": _read_solution,
        "ILSVRC2012_validation_ground_truth.txt": _read_ground_truth,
    }
    for place in (root, folder, root / "ILSVRC2012_devkit_t12/data"):
        for name, read in readers.items():
            if exists(place / name):
                labels = _read(read, place / name)
                missing = next((file for file in files if file not in labels), None)
                if missing is not None:
                    raise DataError(f"{(place / name).url}: has no label for {missing}")
                return LabelledPictures(folder, tuple(files), np.array([labels[f] for f in files], dtype=np.int32))
    raise IMAGENET.missing(root, f"a list of labels such as {split}.txt")


def _read(read: Callable[[Location], dict[str, int]], file: Location) -> dict[str, int]:
    try:
        labels = read(file)
    except DataError:
        raise
    except Exception as error:  # whatever another table, or a broken meta.mat, leads to
        raise DataError(f"{file.url}: is no list of ImageNet's labels ({error})") from None
    wrong = next((label for label in labels.values() if not 0 <= label < 1000), None)
    if wrong is not None:
        raise DataError(f"{file.url}: has the label {wrong}; labels are 0 to 999, in the order of the WordNet ids")
    return labels


def _read_list(file: Location) -> dict[str, int]:
    """Lines of a file's name and a class number, as Caffe's ``val.txt``."""
    rows = (line.split() for line in read_text(file).splitlines() if line.strip())
    return {name.rpartition("/")[2]: int(label) for name, label in rows}


def _read_solution(file: Location) -> dict[str, int]:
    """Kaggle's table: a file's name without its suffix, and boxes that each begin with the class's WordNet id."""
    wnids = _wnids()
    rows = csv.DictReader(io.StringIO(read_text(file)))
    return {f"{row['ImageId']}.JPEG": wnids[row["PredictionString"].split()[0]] for row in rows}


def _read_ground_truth(file: Location) -> dict[str, int]:
    """The devkit's: line n has the devkit's own class number of picture n; ``meta.mat`` says which that is."""
    from scipy.io import loadmat

    wnids = _wnids()
    synsets = loadmat(io.BytesIO(read_file(file.parent / "meta.mat")), squeeze_me=True)["synsets"]
    classes = {
        int(number): wnids[str(wnid)]
        for number, wnid in zip(synsets["ILSVRC2012_ID"], synsets["WNID"], strict=True)
        if int(number) <= 1000  # the others are hypernyms
    }
    numbers = read_text(file).split()
    return {f"ILSVRC2012_val_{i:08}.JPEG": classes[int(number)] for i, number in enumerate(numbers, start=1)}


def _wnids() -> dict[str, int]:
    """Class numbers by WordNet id."""
    return {wnid: i for i, wnid in enumerate(class_list("imagenet").folders or ())}
