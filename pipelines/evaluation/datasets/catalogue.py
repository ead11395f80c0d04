"""The benchmarks by name: who reads them, their splits, their classes, and how their files usually lie."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from clippy.vocabulary import ClassList, class_list
from pipelines.columns import DataError
from pipelines.evaluation.dataset import Dataset
from pipelines.evaluation.datasets import (
    ade20k,
    cityscapes,
    coco_instances,
    coco_panoptic,
    coco_stuff,
    folder,
    imagenet,
    parquet,
    voc,
    waterbirds,
)
from pipelines.evaluation.datasets.files import Layout
from pipelines.storage import Location


@dataclass(frozen=True)
class Benchmark:
    """How a benchmark's data are read."""

    open: Callable[[Location, str], Dataset]
    """The dataset of a root and a split: lists or reads what it needs, and opens no picture."""
    layout: Layout
    splits: tuple[str, ...]
    """The first is what is usually measured."""
    classes: str | None
    """The list's name in ``clippy.vocabulary``; None where the classes lie beside the data."""


_VAL, _ALL = ("val", "train"), ("all",)
BENCHMARKS = {
    "imagenet": Benchmark(imagenet.open_imagenet, imagenet.IMAGENET, _VAL, "imagenet"),
    "imagenet-v2": Benchmark(imagenet.open_imagenet_v2, imagenet.IMAGENET_V2, imagenet.V2_SPLITS, "imagenet"),
    "waterbirds": Benchmark(waterbirds.open_waterbirds, waterbirds.WATERBIRDS, ("test", "val", "train"), "waterbirds"),
    "voc": Benchmark(voc.open_voc, voc.VOC, ("val", "train", "trainval"), "voc"),
    "voc20": Benchmark(voc.open_voc20, voc.VOC, ("val", "train", "trainval"), "voc20"),
    "context59": Benchmark(voc.open_context59, voc.CONTEXT, _VAL, "context59"),
    "context60": Benchmark(voc.open_context60, voc.CONTEXT, _VAL, "context60"),
    "ade20k": Benchmark(ade20k.open_ade20k, ade20k.ADE20K, _VAL, "ade20k"),
    "coco-panoptic": Benchmark(coco_panoptic.open_coco_panoptic, coco_panoptic.COCO_PANOPTIC, _VAL, "coco-panoptic"),
    "coco-stuff": Benchmark(coco_stuff.open_coco_stuff, coco_stuff.COCO_STUFF, _VAL, "coco-stuff"),
    "coco-object": Benchmark(coco_stuff.open_coco_object, coco_stuff.COCO_OBJECT, _VAL, "coco-object"),
    "coco-instances": Benchmark(
        coco_instances.open_coco_instances, coco_instances.COCO_INSTANCES, _VAL, "coco-instances"
    ),
    "cityscapes19": Benchmark(cityscapes.open_cityscapes19, cityscapes.CITYSCAPES, _VAL, "cityscapes19"),
    "cityscapes27": Benchmark(cityscapes.open_cityscapes27, cityscapes.CITYSCAPES, _VAL, "cityscapes27"),
    "shapes": Benchmark(parquet.open_shapes, parquet.SHAPES, parquet.SHAPES_SPLITS, None),
    "folder": Benchmark(folder.open_folder, folder.FOLDER, _ALL, None),
    "parquet": Benchmark(parquet.open_parquet, parquet.PARQUET, _ALL, None),
}


def open_benchmark(name: str, root: Location, split: str | None = None) -> tuple[Dataset, ClassList]:
    """A benchmark's pictures, of its usual split if none is told, and its classes.

    Raises DataError for a name or a split that there is not, and for files that are missing, with the tree expected.
    """
    if name not in BENCHMARKS:
        near = difflib.get_close_matches(name, BENCHMARKS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(BENCHMARKS)}"
        raise DataError(f"no benchmark {name!r}{hint}")
    benchmark = BENCHMARKS[name]
    split = split or benchmark.splits[0]
    if split not in benchmark.splits:
        raise DataError(f"{name} has no split {split!r}; it has {', '.join(benchmark.splits)}")
    dataset = benchmark.open(root, split)
    if benchmark.classes is not None:
        return dataset, class_list(benchmark.classes)
    assert isinstance(dataset, folder.FolderPictures | parquet.ParquetPictures)
    return dataset, dataset.classes


def usual_split(name: str) -> str:
    """What is measured of a benchmark unless something else is told."""
    return BENCHMARKS[name].splits[0]
