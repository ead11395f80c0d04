"""What is each pixel? Top-down grouping: pixels named by a benchmark's words, against masks.

Shapes in names: D embedding width, C classes, K words, H W pixels, h w patch grid.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from clippy import metrics
from clippy.refine import label_refined
from clippy.scoring import score_factors
from clippy.upsampling import best_probability, label_pixels, two_best
from clippy.vocabulary import ClassList
from pipelines.evaluation.dataset import VOID, Example
from pipelines.evaluation.drawing import draw_ids
from pipelines.evaluation.question import Findings, Row, count_pairs
from pipelines.evaluation.questions.hierarchy import TABLE, answers_of, explain_hierarchy, hierarchy_table
from pipelines.evaluation.reading import Features, Reader
from pipelines.evaluation.result import Table

Ids = NDArray[np.int32]


@dataclass(frozen=True)
class Segmentation:
    """Intersection over union of named pixels."""

    classes: ClassList
    templates: tuple[str, ...]
    constants: tuple[Literal["all background", "one object"], ...] = ()
    """Trivial answers beside the model's: all pixels are the picture's attribute ``background``, or its label."""
    seen: tuple[str, ...] | None = None
    """Classes whose masks a decoder was trained on, if the patches go through one."""
    back_off: tuple[float, ...] = ()
    """Leads in cosine below which the answer of a pixel is what its two best words have in common."""
    table: str = "segmentation"

    def ask(self, reader: Reader) -> SegmentationAnswerer:
        """Embed the words that the protocol asks for."""
        return SegmentationAnswerer(self, reader)

    def explain(self) -> dict[str, str]:
        """Names, prompts, and how numbers are averaged."""
        groups = {group: [self.classes.names[i] for i in ids] for group, ids in self._by_seen().items()}
        told = {
            "class names": f"{self.classes.name} ({len(self.classes)}): {self.classes.source}",
            "prompts": " | ".join(self.templates),
            "mIoU": "one confusion matrix over all pixels that are not void, at the labels' own size; mean over the "
            "classes that have ground truth",
            **{f"{group} classes": ", ".join(names) for group, names in groups.items()},
        }
        return told | (explain_hierarchy(self.back_off) if self.classes.hypernyms else {})

    def sum_up(self, rows: Iterable[Row]) -> Findings:
        """mIoU over all classes, and over things and stuff where there are both; pixel accuracy; how right it was."""
        totals: dict[str, Counter[tuple[int, int]]] = {}
        backed_off = [Counter[tuple[int, int]]() for _ in self.back_off]
        for row in rows:
            for answer, pairs in row["pairs"].items():
                _add(totals.setdefault(answer, Counter()), pairs)
            for total, pairs in zip(backed_off, row.get("backed_off", ()), strict=True):
                _add(total, pairs)
        confusions = {answer: self._matrix(total) for answer, total in totals.items()}
        ours = confusions["model"]
        numbers = {answer: self._numbers(matrix) for answer, matrix in confusions.items()}
        tables = {self.table: numbers | self._trivial(ours)}
        if self.classes.hypernyms:
            tables[TABLE] = hierarchy_table(self.classes, totals["model"], self.back_off, backed_off)
        return Findings(
            tables=tables,
            per_class=self._per_class(ours),
            confusion=[[int(t), int(p), int(ours[t, p])] for t, p in zip(*np.nonzero(ours), strict=True)],
        )

    def _matrix(self, total: Counter[tuple[int, int]]) -> NDArray[np.int64]:
        matrix = np.zeros((len(self.classes), len(self.classes)), dtype=np.int64)
        for (truth, predicted), count in total.items():
            matrix[truth, predicted] = count
        return matrix

    def _numbers(self, confusion: NDArray[np.int64]) -> dict[str, float]:
        numbers = {"mIoU": metrics.mean_iou(confusion)}
        kinds = [kind for kind in ("thing", "stuff") if kind in self.classes.kinds]
        if len(kinds) == 2:
            for kind, name in zip(kinds, ("mIoU things", "mIoU stuff"), strict=True):
                numbers[name] = metrics.mean_iou(confusion, self._of_kind(kind))
        groups = self._by_seen()
        if "unseen" in groups:
            numbers |= {f"mIoU {group}": metrics.mean_iou(confusion, ids) for group, ids in groups.items()}
        numbers["pixel accuracy"] = float(np.trace(confusion) / max(1, confusion.sum()))
        return numbers

    def _of_kind(self, kind: str) -> list[int]:
        return [i for i, own in enumerate(self.classes.kinds) if own == kind]

    def _by_seen(self) -> dict[str, list[int]]:
        """The classes that a decoder has seen and those that it has not, as far as there are any."""
        if self.seen is None:
            return {}
        groups: dict[str, list[int]] = {"seen": [], "unseen": []}
        for i, name in enumerate(self.classes.names):
            groups["seen" if name in self.seen else "unseen"].append(i)
        return {group: ids for group, ids in groups.items() if ids}

    def _trivial(self, confusion: NDArray[np.int64]) -> Table:
        """What the one commonest class, and a class drawn anew for each pixel, would get: exact, without a picture."""
        pixels = confusion.sum(axis=1)
        constant = np.zeros_like(confusion)
        constant[:, pixels.argmax()] = pixels
        drawn = pixels[:, None] * np.full((1, len(pixels)), 1 / len(pixels))
        union = pixels + drawn.sum(axis=0) - np.diagonal(drawn)
        iou = np.diagonal(drawn)[pixels > 0] / union[pixels > 0]
        expected = {"mIoU": float(iou.mean()) if iou.size else float("nan"), "pixel accuracy": 1 / len(pixels)}
        return {"commonest class": self._numbers(constant), "random class": expected}

    def _per_class(self, confusion: NDArray[np.int64]) -> dict[str, dict[str, float]]:
        iou, pixels = metrics.intersection_over_union(confusion), confusion.sum(axis=1)
        return {
            name: {"iou": float(iou[i]) if pixels[i] else float("nan"), "count": int(pixels[i])}
            for i, name in enumerate(self.classes.names)
        }


class SegmentationAnswerer:
    """Names the pixels of one picture after the other."""

    def __init__(self, question: Segmentation, reader: Reader) -> None:
        self._question, self._reader = question, reader
        classes, protocol = question.classes, reader.protocol
        by_threshold = protocol.background == "threshold" and classes.background is not None
        named = [i for i in range(len(classes)) if not (by_threshold and i == classes.background)]
        words, class_of_word = classes.words_of(named)
        self._class_of_word_K = torch.tensor(class_of_word, dtype=torch.int32)
        self._words_KD = reader.embed_words(words, question.templates)
        self._threshold = protocol.background_threshold if by_threshold else None

    def measure(self, features: Features, index: int, example: Example) -> Row:
        """Pairs of true and named class, of the model, the trivial answers and the best that its patches allow."""
        truth = example.require_mask()
        answers = {"model": self.name_pixels(features, index, example)}
        for name in self._question.constants:
            constant = example.label if name == "one object" else example.attributes["background"]
            assert constant is not None
            answers[name] = np.full_like(truth, constant)
        pairs = {name: count_pairs(answer, truth) for name, answer in answers.items()}
        pairs["patch-majority oracle"] = _best_of_patches(truth, *features.patches_BhwD.shape[1:3])
        row: Row = {"pairs": pairs, "score": _mean_iou(pairs["model"])}
        if self._question.back_off:
            row["backed_off"] = [count_pairs(answer, truth) for answer in self._back_off(features, index, example)]
        return row

    def draw(self, features: Features, index: int, example: Example) -> tuple[Image.Image, str]:
        """Picture, named pixels and truth side by side."""
        truth = example.require_mask()
        predicted = self.name_pixels(features, index, example)
        score = _mean_iou(count_pairs(predicted, truth))
        caption = example.key if score is None else f"{example.key}: mIoU {score:.2f}"
        return draw_ids(example.pixels, predicted, truth, self._question.classes.names), caption

    def name_pixels(self, features: Features, index: int, example: Example) -> Ids:
        """The class of each pixel of picture ``index``: (H, W) int32."""
        patches_hwD, words_KD, kept_K = self._score(features, index)
        size, probability_HW = example.pixels.shape[:2], None
        if self._reader.protocol.refine:
            found_HW, probability_HW = label_refined(
                patches_hwD, words_KD, example.pixels, self._reader.scale, self._all_words()
            )
        else:
            found_HW = label_pixels(patches_hwD, words_KD, size)
            if self._threshold is not None:
                probability_HW = self._probability(patches_hwD, words_KD, size)
        return self._with_background(self._classes_of(kept_K)[found_HW], probability_HW).cpu().numpy()

    def _back_off(self, features: Features, index: int, example: Example) -> Iterator[Ids]:
        """The answer of each pixel for each lead: a class, or what the two best words have in common."""
        patches_hwD, words_KD, kept_K = self._score(features, index)
        if len(words_KD) < 2:  # there is nothing to have in common
            yield from [self.name_pixels(features, index, example)] * len(self._question.back_off)
            return
        size, probability_HW = example.pixels.shape[:2], None
        if self._threshold is not None:
            probability_HW = self._probability(patches_hwD, words_KD, size)
        labels_2HW, lead_HW = two_best(patches_hwD, words_KD, size)
        first_HW, second_HW = self._classes_of(kept_K)[labels_2HW]
        common_CC = torch.from_numpy(answers_of(self._question.classes.hypernyms).common_CC).to(first_HW)
        for lead in self._question.back_off:
            answer_HW = torch.where(lead_HW < lead, common_CC[first_HW, second_HW], first_HW)
            yield self._with_background(answer_HW, probability_HW).cpu().numpy()

    def _probability(self, patches_hwD: Tensor, words_KD: Tensor, size: tuple[int, int]) -> Tensor:
        """(H, W): how probable the best of some words is; with top classes, among these times among all (GroupViT)."""
        scale, all_KD = self._reader.scale, self._all_words()
        probability_HW = best_probability(patches_hwD, words_KD, size, scale, all_KD)
        if self._reader.protocol.top_classes is not None:
            probability_HW = probability_HW * best_probability(patches_hwD, words_KD, size, scale, self._words_KD)
        return probability_HW

    def _all_words(self) -> Tensor | None:
        """The words that probabilities are of, where prompt denoising leaves some out that are but improbable."""
        return None if self._reader.protocol.prompt_denoising is None else self._words_KD

    def _classes_of(self, kept_K: Tensor) -> Tensor:
        """(K,) int32: the classes of some words by number."""
        return self._class_of_word_K.to(kept_K.device)[kept_K]

    def _with_background(self, classes_HW: Tensor, probability_HW: Tensor | None) -> Tensor:
        """The same with background where the best word is not probable enough, if the protocol has a threshold."""
        if self._threshold is None:
            return classes_HW
        background = self._question.classes.background
        assert probability_HW is not None
        assert background is not None
        threshold = torch.tensor(self._threshold, device=probability_HW.device)
        if self._reader.protocol.relative_threshold:
            threshold = torch.minimum(threshold, probability_HW.max())
        return classes_HW.masked_fill(probability_HW < threshold, background)

    def _score(self, features: Features, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """Patches (h, w, D) and words (K, D) whose products are the scores, and the numbers of those words, (K,)."""
        reader, patches_hwD = self._reader, features.patches_BhwD[index]
        words_KD, top = self._words_KD.to(patches_hwD.device), reader.protocol.top_classes
        kept_K = torch.arange(len(words_KD), device=patches_hwD.device)
        if top is not None and top < len(words_KD):
            kept_K = (words_KD @ features.pooled_BD[index]).topk(top).indices.sort().values
        return score_factors(
            patches_hwD,
            words_KD,
            kept_K,
            reader.scale,
            reader.options,
            lambda: features.keys_BND[index : index + 1],
        )


def _best_of_patches(truth: Ids, h: int, w: int) -> list[list[int]]:
    """Pairs of the best that one class a patch can do: its most frequent, the lowest of equals."""
    ids, counts = metrics.count_in_patches(truth, h, w, ignore=VOID)
    if not len(ids):
        return []
    joint = np.zeros((len(ids), len(ids)), dtype=np.int64)
    np.add.at(joint, counts.argmax(axis=1), counts)
    return [[int(ids[t]), int(ids[p]), int(joint[p, t])] for p, t in zip(*np.nonzero(joint), strict=True)]


def _add(total: Counter[tuple[int, int]], pairs: list[list[int]]) -> None:
    for truth, predicted, count in pairs:
        total[truth, predicted] += count


def _mean_iou(pairs: list[list[int]]) -> float | None:
    """Of one picture, over the classes that are in its ground truth; None where nothing is counted."""
    true, named, right = Counter[int](), Counter[int](), Counter[int]()
    for truth, predicted, count in pairs:
        true[truth] += count
        named[predicted] += count
        right[truth] += count * (truth == predicted)
    if not true:
        return None
    return sum(right[c] / (true[c] + named[c] - right[c]) for c in true) / len(true)
