"""Which pictures are drawn, and the drawing: some of the first, the best and the worst of each question."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipelines.evaluation.result import PICTURES, RESULT_FILE, Picture
from pipelines.evaluation.run import Actor, map_on_actors
from pipelines.evaluation.units import Measurer, Task
from pipelines.storage import Location

Scores = Mapping[tuple[int, str], Sequence[float | None]]
"""How well each picture of a part went, by part and table, in the order of pictures."""
_AT_ONCE = 16
"""Pictures that an actor draws in one go."""


@dataclass(frozen=True)
class Choice:
    """A picture to be drawn for a question, and why."""

    part: int
    table: str
    position: int
    role: Literal["sample", "best", "worst"]
    score: float | None


def choose_pictures(scores: Scores, number: int) -> list[Choice]:
    """So many of each question: a third of them the first ones, a third the best, a third the worst of the rest."""
    return [choice for (part, table), own in scores.items() for choice in _choose(part, table, own, number)]


def _choose(part: int, table: str, scores: Sequence[float | None], number: int) -> list[Choice]:
    first = list(range(min(number - 2 * (number // 3), len(scores))))
    scored = [(score, position) for position, score in enumerate(scores) if score is not None]
    scored = [(score, position) for score, position in scored if position not in first]
    best = heapq.nsmallest(number // 3, ((-score, position) for score, position in scored))
    taken = {position for _, position in best}
    worst = heapq.nsmallest(number // 3, (entry for entry in scored if entry[1] not in taken))
    return [
        *(Choice(part, table, position, "sample", scores[position]) for position in first),
        *(Choice(part, table, position, "best", scores[position]) for _, position in best),
        *(Choice(part, table, position, "worst", scores[position]) for _, position in worst),
    ]


def draw_pictures(task: Task, choices: list[Choice], folder: Location, num_gpus: float) -> list[Picture]:
    """Draw them on Ray and write them below ``folder``, from which the result of an earlier evaluation goes first."""
    earlier = folder / RESULT_FILE
    if earlier.exists():  # says that all is there, and its pictures go now
        earlier.filesystem.delete_file(earlier.path)
    (folder / PICTURES).remove_folder()
    if not choices:
        return []
    by_table: dict[tuple[int, str], list[Choice]] = {}
    for choice in choices:
        by_table.setdefault((choice.part, choice.table), []).append(choice)
    rows = [
        {"part": part, "table": table, "positions": [choice.position for choice in group[start : start + _AT_ONCE]]}
        for (part, table), group in by_table.items()
        for start in range(0, len(group), _AT_ONCE)
    ]
    drawn = {
        (row["part"], row["table"], row["position"]): (row["png"], row["caption"])
        for row in map_on_actors(rows, _Drawing, (task,), workers=1, num_gpus=num_gpus)
    }
    pictures = []
    for choice in choices:
        png, caption = drawn[choice.part, choice.table, choice.position]
        part = task.parts[choice.part].name
        name = f"{choice.table.replace(' ', '-')}-{part}-{choice.role}-{choice.position:06d}.png"
        (folder / PICTURES / name).write_bytes(png)
        pictures.append(Picture(name, choice.score, caption, choice.table, choice.role))
    return pictures


class _Drawing(Actor):
    """Draws pictures of one question."""

    def work(self, measurer: Measurer, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for position, (png, caption) in measurer.draw(row["part"], row["table"], row["positions"]).items():
            key = {"part": row["part"], "table": row["table"], "position": position}
            yield key | {"png": png, "caption": caption}
