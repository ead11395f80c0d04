"""All units of an evaluation on Ray Data, each written down when it is measured, so that a kill costs one unit."""

from __future__ import annotations

import hashlib
import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data

from pipelines.console import Console
from pipelines.evaluation.question import LearningQuestion, Part, Row
from pipelines.evaluation.units import Measurer, Task, Unit, units_of
from pipelines.storage import Location

UNITS, TASK_FILE = "units", "task.json"
_FILES_AT_ONCE = 16


class Progress:
    """The units of a task, and where those that are done lie."""

    def __init__(self, task: Task, identity: dict[str, Any], folder: Location) -> None:
        """Keeps what an earlier start of the same task left in ``folder``; what another task left is removed.

        ``identity`` tells the model and what is chosen; pictures and classes, which a user may have mended after an
        earlier start, are told apart by what the task's parts say of them.
        """
        self._task, self._folder, self.units = task, folder / UNITS, units_of(task.parts)
        digest = _digest(identity, task.parts)
        file = self._folder / TASK_FILE
        if not file.exists() or json.loads(file.read_text()) != {"digest": digest}:
            self._folder.remove_folder()
            file.write_text(json.dumps({"digest": digest}))

    def missing(self) -> list[Unit]:
        """Units still to be measured."""
        done = {info.base_name for info in self._folder.list()}
        return [unit for unit in self.units if unit.name not in done]

    def pictures_missing(self) -> int:
        """Pictures still to be measured."""
        return sum(unit.stop - unit.start for unit in self.missing())

    def rows(self, part: int) -> Iterator[dict[str, Row]]:
        """What was measured of a part, picture by picture, in order; a few units are held at once."""
        names = [unit.name for unit in self.units if unit.part == part]
        with ThreadPoolExecutor(_FILES_AT_ONCE) as threads:
            for start in range(0, len(names), _FILES_AT_ONCE):
                part_names = names[start : start + _FILES_AT_ONCE]
                for text in threads.map(lambda name: (self._folder / name).read_text(), part_names):
                    yield from json.loads(text)

    def write(self, unit: Unit, rows: list[dict[str, Row]]) -> None:
        """Keep what a unit came to."""
        (self._folder / unit.name).write_text(json.dumps(rows, separators=(",", ":")))

    def clear(self) -> None:
        """Forget all units: the result is written."""
        self._folder.remove_folder()

    def learn_on_ray(self, num_gpus: float) -> Task:
        """The task with what its questions learn before they are asked: once, by one actor, kept with the units."""

        def learn(part: int, question: LearningQuestion) -> Any:
            file = self._folder / f"{part:02d}-{question.table.replace(' ', '-')}.learned.json"
            if not file.exists():
                asked = [{"part": part, "table": question.table}]
                (row,) = map_on_actors(asked, _Learning, (self._task,), workers=1, num_gpus=num_gpus)
                file.write_text(row["learned"])
            return json.loads(file.read_text())

        self._task = self._task.after_learning(learn)
        return self._task

    def measure_on_ray(self, workers: int, num_gpus: float, console: Console) -> None:
        """Measure what is missing with so many copies of the model."""
        missing, total = self.missing(), sum(len(part.dataset) for part in self._task.parts)
        done = total - self.pictures_missing()
        if not missing:
            return
        if done:
            console.line(f"{done:,} of {total:,} pictures were measured before")
        measured = map_on_actors(
            [unit.__dict__ for unit in missing], _Measuring, (self._task, self), workers=workers, num_gpus=num_gpus
        )
        for row in measured:
            done += row["pictures"]
            console.count("pictures", done, total)
        console.clear()


def _digest(identity: dict[str, Any], parts: Sequence[Part]) -> str:
    """Of everything that the rows of a task hang on, but for the contents of pictures and masks."""
    told = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())
    for part in parts:
        told.update(repr((part.name, part.cropped, len(part.dataset), part.questions)).encode())
        for value in _facts(part.dataset):
            told.update(value)
    return told.hexdigest()


def _facts(value: Any) -> Iterator[bytes]:
    """What a dataset was opened with: names, labels, numbers; nothing of objects that only help it to read."""
    if isinstance(value, Location):
        yield value.url.encode()
    elif is_dataclass(value):
        for entry in fields(value):
            yield entry.name.encode()
            yield from _facts(getattr(value, entry.name))
    elif isinstance(value, Mapping):
        yield from _facts(tuple(value.items()))
    elif isinstance(value, tuple):
        for entry in value:
            yield from _facts(entry)
    elif isinstance(value, np.ndarray):
        yield value.tobytes()
    elif value is None or isinstance(value, str | bytes | int | float):
        yield repr(value).encode()


def map_on_actors(
    rows: list[dict[str, Any]], actor: type[Actor], arguments: tuple[Any, ...], workers: int, num_gpus: float
) -> Iterator[dict[str, Any]]:
    """Map rows one by one with so many copies of an actor; results come in the order of rows.

    Raises ValueError with the sentence of an actor that found a mistake.
    """
    ray.data.DataContext.get_current().enable_progress_bars = False
    with warnings.catch_warnings():
        # Without max_restarts=0 Ray prints an error about arguments that a restarted actor could miss; given, it warns
        # that only its named parameters will stay, and has no such name yet.
        warnings.filterwarnings("ignore", message=".*ray_remote_args.*")
        plan = ray.data.from_arrow(pa.Table.from_pylist(rows)).repartition(target_num_rows_per_block=1)
        mapped = plan.map_batches(
            actor,
            fn_constructor_args=arguments,
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(rows))),
            num_cpus=1,
            num_gpus=num_gpus,
            max_restarts=0,
        )
    for row in mapped.iter_rows():
        if _MISTAKE in row:
            raise ValueError(row[_MISTAKE])
        yield row


class Actor(ABC):
    """Maps a row to rows with one copy of a task's model; a mistake that it finds is a row too, and no error of Ray."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._measurer: Measurer | None = None

    def __call__(self, block: pa.Table) -> pa.Table:
        """One row to the rows that ``work`` makes of it."""
        try:
            # Here rather than at the start: what does not fit the model is a user's mistake as well.
            self._measurer = self._measurer or Measurer(self._task)
            rows = [row for given in block.to_pylist() for row in self.work(self._measurer, given)]
        except (ValueError, OSError) as error:
            rows = [{_MISTAKE: str(error)}]
        return pa.Table.from_pylist(rows)

    @abstractmethod
    def work(self, measurer: Measurer, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """What is done."""


_MISTAKE = "mistake"


class _Learning(Actor):
    """Lets questions learn."""

    def work(self, measurer: Measurer, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        (question,) = (q for q in self._task.parts[row["part"]].questions if q.table == row["table"])
        assert isinstance(question, LearningQuestion)
        yield {"learned": json.dumps(measurer.learn(row["part"], question))}


class _Measuring(Actor):
    """Measures units and writes them down."""

    def __init__(self, task: Task, progress: Progress) -> None:
        super().__init__(task)
        self._progress = progress

    def work(self, measurer: Measurer, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        unit = Unit(**row)
        self._progress.write(unit, measurer.measure(unit))
        yield {"pictures": unit.stop - unit.start}
