"""What belongs together? Bottom-up grouping without words, against annotated segments.

Shapes in names: D embedding width, K groups, H W pixels, h w patch grid.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from clippy import inference, metrics
from clippy.kmeans import k_means
from pipelines.evaluation.dataset import VOID, Example
from pipelines.evaluation.drawing import draw_ids
from pipelines.evaluation.protocol import Protocol
from pipelines.evaluation.question import Findings, Row
from pipelines.evaluation.reading import Features, Reader

Ids = NDArray[np.int32]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Grouping:
    """Best Jaccard index of any group for each annotated segment, beside what groups without a model get."""

    protocol: Protocol
    ground: int | None = None
    """Class that is the ground, where segments are the classes of the mask."""
    table: str = "grouping"

    def ask(self, reader: Reader) -> GroupingAnswerer:
        """Needs no words."""
        return GroupingAnswerer(self, reader)

    def explain(self) -> dict[str, str]:
        """How groups are made and matched."""
        protocol = self.protocol
        made = {
            "components": f"{'centred' if protocol.centred else 'uncentred'} principal components of unit-length "
            f"patches, {'both signs of each' if protocol.both_signs else 'turned to the mean patch'}",
            "k-means": "k-means of unit-length patches, seeded by the picture",
            "attention": "masks of the last layer's heads that hold 60 % of the class token's attention",
        }[protocol.grouping]
        return {
            "groups without words": f"{protocol.groups}: {made}; enlarged without smoothing",
            "Jaccard": "best of all groups for each annotated segment, whatever its class, void pixels left out; "
            f"{'the ground is a segment too' if protocol.count_ground else 'the ground is no segment'}; mean over "
            f"{protocol.average}",
        }

    def sum_up(self, rows: Iterable[Row]) -> Findings:
        """The mean over segments or pictures, of the model and of each floor."""
        pairs: dict[str, list[tuple[float, int]]] = {}
        for row in rows:
            for answer, (total, segments) in row["jaccard"].items():
                pairs.setdefault(answer, []).append((total, segments))
        by_picture = self.protocol.average == "pictures"
        means = {name: {"Jaccard": metrics.average_jaccard(values, by_picture)} for name, values in pairs.items()}
        return Findings({self.table: means})


class GroupingAnswerer:
    """Groups the patches of one picture after the other."""

    def __init__(self, question: Grouping, reader: Reader) -> None:
        self._question, self._reader = question, reader

    def measure(self, features: Features, index: int, example: Example) -> Row:
        """Sum of best Jaccards and number of segments, for the model and each floor."""
        protocol, grid = self._question.protocol, features.patches_BhwD.shape[1:3]
        seed = torch.Generator().manual_seed(zlib.crc32(example.key.encode()))  # as the picture, not as the worker
        image_13HW = features.images_B3HW[index : index + 1]
        colours_1ND = inference.patch_colours(image_13HW, self._reader.model.patch_size)
        answers = {
            "random partition": inference.random_partition(grid, protocol.groups, seed),
            "position grid": blocks_of(grid, protocol.groups),
            "whole image": torch.zeros(grid, dtype=torch.int64),
            "raw-colour components": self._components(colours_1ND, grid),
        }
        segments = self._segments(example)
        counted = metrics.count_in_patches(segments, grid[0], grid[1], ignore=VOID)
        jaccard = {"model": self._jaccard_of_model(features, index, example, segments, counted)}
        jaccard |= {name: self._jaccard(groups, counted) for name, groups in answers.items()}
        total, count = jaccard["model"]
        return {"jaccard": jaccard, "score": total / count if count else None}

    def draw(self, features: Features, index: int, example: Example) -> tuple[Image.Image, str]:
        """Picture, groups and segments side by side."""
        segments = self._segments(example)
        groups_hw = self._groups(features, index, example).cpu()
        groups = inference.enlarge(groups_hw, segments.shape).numpy()
        counted = metrics.count_in_patches(segments, groups_hw.shape[0], groups_hw.shape[1], ignore=VOID)
        total, count = self._jaccard_of_model(features, index, example, segments, counted)
        names = [f"group {i + 1}" for i in range(max(int(groups.max()), int(segments.max())) + 1)]
        caption = f"{example.key}: Jaccard {total / count:.2f}" if count else example.key
        return draw_ids(example.pixels, groups.astype(np.int32), segments, names), caption

    def _jaccard_of_model(
        self, features: Features, index: int, example: Example, segments: Ids, counted: tuple[Counts, Counts]
    ) -> tuple[float, int]:
        protocol = self._question.protocol
        if protocol.grouping != "attention":
            return self._jaccard(self._groups(features, index, example), counted)
        masks = [inference.enlarge(mask, segments.shape).numpy() for mask in features.head_masks_BAhw[index].cpu()]
        return metrics.best_jaccard_of_masks(
            segments, np.stack(masks), ignore=VOID, include_ground=protocol.count_ground
        )

    def _groups(self, features: Features, index: int, example: Example) -> Tensor:
        """(h, w) group of each patch."""
        patches_hwD = features.patches_BhwD[index]
        grid, protocol = patches_hwD.shape[:2], self._question.protocol
        patches_1ND = patches_hwD.flatten(0, 1)[None]
        if protocol.grouping == "attention":  # heads' masks overlap: drawn is the first head that has a patch
            return features.head_masks_BAhw[index].int().argmax(dim=0)
        if protocol.grouping == "k-means":
            seed = zlib.crc32(example.key.encode())
            return k_means(patches_1ND[0], protocol.groups, seed).view(grid)
        return self._components(patches_1ND, (grid[0], grid[1]))

    def _components(self, patches_1ND: Tensor, grid: tuple[int, ...]) -> Tensor:
        protocol = self._question.protocol
        components = protocol.groups // 2 if protocol.both_signs else protocol.groups
        return inference.group(
            patches_1ND, (grid[0], grid[1]), components, centred=protocol.centred, both_signs=protocol.both_signs
        )[0]

    def _segments(self, example: Example) -> Ids:
        """(H, W): 0 is the ground."""
        if example.segments is not None:
            return example.segments
        ground, mask = self._question.ground, example.require_mask()
        if ground is None:
            return np.where(mask == VOID, VOID, mask + 1)
        return np.where(mask == VOID, VOID, np.where(mask == ground, 0, mask + 1))

    def _jaccard(self, groups_hw: Tensor, counted: tuple[Counts, Counts]) -> tuple[float, int]:
        protocol = self._question.protocol
        return metrics.best_jaccard_of_patches(
            *counted, groups_hw.cpu().numpy(), protocol.groups, include_ground=protocol.count_ground
        )


def blocks_of(grid: tuple[int, ...], groups: int) -> Tensor:
    """Near-square blocks of a picture's plane, as many as groups where the patches allow it."""
    columns = next(n for n in range(int(groups**0.5), 0, -1) if groups % n == 0)
    rows = groups // columns
    return inference.position_grid(grid[0], grid[1], rows=min(rows, grid[0]), columns=min(columns, grid[1]))
