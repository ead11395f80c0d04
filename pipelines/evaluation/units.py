"""The measuring itself: a unit of pictures read ahead by threads, shown to the model in batches of one size.

Which pictures make up a unit and a batch hangs on the benchmark alone, so a row of counts is the same on any number of
workers, and the same again after a kill.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.evaluation.dataset import Example
from pipelines.evaluation.protocol import Protocol
from pipelines.evaluation.question import Answerer, LearningQuestion, Part, Row
from pipelines.evaluation.reading import Features, Reader
from pipelines.targets import FoundDecoder, FoundModel

UNIT_PICTURES = 64
"""Pictures of a unit, after each of which what was measured is safe."""
READING_THREADS = 2
_READ_AHEAD = 16
"""Decoded pictures that wait for the model, at most, beside those of the batches that are being filled."""


@dataclass(frozen=True)
class Unit:
    """Consecutive pictures of one part."""

    part: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        """Its file's name; names sort in the order of pictures."""
        return f"{self.part:02d}-{self.start:08d}.json"


def units_of(parts: Sequence[Part]) -> list[Unit]:
    """All units, in order."""
    return [
        Unit(number, start, min(start + UNIT_PICTURES, len(part.dataset)))
        for number, part in enumerate(parts)
        for start in range(0, len(part.dataset), UNIT_PICTURES)
    ]


@dataclass(frozen=True)
class Task:
    """What is measured: a model, a protocol, a benchmark's parts; perhaps with a decoder over the model's patches."""

    model: FoundModel
    protocol: Protocol
    parts: tuple[Part, ...]
    batch_size: int
    device: str = "cpu"
    decoder: FoundDecoder | None = None

    def after_learning(self, learn: Callable[[int, LearningQuestion], Any]) -> Task:
        """The same task, each of whose questions knows what ``learn`` says of it and of its part."""
        parts = []
        for number, part in enumerate(self.parts):
            questions = (
                question.with_learned(learn(number, question)) if isinstance(question, LearningQuestion) else question
                for question in part.questions
            )
            parts.append(replace(part, questions=tuple(questions)))
        return replace(self, parts=tuple(parts))


class Measurer:
    """One copy of the model, to which the questions of a part are put when its first picture comes."""

    def __init__(self, task: Task) -> None:
        model = task.model.load().to(task.device)
        decoder = task.decoder.load().to(task.device) if task.decoder else None
        self._task, self._reader = task, Reader(model, task.protocol, task.model.name, decoder)
        self._answerers: dict[int, dict[str, Answerer]] = {}

    def learn(self, part: int, question: LearningQuestion) -> Any:
        """What a question learns of its sample."""
        positions = question.sample(len(self._task.parts[part].dataset))
        pictures = ((features, index, example) for _, features, index, example in self._read(part, positions))
        return question.learn(pictures, len(positions))

    def learn_all(self) -> None:
        """Let all questions learn; before anything is measured."""
        self._task = self._task.after_learning(self.learn)

    def measure(self, unit: Unit) -> list[dict[str, Row]]:
        """The rows of every question, one dict a picture, in the order of pictures."""
        answerers, rows = self._ask(unit.part), {}
        for position, features, index, example in self._read(unit.part, range(unit.start, unit.stop)):
            rows[position] = {name: answerer.measure(features, index, example) for name, answerer in answerers.items()}
        return [rows[position] for position in sorted(rows)]

    def draw(self, part: int, table: str, positions: Sequence[int]) -> dict[int, tuple[bytes, str]]:
        """Some pictures as PNG with the line below them, by position."""
        answerer = self._ask(part)[table]
        drawn = {}
        for position, features, index, example in self._read(part, positions):
            picture, caption = answerer.draw(features, index, example)
            drawn[position] = _png(picture), caption
        return drawn

    def _ask(self, part: int) -> dict[str, Answerer]:
        """Who answers the questions of a part, by table."""
        if part not in self._answerers:
            questions = self._task.parts[part].questions
            self._answerers[part] = {question.table: question.ask(self._reader) for question in questions}
        return self._answerers[part]

    def _read(self, part: int, positions: Iterable[int]) -> Iterator[tuple[int, Features, int, Example]]:
        """Each picture with the features of its batch; pictures of one size make up a batch."""
        filling: dict[tuple[int, ...], list[tuple[int, Example, NDArray[np.uint8]]]] = {}
        for position, example, shown in self._read_ahead(self._task.parts[part], positions):
            batch = filling.setdefault(shown.shape, [])
            batch.append((position, example, shown))
            if len(batch) == self._task.batch_size:
                yield from self._batch(filling.pop(shown.shape))
        for batch in filling.values():
            yield from self._batch(batch)

    def _batch(
        self, batch: list[tuple[int, Example, NDArray[np.uint8]]]
    ) -> Iterator[tuple[int, Features, int, Example]]:
        features = self._reader.read([shown for _, _, shown in batch])
        for index, (position, example, _) in enumerate(batch):
            yield position, features, index, example

    def _read_ahead(self, part: Part, positions: Iterable[int]) -> Iterator[tuple[int, Example, NDArray[np.uint8]]]:
        def read(position: int) -> tuple[int, Example, NDArray[np.uint8]]:
            example = part.dataset.read(position)
            return position, example, self._reader.shown(example.pixels, part.cropped)

        waiting: deque[Future[tuple[int, Example, NDArray[np.uint8]]]] = deque()
        coming = iter(positions)
        with ThreadPoolExecutor(READING_THREADS) as threads:
            waiting.extend(threads.submit(read, position) for position in islice(coming, _READ_AHEAD))
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(threads.submit(read, position) for position in islice(coming, 1))


def _png(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return stream.getvalue()
