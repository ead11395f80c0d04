"""Do patches of all pictures fall apart into the classes? Clusters of a whole dataset, matched with its classes.

Shapes in names: D embedding width, N patches, K clusters, C classes, H W pixels.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from clippy import metrics
from clippy.kmeans import k_means_centres
from clippy.matching import matched_confusion
from clippy.upsampling import label_pixels
from clippy.vocabulary import ClassList
from pipelines.evaluation.dataset import Example
from pipelines.evaluation.drawing import draw_ids
from pipelines.evaluation.question import Findings, Row, count_pairs
from pipelines.evaluation.questions.grouping import blocks_of
from pipelines.evaluation.reading import Features, Reader

SAMPLED_PATCHES = 2**16
"""Patches that clusters are learned from, at most, as many of each picture of the sample."""
Ids = NDArray[np.int32]


@dataclass(frozen=True)
class Clusters:
    """Intersection over union of as many clusters as classes, each renamed to one class (Hungarian matching)."""

    classes: ClassList
    pictures: int
    """How many of the dataset, evenly spread, the clusters are learned from."""
    centres: tuple[tuple[float, ...], ...] = ()
    """What was learned: K vectors of unit length."""
    table: str = "clusters"

    def sample(self, pictures: int) -> list[int]:
        """Pictures that the centres are learned from."""
        sampled = min(self.pictures, pictures)
        return [number * pictures // sampled for number in range(sampled)]

    def learn(self, pictures: Iterator[tuple[Features, int, Example]], number: int) -> list[list[float]]:
        """Centres of the k-means of some patches of each picture, drawn with its name."""
        drawn = []
        for features, index, example in pictures:
            patches_ND = features.patches_BhwD[index].flatten(0, 1)
            seed = torch.Generator().manual_seed(zlib.crc32(example.key.encode()))
            order_N = torch.randperm(len(patches_ND), generator=seed)
            drawn.append(patches_ND[order_N[: -(-SAMPLED_PATCHES // number)].to(patches_ND.device)].cpu())
        return k_means_centres(torch.cat(drawn), len(self.classes), seed=0).tolist()

    def with_learned(self, learned: list[list[float]]) -> Clusters:
        """The same with centres."""
        return replace(self, centres=tuple(map(tuple, learned)))

    def ask(self, reader: Reader) -> ClustersAnswerer:
        """Needs no words, but centres."""
        return ClustersAnswerer(self)

    def explain(self) -> dict[str, str]:
        """How clusters are made and matched."""
        return {
            "clusters": f"{len(self.classes)}: k-means by cosine of {SAMPLED_PATCHES:,} patches of {self.pictures} "
            "pictures of this split at most; a pixel takes the nearest centre by up-sampled cosines",
            "matching": "one cluster a class, so that as many pixels of the split as possible are right (Hungarian); "
            "mIoU over the classes that have ground truth",
        }

    def sum_up(self, rows: Iterable[Row]) -> Findings:
        """mIoU and pixel accuracy once matched, beside clusters that look at no picture."""
        totals: dict[str, Counter[tuple[int, int]]] = {}
        for row in rows:
            for answer, pairs in row["pairs"].items():
                total = totals.setdefault(answer, Counter())
                for truth, cluster, count in pairs:
                    total[truth, cluster] += count
        table = {answer: self._numbers(self._matrix(total)) for answer, total in totals.items()}
        one_cluster_CK = self._matrix(totals["model"]).sum(axis=1, keepdims=True)
        return Findings({self.table: table | {"whole image": self._numbers(one_cluster_CK)}})

    def _matrix(self, total: Counter[tuple[int, int]]) -> NDArray[np.int64]:
        matrix_CK = np.zeros((len(self.classes), 1 + max((cluster for _, cluster in total), default=0)), dtype=np.int64)
        for (truth, cluster), count in total.items():
            matrix_CK[truth, cluster] = count
        return matrix_CK

    def _numbers(self, confusion_CK: NDArray[np.int64]) -> dict[str, float]:
        matched = matched_confusion(confusion_CK)
        accuracy = float(np.trace(matched) / max(1, matched.sum()))
        return {"mIoU": metrics.mean_iou(matched), "pixel accuracy": accuracy}


class ClustersAnswerer:
    """Finds the cluster of the pixels of one picture after the other."""

    def __init__(self, question: Clusters) -> None:
        assert question.centres, "clusters are learned before the question is asked"
        self._classes, self._centres_KD = question.classes, torch.tensor(question.centres)

    def measure(self, features: Features, index: int, example: Example) -> Row:
        """Pairs of class and cluster that occur; the score gives each cluster the class that it has most of here."""
        truth = example.require_mask()
        blocks = blocks_of(truth.shape, len(self._classes))
        pairs = {
            "model": count_pairs(self._cluster(features, index, example), truth),
            "position grid": count_pairs(blocks.numpy().astype(np.int32), truth),
        }
        return {"pairs": pairs, "score": _purity(pairs["model"])}

    def draw(self, features: Features, index: int, example: Example) -> tuple[Image.Image, str]:
        """Picture, clusters and classes side by side."""
        clusters, names = self._cluster(features, index, example), self._classes.names
        purity = _purity(count_pairs(clusters, example.require_mask()))
        caption = example.key if purity is None else f"{example.key}: purity {purity:.2f}"
        all_names = [*names, *(f"cluster {i + 1}" for i in range(len(self._centres_KD)))]
        return draw_ids(example.pixels, clusters + len(names), example.require_mask(), all_names), caption

    def _cluster(self, features: Features, index: int, example: Example) -> Ids:
        patches_hwD = features.patches_BhwD[index]
        return label_pixels(patches_hwD, self._centres_KD, example.pixels.shape[:2]).cpu().numpy()


def _purity(pairs: list[list[int]]) -> float | None:
    """Share of pixels that have the commonest class of their cluster in this picture; None where none is counted."""
    largest: dict[int, int] = {}
    for _, cluster, count in pairs:
        largest[cluster] = max(largest.get(cluster, 0), count)
    total = sum(count for _, _, count in pairs)
    return sum(largest.values()) / total if total else None
