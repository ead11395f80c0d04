"""Writes small pictures and annotations just as the benchmarks lie on disk.

The functions named after benchmarks take the numbers that are stored; ``write_classes`` takes classes.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from clippy.vocabulary import class_list
from pipelines.evaluation.dataset import VOID

Array = NDArray[Any]


def picture(height: int, width: int, colour: tuple[int, int, int] = (200, 60, 20)) -> Array:
    """A picture of one colour, which JPEG keeps but for a rounding."""
    return np.full((height, width, 3), colour, dtype=np.uint8)


def encode(pixels: Array, format: str = "JPEG", orientation: int | None = None) -> bytes:
    """A picture's bytes; with an EXIF orientation, ``pixels`` are as stored and not as shown."""
    stream = io.BytesIO()
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    options = {"quality": 95, "subsampling": 0} if format == "JPEG" else {}
    Image.fromarray(pixels).save(stream, format, exif=exif, **options)
    return stream.getvalue()


def encode_palette(numbers: Array) -> bytes:
    """A palette PNG whose colours say nothing of the indices, as VOC's do not."""
    image = Image.fromarray(numbers.astype(np.uint8), "P")
    image.putpalette(np.random.default_rng(0).permutation(768).astype(np.uint8).tolist())
    return _png(image)


def encode_grey(numbers: Array) -> bytes:
    """A grey PNG of 8 bits, or of 16 for uint16."""
    return _png(Image.fromarray(numbers if numbers.dtype == np.uint16 else numbers.astype(np.uint8)))


def encode_rgb_numbers(numbers: Array) -> bytes:
    """An RGB PNG of R + 256 G + 65536 B."""
    return _png(Image.fromarray(np.stack([numbers >> shift & 255 for shift in (0, 8, 16)], axis=-1).astype(np.uint8)))


def write(path: Path, data: bytes | str) -> Path:
    """A file with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def voc(root: Path, pictures: Mapping[str, Sequence[Array]], split: str = "val") -> Path:
    """VOCdevkit/VOC2012: name -> pixels, classes with 255 void, and perhaps objects."""
    home = root / "VOCdevkit" / "VOC2012"
    write(home / "ImageSets" / "Segmentation" / f"{split}.txt", "".join(f"{name}\n" for name in pictures))
    for name, (pixels, classes, *objects) in pictures.items():
        write(home / "JPEGImages" / f"{name}.jpg", encode(pixels))
        write(home / "SegmentationClass" / f"{name}.png", encode_palette(classes))
        for numbers in objects:
            write(home / "SegmentationObject" / f"{name}.png", encode_palette(numbers))
    return root


def context(root: Path, pictures: Mapping[str, Sequence[Array]], split: str = "val") -> Path:
    """VOCdevkit/VOC2010 as MMSegmentation converts it: name -> pixels and classes, 0 background."""
    home = root / "VOCdevkit" / "VOC2010"
    write(home / "ImageSets" / "SegmentationContext" / f"{split}.txt", "".join(f"{name}\n" for name in pictures))
    for name, (pixels, classes) in pictures.items():
        write(home / "JPEGImages" / f"{name}.jpg", encode(pixels))
        write(home / "SegmentationClassContext" / f"{name}.png", encode_grey(classes))
    return root


def ade20k(root: Path, pictures: Mapping[str, Sequence[Array]], folder: str = "validation") -> Path:
    """ADEChallengeData2016: name -> pixels and classes from 1, 0 other."""
    home = root / "ADEChallengeData2016"
    for name, (pixels, classes) in pictures.items():
        write(home / "images" / folder / f"{name}.jpg", encode(pixels))
        write(home / "annotations" / folder / f"{name}.png", encode_grey(classes))
    return root


def cityscapes(root: Path, pictures: Mapping[str, Sequence[Array]], split: str = "val") -> Path:
    """leftImg8bit and gtFine: city_number_frame -> pixels, label ids and perhaps instance ids."""
    for name, (pixels, labels, *instances) in pictures.items():
        city = name.partition("_")[0]
        write(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", encode(pixels, "PNG"))
        write(root / "gtFine" / split / city / f"{name}_gtFine_labelIds.png", encode_grey(labels))
        for numbers in instances:
            data = encode_grey(numbers.astype(np.uint16))
            write(root / "gtFine" / split / city / f"{name}_gtFine_instanceIds.png", data)
    return root


def coco_stuff(root: Path, pictures: Mapping[str, Sequence[Array]], ending: str = "", mmseg: bool = False) -> Path:
    """val2017 and stuffthingmaps, or MMSegmentation's images/ and annotations/: name -> pixels and numbers."""
    images, masks = ("images", "annotations") if mmseg else ("", "stuffthingmaps")
    for name, (pixels, numbers) in pictures.items():
        write(root / images / "val2017" / f"{name}.jpg", encode(pixels))
        write(root / masks / "val2017" / f"{name}{ending}.png", encode_grey(numbers))
    return root


def coco_panoptic(root: Path, pictures: Mapping[str, tuple[Array, Array, Sequence[tuple[int, int, int]]]]) -> Path:
    """val2017, JSON and PNGs: name -> pixels, segment ids, and (id, category, crowd) of each segment."""
    annotations = []
    for i, (name, (pixels, numbers, segments)) in enumerate(pictures.items()):
        write(root / "val2017" / f"{name}.jpg", encode(pixels))
        write(root / "annotations" / "panoptic_val2017" / f"{name}.png", encode_rgb_numbers(numbers))
        described = [{"id": id, "category_id": category, "iscrowd": crowd} for id, category, crowd in segments]
        annotations.append({"image_id": 7 + i, "file_name": f"{name}.png", "segments_info": described})
    _coco_json(root / "annotations" / "panoptic_val2017.json", pictures, annotations)
    return root


