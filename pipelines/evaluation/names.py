"""The benchmarks by name, as data. Imports nothing, so that recipes and the command line can check names at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["classification", "groups", "segmentation", "regions", "shapes", "own"]


@dataclass(frozen=True)
class Asked:
    """What is asked about a benchmark's pictures, and with which prompts unless the protocol names others."""

    title: str
    kind: Kind
    """``own`` asks what the pictures' labels and masks allow."""
    templates: str = "simple"


BENCHMARKS = {
    "imagenet": Asked("ImageNet", "classification", "openai"),
    "imagenet-v2": Asked("ImageNet-v2, matched frequency", "classification", "openai"),
    "waterbirds": Asked("Waterbirds", "groups"),
    "voc": Asked("PASCAL VOC 2012", "segmentation", "released"),
    "voc20": Asked("PASCAL VOC 2012 without background", "segmentation", "released"),
    "context59": Asked("PASCAL Context without background", "segmentation"),
    "context60": Asked("PASCAL Context", "segmentation"),
    "ade20k": Asked("ADE20K", "segmentation"),
    "coco-panoptic": Asked("COCO panoptic", "segmentation"),
    "coco-stuff": Asked("COCO-Stuff 164k", "segmentation"),
    "coco-object": Asked("COCO-Object", "segmentation"),
    "coco-instances": Asked("COCO instances", "regions"),
    "cityscapes19": Asked("Cityscapes, 19 classes", "segmentation"),
    "cityscapes27": Asked("Cityscapes, 27 classes", "segmentation"),
    "shapes": Asked("generated scenes", "shapes"),
    "folder": Asked("own pictures in a folder", "own"),
    "parquet": Asked("own pictures in Parquet", "own"),
}
PAPER_SUITE = (
    *("imagenet", "imagenet-v2", "waterbirds", "voc", "ade20k", "coco-panoptic", "coco-object"),
    *("cityscapes27",),
)
"""The benchmarks of the paper's tables."""
