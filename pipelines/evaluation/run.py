"""All units of an evaluation on Ray Data, each written down when it is measured, so that a kill costs one unit."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import ray
import ray.data
import ray.exceptions

from pipelines.console import Console
from pipelines.evaluation.question import Row
from pipelines.evaluation.units import Measurer, Task, Unit, units_of
from pipelines.storage import Location

UNITS, TASK_FILE = "units", "task.json"
_FILES_AT_ONCE = 16


class Progress:
    """The units of a task, and where those that are done lie."""

    def __init__(self, task: Task, identity: dict[str, Any], folder: Location) -> None:
        """Keeps what an earlier start of the same task left in ``folder``; what another task left is removed."""
        self._task, self._folder, self.units = task, folder / UNITS, units_of(task.parts)
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
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

    def measure_on_ray(self, workers: int, num_gpus: float, console: Console) -> None:
        """Measure what is missing with so many copies of the model."""
        missing, total = self.missing(), sum(len(part.dataset) for part in self._task.parts)
        done = total - self.pictures_missing()
        if not missing:
            return
        if done:
            console.line(f"{done:,} of {total:,} pictures were measured before")
        measured = map_on_actors(
            [unit.__dict__ for unit in missing], _Worker, (self._task, self), workers=workers, num_gpus=num_gpus
        )
        for row in measured:
            done += row["pictures"]
            console.count("pictures", done, total)
        console.clear()


def map_on_actors(
    rows: list[dict[str, Any]], actor: type, arguments: tuple[Any, ...], workers: int, num_gpus: float
) -> Iterator[dict[str, Any]]:
    """Map rows one by one with so many copies of an actor; results come in the order of rows."""
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
    yield from mapped.iter_rows()


@contextmanager
def one_cause() -> Iterator[None]:
    """A mistake in the data or the protocol that a worker found is raised as it was there, not as Ray wraps it."""
    try:
        yield
    except ray.exceptions.RayError as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ValueError | OSError) and not isinstance(cause, ray.exceptions.RayError):
                raise type(cause)(str(cause)) from None
            cause = getattr(cause, "cause", None) or cause.__cause__
        raise


class _Worker:
    """Measures units with one copy of the model; an actor of Ray Data."""

    def __init__(self, task: Task, progress: Progress) -> None:
        self._measurer, self._progress = Measurer(task), progress

    def __call__(self, block: pa.Table) -> pa.Table:
        units = [Unit(**row) for row in block.to_pylist()]
        for unit in units:
            self._progress.write(unit, self._measurer.measure(unit))
        return pa.table({"pictures": [unit.stop - unit.start for unit in units]})
