"""What a question is: it looks at one picture after the other, leaves a row of counts for each, and sums rows up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.evaluation.dataset import VOID, Dataset, Example
from pipelines.evaluation.reading import Features, Reader
from pipelines.evaluation.result import Table

Row = dict[str, Any]
"""Counts of one picture, as JSON holds them; ``score``, from 0 to 1, says how well it went."""


@dataclass(frozen=True)
class Findings:
    """Numbers of all pictures."""

    tables: dict[str, Table]
    """By what was asked; the question's own comes first."""
    per_class: dict[str, dict[str, float]] = field(default_factory=dict)
    confusion: list[list[int]] = field(default_factory=list)

    @property
    def first(self) -> Table:
        """The question's own table."""
        return next(iter(self.tables.values()))


class Answerer(Protocol):
    """A question put to one model, whose words are embedded."""

    def measure(self, features: Features, index: int, example: Example) -> Row:
        """What came out for picture ``index`` of the batch."""

    def draw(self, features: Features, index: int, example: Example) -> tuple[Image.Image, str]:
        """The same to look at, with a line below."""


class Question(Protocol):
    """It can be pickled, and knows no model."""

    @property
    def table(self) -> str:
        """Names the table of a result."""

    def ask(self, reader: Reader) -> Answerer:
        """Put it to a model. Raises ValueError for a model that cannot answer."""

    def sum_up(self, rows: Iterable[Row]) -> Findings:
        """All pictures' rows to numbers, in one pass; the order does not matter."""

    def explain(self) -> dict[str, str]:
        """What the numbers hang on, by name, in words."""


@runtime_checkable
class LearningQuestion(Question, Protocol):
    """A question that learns something of some pictures once, in one process, before it is put to all of them."""

    def sample(self, pictures: int) -> Sequence[int]:
        """Which of so many pictures it learns from."""

    def learn(self, pictures: Iterator[tuple[Features, int, Example]], number: int) -> Any:
        """What it needs to know of so many pictures, as JSON holds it."""

    def with_learned(self, learned: Any) -> Question:
        """The question that can be asked."""


@dataclass(frozen=True)
class Part:
    """Pictures of a benchmark and what is asked about each."""

    name: str
    dataset: Dataset
    questions: tuple[Question, ...]
    cropped: bool = False
    """Whether the model sees the centre square, as in classification, or the whole picture in proportion."""


def count_pairs(answers: NDArray[np.int32], truth: NDArray[np.int32]) -> list[list[int]]:
    """[true class, answer, pixels] of the pairs that occur in a picture, void left out."""
    counted, width = truth != VOID, int(answers.max(initial=0)) + 1
    counts = np.bincount(truth[counted].astype(np.int64) * width + answers[counted])
    return [[int(i) // width, int(i) % width, int(counts[i])] for i in np.flatnonzero(counts)]
