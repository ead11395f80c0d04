"""What is in each region? Annotated boxes and masks named by their patches, as RegionCLIP names them.

Shapes in names: D embedding width, R regions, C classes, h w patch grid.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from clippy.regions import align_weights, box_weights, mask_weights, pool_regions
from clippy.vocabulary import ClassList
from pipelines.evaluation.dataset import VOID, Example, Region
from pipelines.evaluation.drawing import draw_ids
from pipelines.evaluation.question import Findings, Row
from pipelines.evaluation.reading import Features, Reader

NEAREST = 5
"""Classes that are kept of each region, the nearest first."""
SIZES = {"small": 32**2, "medium": 96**2, "large": float("inf")}
"""COCO's: the largest area of each in pixels of the picture."""
ANSWERS = BOXES, MASKS, PICTURE = "model on boxes", "model on masks", "whole picture"


@dataclass(frozen=True)
class Regions:
    """Top-1 and top-5 accuracy of annotated regions, also as the mean over classes and by size."""

    classes: ClassList
    templates: tuple[str, ...]
    pooling: Literal["mean", "max", "align"] = "mean"
    table: str = "regions"

    def ask(self, reader: Reader) -> RegionsAnswerer:
        """Embed the classes."""
        return RegionsAnswerer(self, reader)

    def explain(self) -> dict[str, str]:
        """Names, and how regions become embeddings."""
        pooled = {
            "mean": "mean of patches of unit length, weighed by the share of each that box or mask covers",
            "max": "maximum in each dimension over patches of unit length, those that box or mask covers at least half "
            "as much as the one that it covers most",
            "align": "boxes: mean of 14 x 14 points, interpolated between patches of unit length (RoIAlign); masks: "
            "mean of patches, weighed by the share of each that is covered",
        }[self.pooling]
        return {
            "class names": f"{self.classes.name} ({len(self.classes)}): {self.classes.source}",
            "prompts": " | ".join(self.templates),
            "regions": f"{pooled}; crowds are left out; small up to 32 x 32 pixels of the mask, medium up to 96 x 96; "
            f"{PICTURE}: the same answer for all regions of a picture, from all its patches",
        }

    def sum_up(self, rows: Iterable[Row]) -> Findings:
        """Accuracies of boxes, masks and trivial answers; per class, and what was taken for what, of boxes."""
        counts = {answer: _Counts() for answer in ANSWERS}
        for row in rows:
            for label, size, nearest in row["regions"]:
                for answer, named in nearest.items():
                    counts[answer].add(label, size, named)
        boxes, num_classes = counts[BOXES], len(self.classes)
        guess = 1 / num_classes
        chance = {"top-1": guess, "top-5": min(1.0, NEAREST * guess), "mean class top-1": guess}
        by_class = boxes.examples_by_class()
        commonest = sorted(by_class, key=lambda label: (-by_class[label], label))[:NEAREST]
        constant = _Counts()
        for (label, size), number in boxes.examples.items():
            constant.add(label, size, commonest, number)
        counts["commonest class"] = constant
        table = {answer: count.numbers() for answer, count in counts.items() if count.examples}
        return Findings(
            tables={self.table: {**table, "chance": chance}},
            per_class={
                name: {"accuracy": boxes.accuracy(label=i), "count": by_class[i]}
                for i, name in enumerate(self.classes.names)
            },
            confusion=[[truth, named, number] for (truth, named), number in sorted(boxes.pairs.items())],
        )


class _Counts:
    """Regions by class and size, and how many of them were named right."""

    def __init__(self) -> None:
        self.examples, self.right, self.within = (Counter[tuple[int, str]]() for _ in range(3))
        self.pairs = Counter[tuple[int, int]]()

    def add(self, label: int, size: str, nearest: Sequence[int], number: int = 1) -> None:
        """Regions of one class with the same answer."""
        self.examples[label, size] += number
        self.right[label, size] += number * (nearest[0] == label)
        self.within[label, size] += number * (label in nearest)
        self.pairs[label, nearest[0]] += number

    def examples_by_class(self) -> Counter[int]:
        """How many regions each class has."""
        examples = Counter[int]()
        for (label, _), number in self.examples.items():
            examples[label] += number
        return examples

    def accuracy(self, label: int | None = None, size: str | None = None) -> float:
        """Share named right, of one class or size or of all; NaN if there are none."""
        chosen = [key for key in self.examples if label in (None, key[0]) and size in (None, key[1])]
        examples = sum(self.examples[key] for key in chosen)
        return sum(self.right[key] for key in chosen) / examples if examples else float("nan")

    def numbers(self) -> dict[str, float]:
        """Of all regions, as the mean over classes that have any, and by size."""
        by_class = [self.accuracy(label=label) for label in self.examples_by_class()]
        numbers = {
            "top-1": self.accuracy(),
            "top-5": self.within.total() / self.examples.total(),
            "mean class top-1": sum(by_class) / len(by_class),
        }
        sizes = {size for _, size in self.examples}
        return numbers | {f"top-1 {size}": self.accuracy(size=size) for size in SIZES if size in sizes}


