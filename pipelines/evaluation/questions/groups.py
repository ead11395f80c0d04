"""Which of two birds, whatever is behind it? Accuracy by class and background (Waterbirds), pooled and by patches.

Shapes in names: D embedding width, K words, h w patch grid.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from PIL import Image

from clippy.vocabulary import ClassList
from pipelines.evaluation.dataset import Example
from pipelines.evaluation.drawing import draw_picture
from pipelines.evaluation.question import Findings, Row
from pipelines.evaluation.reading import Features, Reader


@dataclass(frozen=True)
class Groups:
    """Accuracy of each class on each background; the attribute ``group`` is twice the class plus the background."""

    classes: ClassList
    """The two classes; its extra words are what patches may be beside them."""
    templates: tuple[str, ...]
    places: tuple[str, str] = ("land", "water")
    """What the backgrounds are called, the usual one of the first class first."""
    first_label: int = 0
    """The first class's number in the pictures' labels."""
    table: str = "groups"

    def ask(self, reader: Reader) -> GroupsAnswerer:
        """Embed both classes and the words of backgrounds."""
        return GroupsAnswerer(self, reader)

    def explain(self) -> dict[str, str]:
        """Prompts, and both ways to answer."""
        return {
            "class names": f"{' | '.join(self.classes.names)}: {self.classes.source}",
            "background words": " | ".join(self.classes.extra_words),
            "prompts": " | ".join(self.templates),
            "pooled": "cosine of the pooled embedding with the two classes",
            "patches": "each patch takes the nearest of classes and background words; the class of most patches wins, "
            "the one with the nearest patch where as many or none are either",
            "gap": "accuracy of a class on its usual background less that on the other",
        }

    def sum_up(self, rows: Iterable[Row]) -> Findings:
        """Accuracy of the four groups, the worst, and how much each class loses when its background is swapped."""
        counts, right = (
            Counter[tuple[int, int]](),
            {"pooled": Counter[tuple[int, int]](), "patches": Counter[tuple[int, int]]()},
        )
        for row in rows:
            group = (row["truth"], row["place"])
            counts[group] += 1
            for answer, correct in right.items():
                correct[group] += row[answer] == row["truth"]
        table = {answer: self._numbers(correct, counts) for answer, correct in right.items()}
        table["chance"] = {name: 0.5 for name in table["pooled"] if not name.startswith("gap")}
        return Findings({self.table: table})

    def _numbers(self, right: Counter[tuple[int, int]], counts: Counter[tuple[int, int]]) -> dict[str, float]:
        first, second = self.classes.names
        accuracy = {
            (label, place): right[label, place] / counts[label, place] if counts[label, place] else math.nan
            for label in (0, 1)
            for place in (0, 1)
        }
        numbers = {
            f"{name} on {self.places[place]}": accuracy[label, place]
            for label, name in enumerate((first, second))
            for place in (0, 1)
        }
        numbers["own background"] = _share(right, counts, [(0, 0), (1, 1)])
        numbers["other background"] = _share(right, counts, [(0, 1), (1, 0)])
        numbers["worst"] = min((value for value in accuracy.values() if value == value), default=math.nan)
        numbers[f"gap {first}"] = accuracy[0, 0] - accuracy[0, 1]
        numbers[f"gap {second}"] = accuracy[1, 1] - accuracy[1, 0]
        return numbers


class GroupsAnswerer:
    """Tells two classes apart in one picture after the other."""

    def __init__(self, question: Groups, reader: Reader) -> None:
        self._question = question
        self._words_KD = reader.embed_words(
            [*question.classes.names, *question.classes.extra_words], question.templates
        )

    def measure(self, features: Features, index: int, example: Example) -> Row:
        """Class and background, and both answers."""
        words_KD = self._words_KD.to(features.images_B3HW.device)
        with torch.inference_mode():
            pooled = int((words_KD[:2] @ features.pooled_BD[index]).argmax())
            scores_NK = features.patches_BhwD[index].flatten(0, 1) @ words_KD.T
            votes = torch.bincount(scores_NK.argmax(dim=1), minlength=2)[:2].tolist()
            nearest = int(scores_NK[:, :2].amax(dim=0).argmax())
        truth = example.require_label() - self._question.first_label
        patches = nearest if votes[0] == votes[1] else int(votes[1] > votes[0])
        return {
            "truth": truth,
            "place": example.attributes["group"] % 2,
            "pooled": pooled,
            "patches": patches,
            "score": ((pooled == truth) + (patches == truth)) / 2,
        }

    def draw(self, features: Features, index: int, example: Example) -> tuple[Image.Image, str]:
        """The picture, with both answers."""
        row, names = self.measure(features, index, example), self._question.classes.names
        said = f"pooled {names[row['pooled']]}, patches {names[row['patches']]}"
        return draw_picture(example.pixels), f"{names[row['truth']]} on {self._question.places[row['place']]}; {said}"


def _share(right: Counter[tuple[int, int]], counts: Counter[tuple[int, int]], groups: list[tuple[int, int]]) -> float:
    total = sum(counts[group] for group in groups)
    return sum(right[group] for group in groups) / total if total else math.nan
