"""The best and the worst trial on the same pictures of the benchmark, drawn from their newest checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pyarrow as pa

from clippy.config import ConfigError
from pipelines.checkpoints import checkpoint_name, committed_steps
from pipelines.console import Console
from pipelines.evaluation.protocol import choose_protocol
from pipelines.run_folder import RunFolder
from pipelines.storage import locate

if TYPE_CHECKING:
    from pipelines.evaluation.question import Part

_QUESTIONS = ("segmentation", "grouping")
"""What is drawn, if the benchmark asks it; else its first question."""


@dataclass(frozen=True)
class Drawn:
    """One trial's answer for a picture as PNG, and the line below it."""

    number: int
    step: int
    png: bytes
    caption: str


@dataclass(frozen=True)
class Gallery:
    """Pictures as each of the trials answers them, or why there are none."""

    pictures: tuple[tuple[Drawn, ...], ...]
    why_none: str = ""


def draw_trials(runs: Sequence[tuple[int, RunFolder]], count: int, console: Console) -> Gallery:
    """Pictures spread evenly over the benchmark, neither picked nor ordered, as the trials of these runs see them.

    What keeps them from being drawn, such as data that are not on this machine, is told and no error: the numbers are
    there without them.
    """
    if not count:
        return Gallery((), "pictures were not asked for")
    try:
        drawn = []
        for done, (number, run) in enumerate(runs):
            drawn.append(_draw(number, run, count))
            console.count("trials drawn", done + 1, len(runs))
        console.clear()
    except (ValueError, OSError, pa.ArrowException) as error:
        return Gallery((), _sentence(error))
    return Gallery(tuple(zip(*drawn, strict=True)))


def _draw(number: int, run: RunFolder, count: int) -> list[Drawn]:
    from pipelines.evaluation.benchmarks import open_parts
    from pipelines.evaluation.units import Measurer, Task
    from pipelines.targets import FoundModel

    recipe, steps = run.read_recipe(), committed_steps(run.checkpoints)
    config = recipe.eval
    if config.benchmark is None or config.url is None:
        raise ValueError("the recipe names no benchmark with its data (eval.benchmark, eval.url)")
    if not steps:
        raise ValueError(f"trial {number} has no checkpoint")
    protocol = choose_protocol(None, config.benchmark, config.protocol)
    parts = open_parts(config.benchmark, locate(config.url, config.storage_options), protocol)
    part = _asked(parts)
    table, total = part.questions[0].table, len(part.dataset)
    checkpoint = run.checkpoints / checkpoint_name(steps[-1])
    model = FoundModel(checkpoint.url, steps[-1], checkpoint)
    measurer = Measurer(Task(model, protocol, (part,), config.batch_size))
    positions = [i * total // min(count, total) for i in range(min(count, total))]
    drawn = measurer.draw(0, table, positions)
    return [Drawn(number, steps[-1], *drawn[position]) for position in positions]


def _asked(parts: Sequence[Part]) -> Part:
    """The pictures with the one question that they are drawn for."""
    asked = [(question, part) for part in parts for question in part.questions]
    wanted = (entry for table in _QUESTIONS for entry in asked if entry[0].table == table)
    question, part = next(wanted, asked[0])
    return replace(part, questions=(question,))


def _sentence(error: Exception) -> str:
    """What went wrong, without what would be a page of its own, such as a layout."""
    lines = error.problems if isinstance(error, ConfigError) else str(error).splitlines()
    return lines[0].removesuffix("; expected:") if lines else type(error).__name__