class RegionsAnswerer:
    """Names the regions of one picture after the other."""

    def __init__(self, question: Regions, reader: Reader) -> None:
        self._question = question
        self._words_CD = reader.embed_words(question.classes.names, question.templates)

    def measure(self, features: Features, index: int, example: Example) -> Row:
        """Class and size of each region, and the nearest classes of its box, its mask and the whole picture."""
        patches_hwD, regions = features.patches_BhwD[index], example.regions
        grid, size = (patches_hwD.shape[0], patches_hwD.shape[1]), example.pixels.shape[:2]
        boxes = [region.box for region in regions]
        weigh = align_weights if self._question.pooling == "align" else box_weights
        nearest = {BOXES: self._name(patches_hwD, weigh(boxes, size, grid))}
        masks = [region.mask for region in regions if region.mask is not None]
        if regions and len(masks) == len(regions):
            weights_Rhw = mask_weights(torch.from_numpy(np.stack(masks)), grid)
            is_empty_R = weights_Rhw.sum(dim=(1, 2)) == 0  # thinner than a pixel
            weights_Rhw[is_empty_R] = box_weights(boxes, size, grid)[is_empty_R]
            nearest[MASKS] = self._name(patches_hwD, weights_Rhw)
        nearest[PICTURE] = self._name(patches_hwD, torch.ones(1, *grid)) * len(regions)
        named = [
            [region.label, _size_of(region), {answer: classes[i] for answer, classes in nearest.items()}]
            for i, region in enumerate(regions)
        ]
        right = [region.label == classes[0] for region, classes in zip(regions, nearest[BOXES], strict=True)]
        return {"regions": named, "score": sum(right) / len(right) if right else None}

    def draw(self, features: Features, index: int, example: Example) -> tuple[Image.Image, str]:
        """The picture, its regions as they were named by their boxes, and what they are; small ones over large ones."""
        named = [answers[BOXES][0] for _, _, answers in self.measure(features, index, example)["regions"]]
        said, truth = (np.full(example.pixels.shape[:2], VOID, dtype=np.int32) for _ in range(2))
        for region, label in sorted(zip(example.regions, named, strict=True), key=lambda pair: -_area(pair[0])):
            inside = region.mask if region.mask is not None else _inside(region, truth.shape)
            said[inside], truth[inside] = label, region.label
        right = sum(region.label == label for region, label in zip(example.regions, named, strict=True))
        caption = f"{example.key}: {right} of {len(named)} boxes named right"
        return draw_ids(example.pixels, said, truth, self._question.classes.names), caption

    def _name(self, patches_hwD: Tensor, weights_Rhw: Tensor) -> list[list[int]]:
        """The nearest classes of each region."""
        regions_RD = pool_regions(patches_hwD, weights_Rhw, "max" if self._question.pooling == "max" else "mean")
        with torch.inference_mode():
            cosine_RC = regions_RD @ self._words_CD.to(regions_RD.device).T
            return cosine_RC.topk(min(NEAREST, cosine_RC.shape[1]), dim=1).indices.tolist()


def _area(region: Region) -> float:
    """Pixels of the mask, or of the box where there is none."""
    if region.mask is not None:
        return float(region.mask.sum())
    left, top, right, bottom = region.box
    return (right - left) * (bottom - top)


def _size_of(region: Region) -> str:
    return next(size for size, largest in SIZES.items() if _area(region) <= largest)


def _inside(region: Region, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    left, top, right, bottom = (round(end) for end in region.box)
    inside = np.zeros(shape, dtype=np.bool_)
    inside[max(0, top) : max(0, bottom), max(0, left) : max(0, right)] = True
    return inside
