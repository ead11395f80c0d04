"""The benchmarks by name, as data. Imports nothing, so that recipes and the command line can check names at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Benchmark:
    """What is asked about a benchmark's pictures, in which words."""

    title: str
    kind: Literal["classification", "groups", "segmentation", "shapes"]
    classes: str = ""
    """Its class list in `clippy.vocabulary`."""
    templates: str = "simple"
    """Its prompts, unless the protocol names others."""


BENCHMARKS = {
    "imagenet": Benchmark("ImageNet", "classification", "imagenet", "openai"),
    "imagenet-v2": Benchmark("ImageNet-v2, matched frequency", "classification", "imagenet", "openai"),
    "waterbirds": Benchmark("Waterbirds", "groups", "waterbirds"),
    "voc": Benchmark("PASCAL VOC 2012", "segmentation", "voc"),
    "voc20": Benchmark("PASCAL VOC 2012 without background", "segmentation", "voc20"),
    "context59": Benchmark("PASCAL Context without background", "segmentation", "context59"),
    "context60": Benchmark("PASCAL Context", "segmentation", "context60"),
    "ade20k": Benchmark("ADE20K", "segmentation", "ade20k"),
    "coco-panoptic": Benchmark("COCO panoptic", "segmentation", "coco-panoptic"),
    "coco-stuff": Benchmark("COCO-Stuff 164k", "segmentation", "coco-stuff"),
    "coco-object": Benchmark("COCO-Object", "segmentation", "coco-object"),
    "cityscapes19": Benchmark("Cityscapes, 19 classes", "segmentation", "cityscapes19"),
    "cityscapes27": Benchmark("Cityscapes, 27 classes", "segmentation", "cityscapes27"),
    "shapes": Benchmark("generated scenes", "shapes"),
}
PAPER_SUITE = (
    *("imagenet", "imagenet-v2", "waterbirds", "voc", "ade20k", "coco-panoptic", "coco-object"),
    *("cityscapes27",),
)
"""The benchmarks of the paper's tables."""