def coco_instances(root: Path, pictures: Mapping[str, tuple[Array, Sequence[Mapping[str, Any]]]]) -> Path:
    """val2017 and JSON: name -> pixels, and category_id, bbox, segmentation and iscrowd of each object."""
    annotations = []
    for i, (name, (pixels, objects)) in enumerate(pictures.items()):
        write(root / "val2017" / f"{name}.jpg", encode(pixels))
        annotations += [{"id": 100 * i + k, "image_id": 7 + i, **entry} for k, entry in enumerate(objects)]
    _coco_json(root / "annotations" / "instances_val2017.json", pictures, annotations)
    return root


def imagenet(root: Path, pictures: Mapping[str, Array], split: str = "val") -> Path:
    """Pictures by file, such as n01440764/ILSVRC2012_val_00000293.JPEG."""
    for file, pixels in pictures.items():
        write(root / split / file, encode(pixels))
    return root


def imagenet_v2(root: Path, pictures: Mapping[str, Array], split: str = "matched-frequency") -> Path:
    """Pictures by file, such as 999/a.jpeg."""
    return imagenet(root, pictures, f"imagenetv2-{split}-format-val")


def waterbirds(root: Path, rows: Sequence[tuple[str, Array, int, int, int]]) -> Path:
    """metadata.csv and pictures: file, pixels, y, split and place."""
    home = root / "waterbird_complete95_forest2water2"
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["img_id", "img_filename", "y", "split", "place", "place_filename"])
    for i, (file, pixels, y, split, place) in enumerate(rows, start=1):
        write(home / file, encode(pixels))
        writer.writerow([i, file, y, split, place, f"/o/ocean/{i:08}.jpg"])
    write(home / "metadata.csv", table.getvalue())
    return root


def folder(root: Path, pictures: Mapping[str, Sequence[Array]], classes: Any) -> Path:
    """images/, masks/ and classes.json: file -> pixels and perhaps numbers."""
    for file, (pixels, *masks) in pictures.items():
        write(root / "images" / file, encode(pixels))
        for numbers in masks:
            write(root / "masks" / f"{Path(file).stem}.png", encode_palette(numbers))
    write(root / "classes.json", json.dumps(classes))
    return root


def parquet(
    root: Path, rows: Sequence[Mapping[str, Any]], classes: Any, row_group_rows: int = 2, shards: int = 1
) -> Path:
    """Parquet files and classes.json; the rows' values are stored as they are."""
    root.mkdir(parents=True, exist_ok=True)
    size = -(-len(rows) // shards)
    for i in range(shards):
        table = pa.Table.from_pylist([dict(row) for row in rows[i * size : (i + 1) * size]])
        pq.write_table(table, root / f"{i:05}.parquet", row_group_size=row_group_rows)
    write(root / "classes.json", json.dumps(classes))
    return root


SEGMENTATION = (
    *("voc", "voc20", "context59", "context60", "ade20k", "coco-panoptic", "coco-stuff", "coco-object"),
    *("cityscapes19", "cityscapes27"),
)
"""Benchmarks that ``write_classes`` can write."""


def write_classes(benchmark: str, root: Path, pictures: Sequence[Array], masks: Sequence[Array]) -> Path:
    """A benchmark's files from masks of classes, (H, W) of 0 to C - 1 or VOID, in the order that they are read in.

    COCO panoptic gets a segment a class, VOC the classes as objects.
    """
    names = [f"frankfurt_{i:06}_000019" if "cityscapes" in benchmark else f"{i:012}" for i in range(len(pictures))]
    stored = [_stored(benchmark, mask) for mask in masks]
    named = {name: (pixels, numbers) for name, pixels, numbers in zip(names, pictures, stored, strict=True)}
    if benchmark in ("voc", "voc20"):
        return voc(root, {name: (pixels, numbers, numbers) for name, (pixels, numbers) in named.items()})
    if benchmark in ("context59", "context60"):
        return context(root, named)
    if benchmark == "ade20k":
        return ade20k(root, named)
    if benchmark in ("cityscapes19", "cityscapes27"):
        return cityscapes(root, named)
    if benchmark == "coco-stuff":
        return coco_stuff(root, named)
    if benchmark == "coco-object":
        return coco_stuff(root, named, ending="_instanceTrainIds", mmseg=True)
    categories = class_list("coco-panoptic").ids or ()
    return coco_panoptic(
        root,
        {
            name: (pixels, numbers, [(i, categories[i // 1000 - 1], 0) for i in np.unique(numbers).tolist() if i])
            for name, (pixels, numbers) in named.items()
        },
    )


def _stored(benchmark: str, mask: Array) -> Array:
    """The numbers that stand for classes and void."""
    if benchmark == "coco-panoptic":
        return np.where(mask == VOID, 0, 1000 * (mask + 1))
    classes = class_list(benchmark)
    ids = np.arange(len(classes)) if classes.ids is None or benchmark == "coco-object" else np.array(classes.ids)
    if benchmark == "coco-stuff":
        ids = ids - 1
    return np.where(mask == VOID, 255 if ids[0] == 0 else 0, ids[mask])


def _coco_json(path: Path, pictures: Mapping[str, Sequence[Any]], annotations: Sequence[Mapping[str, Any]]) -> None:
    """Pictures in an order of no meaning, as COCO's files have them."""
    images = [
        {"id": 7 + i, "file_name": f"{name}.jpg", "height": entry[0].shape[0], "width": entry[0].shape[1]}
        for i, (name, entry) in enumerate(pictures.items())
    ]
    write(path, json.dumps({"info": {}, "images": images[::-1], "annotations": annotations, "categories": []}))


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()
