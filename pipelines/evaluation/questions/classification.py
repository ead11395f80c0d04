"""What is the picture of? Zero-shot classification of whole pictures.

Shapes in names: D embedding width, C classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from PIL import Image
from torch import Tensor

from clippy.hierarchy import back_off
from clippy.vocabulary import ClassList
from pipelines.evaluation.dataset import Example
from pipelines.evaluation.drawing import draw_picture
from pipelines.evaluation.question import Findings, Row
from pipelines.evaluation.questions.hierarchy import TABLE, answers_of, explain_hierarchy, hierarchy_table
from pipelines.evaluation.reading import Features, Reader

NEAREST = 5
"""Classes that are kept of each picture, the nearest first."""


@dataclass(frozen=True)
class Classification:
    """Top-1 and top-5 accuracy of the pooled embedding."""

    classes: ClassList
    templates: tuple[str, ...]
    among: tuple[int, ...] | None = None
    """Classes that a picture can be of; None is all."""
    back_off: tuple[float, ...] = ()
    """Leads in cosine below which the answer is what the two best classes have in common."""
    table: str = "classification"

    @cached_property
    def candidates(self) -> tuple[int, ...]:
        """Class numbers that are offered."""
        return self.among if self.among is not None else tuple(range(len(self.classes)))

    def ask(self, reader: Reader) -> ClassificationAnswerer:
        """Embed the classes."""
        return ClassificationAnswerer(self, reader)

    def explain(self) -> dict[str, str]:
        """Names, prompts and what is compared."""
        prompts = " | ".join(self.templates) if len(self.templates) <= 9 else f"{len(self.templates)} prompts a class"
        told = {
            "class names": f"{self.classes.name} ({len(self.candidates)}): {self.classes.source}",
            "prompts": prompts,
            "classification": "cosine of the pooled embedding with the mean of each class's prompts",
        }
        return told | (explain_hierarchy(self.back_off) if self.classes.hypernyms else {})

    def sum_up(self, rows: Iterable[Row]) -> Findings:
        """Top-1 and top-5 accuracy, per class, which class was taken for which, and how right that was."""
        pairs, within = Counter[tuple[int, int]](), 0
        backed_off = [Counter[tuple[int, int]]() for _ in self.back_off]
        for row in rows:
            pairs[row["truth"], row["nearest"][0]] += 1
            within += row["truth"] in row["nearest"]
            for total, answer in zip(backed_off, row.get("backed_off", ()), strict=True):
                total[row["truth"], answer] += 1
        count, pictures = sum(pairs.values()), Counter[int]()
        for (truth, _), number in pairs.items():
            pictures[truth] += number
        ours = {"top-1": sum(n for (t, p), n in pairs.items() if t == p) / count}
        chance = {"top-1": 1 / len(self.candidates)}
        if len(self.candidates) > NEAREST:
            ours["top-5"], chance["top-5"] = within / count, NEAREST / len(self.candidates)
        commonest = {"top-1": max(pictures.values()) / count}
        tables = {self.table: {"model": ours, "chance": chance, "commonest class": commonest}}
        if self.classes.hypernyms:
            tables[TABLE] = hierarchy_table(self.classes, pairs, self.back_off, backed_off)
        return Findings(
            tables=tables,
            per_class={
                name: {"accuracy": pairs[i, i] / pictures[i] if pictures[i] else float("nan"), "count": pictures[i]}
                for i, name in enumerate(self.classes.distinct_names)
            },
            confusion=[[truth, predicted, number] for (truth, predicted), number in sorted(pairs.items())],
        )


class ClassificationAnswerer:
    """Names one whole picture after the other."""

    def __init__(self, question: Classification, reader: Reader) -> None:
        self._question, self._reader = question, reader
        names = [question.classes.names[i] for i in question.candidates]
        self._classes_CD = reader.embed_words(names, question.templates)

    def measure(self, features: Features, index: int, example: Example) -> Row:
        """The true class, those nearest, and how probable the true one was."""
        cosine_C = self._compare(features, index)
        nearest = cosine_C.topk(min(NEAREST, len(cosine_C))).indices.tolist()
        candidates = self._question.candidates
        probability_C = (cosine_C * self._reader.scale).softmax(dim=0)
        score = float(probability_C[candidates.index(example.require_label())])
        row = {"truth": example.label, "nearest": [candidates[i] for i in nearest], "score": score}
        return row | ({"backed_off": self._back_off(cosine_C)} if self._question.back_off else {})

    def draw(self, features: Features, index: int, example: Example) -> tuple[Image.Image, str]:
        """The picture, with what it was taken for."""
        row = self.measure(features, index, example)
        names = self._question.classes.names
        said = ", ".join(names[i] for i in row["nearest"][:3])
        return draw_picture(example.pixels), f"{names[row['truth']]}; nearest: {said}"

    def _back_off(self, cosine_C: Tensor) -> list[int]:
        """The answer for each lead."""
        question = self._question
        all_C = cosine_C.new_full((len(question.classes),), -torch.inf)
        all_C[list(question.candidates)] = cosine_C
        answers = answers_of(question.classes.hypernyms)
        return [int(back_off(all_C, lead, answers, dim=0)) for lead in question.back_off]

    def _compare(self, features: Features, index: int) -> Tensor:
        pooled_D = features.pooled_BD[index]
        with torch.inference_mode():
            return self._classes_CD.to(pooled_D.device) @ pooled_D
