"""What came out of one model on one benchmark, as a file, as text and as metrics of MLflow."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from clippy.config import ConfigError
from pipelines.storage import Location

RESULT_FILE, SCHEMA = "evaluation.json", 2
EVALUATION_FOLDER = "evaluation"
"""Of a run: the folder that its results lie below."""
PICTURES = "pictures"
"""Of a result: the folder of what was drawn."""

Table = dict[str, dict[str, float]]
"""Answer -> number's name -> number; the first answer is the model's, as are others called "model ..."; what is beside
them is trivial."""


@dataclass(frozen=True)
class Picture:
    """A picture that was drawn: its file in ``pictures/``, and how well it went, 1 being perfect."""

    file: str
    score: float | None = None
    caption: str = ""
    table: str = ""
    """The question that it was drawn for."""
    role: Literal["sample", "best", "worst"] = "sample"
    """Why it was drawn: one of the first, or by its score."""


@dataclass(frozen=True)
class Result:
    """Numbers of one model on one benchmark, each beside its trivial answers, and where the pictures lie."""

    benchmark: str
    method: str
    """How the model was read out, such as ``clippy`` or ``maskclip``."""
    checkpoint: str
    step: int | None
    data: str
    protocol: dict[str, str]
    """Every choice that the numbers hang on, by name, in words."""
    images: dict[str, int]
    """Pictures measured, by part of the benchmark."""
    tables: dict[str, Table]
    """By what was asked: ``classification``, ``segmentation``, ``grouping``, ..."""
    per_class: dict[str, dict[str, float]] = field(default_factory=dict)
    """Class -> ``iou`` or ``accuracy``, and ``count``: its pixels or pictures in the ground truth."""
    confusion: list[list[int]] = field(default_factory=list)
    """[true, predicted, count] of each pair of class numbers that occurs; numbers follow the order of ``per_class``."""
    pictures: list[Picture] = field(default_factory=list)
    seconds: float | None = None
    images_per_second: float | None = None
    schema: int = SCHEMA

    def as_dict(self) -> dict[str, Any]:
        """For ``evaluation.json`` and ``--json``: numbers that are not defined are None, since JSON has no NaN."""
        values = asdict(self)
        return values | {name: _without_nan(values[name]) for name in _NUMBERS}

    def numbers(self) -> dict[str, float]:
        """All finite numbers of the tables by ``table/answer/number``."""
        return flat(self.tables)

    def as_text(self) -> str:
        """A short table for each question, and the protocol."""
        count = ", ".join(f"{number:,} {part}" for part, number in self.images.items())
        lines = [f"{self.benchmark}, {self.method} read-out of {self.checkpoint} ({count} pictures)"]
        for title, table in self.tables.items():
            lines += ["", *text_table(title, table)]
        lines += ["", *(f"{name}: {choice}" for name, choice in self.protocol.items())]
        return "\n".join(lines)

    def write(self, folder: Location) -> None:
        """Leave the file in its folder; it comes last and says that all is there."""
        (folder / RESULT_FILE).write_text(json.dumps(self.as_dict(), indent=1) + "\n")


def read_result(location: Location) -> Result:
    """The result in a folder or file. Raises ConfigError for anything else."""
    file = location if location.path.endswith(".json") else location / RESULT_FILE
    try:
        values = json.loads(file.read_text())
        if values.get("schema") != SCHEMA:
            raise ConfigError(file.url, [f"of another version, schema {values.get('schema')}; evaluate anew"])
        values |= {name: _with_nan(values[name]) for name in _NUMBERS if name in values}
        return TypeAdapter(Result).validate_python(values)
    except FileNotFoundError:
        raise ConfigError(location.url, [f"no evaluation lies here, {RESULT_FILE} is missing"]) from None
    except ValidationError as error:
        wrong = error.errors()[0]
        where = ".".join(map(str, wrong["loc"])) or "the whole"
        raise ConfigError(file.url, [f"not the result of an evaluation ({where}: {wrong['msg']})"]) from None
    except (ValueError, AttributeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(file.url, [f"not the result of an evaluation ({error})"]) from None


_NUMBERS = ("tables", "per_class")
"""Fields whose numbers may be NaN."""


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(entry) for name, entry in value.items()}
    return value if math.isfinite(value) else None


def _with_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _with_nan(entry) for name, entry in value.items()}
    return math.nan if value is None else value


def flat(tables: Mapping[str, Table]) -> dict[str, float]:
    """All finite numbers by ``table/answer/number``, with underscores for spaces."""
    return {
        f"{table}/{answer}/{name}".replace(" ", "_"): value
        for table, rows in tables.items()
        for answer, row in rows.items()
        for name, value in row.items()
        if math.isfinite(value)
    }


def text_table(title: str, rows: Mapping[str, Mapping[str, float]]) -> list[str]:
    """A line an answer, a column a number."""
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    width = max(len(title), *(len(name) + 2 for name in rows))
    cells = [f"{title:<{width}}" + "".join(f"  {column:>10}" for column in columns)]
    for name, row in rows.items():
        numbers = (f"{row[c]:>{max(10, len(c))}.3f}" if c in row else " " * max(10, len(c)) for c in columns)
        cells.append(f"{'  ' + name:<{width}}" + "".join(f"  {number}" for number in numbers))
    return cells
