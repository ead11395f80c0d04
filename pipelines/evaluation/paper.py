"""The paper's tables as data: every number in percent, with its row, its benchmark and what is doubtful about it.

``paper.json`` holds Tables 1 to 10, the Waterbirds figure, and what the released code measured of its own checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from pipelines.evaluation.names import BENCHMARKS


@dataclass(frozen=True)
class PaperColumn:
    """What a column of a table measures, in the words of a ``Result``."""

    benchmark: str
    question: str
    """Name of the table of a ``Result``: ``classification``, ``segmentation``, ``grouping`` or ``groups``."""
    number: str


@dataclass(frozen=True)
class PaperRow:
    """One system of a table."""

    system: str
    data: str | None
    """What it was trained on; None where the paper does not say."""
    percents: tuple[float | None, ...]
    """One a column; None where the table has no number."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """What sets the row apart from others of its table: start, pooling, ..."""
    headline: bool = False
    """Whether this is the system as the paper proposes it, among rows of one system and the same data."""
    note: str = ""

    @property
    def name(self) -> str:
        """System and data in words."""
        return f"{self.system}, {self.data}" if self.data else self.system

    @property
    def setting(self) -> str:
        """The settings in words."""
        return ", ".join(f"{name} {value}" for name, value in self.settings.items())


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper, and what is to be kept in mind with it."""

    name: str
    title: str
    columns: tuple[PaperColumn, ...]
    rows: tuple[PaperRow, ...]
    notes: tuple[str, ...]
    in_paper: bool = True
    """Whether it is the paper's own; what the released code measured of its checkpoint is not."""

    def reference(self, system: str, data: str) -> PaperRow | None:
        """The row to measure against: of this system, trained on these data or on data that are not stated."""
        rows = [row for row in self.rows if row.system == system and row.data in (data, None)]
        return next((row for row in rows if row.headline), rows[0] if rows else None)


@dataclass(frozen=True)
class PaperNumber:
    """One number of the paper, in percent."""

    table: PaperTable
    row: PaperRow
    column: PaperColumn
    percent: float


@cache
def paper_tables() -> tuple[PaperTable, ...]:
    """All tables, in the paper's order."""
    return tuple(
        PaperTable(
            name=table["name"],
            title=table["title"],
            columns=tuple(PaperColumn(**column) for column in table["columns"]),
            rows=tuple(_row(row) for row in table["rows"]),
            notes=tuple(table["notes"]),
            in_paper=table.get("in_paper", True),
        )
        for table in _content()["tables"]
    )


def paper_numbers(benchmark: str | None = None, table: str | None = None) -> list[PaperNumber]:
    """All numbers of the paper, or those on one benchmark, in one table, or both; in the paper's order."""
    return [
        PaperNumber(found, row, column, percent)
        for found in paper_tables()
        for row in found.rows
        for column, percent in zip(found.columns, row.percents, strict=True)
        if percent is not None and benchmark in (None, column.benchmark) and table in (None, found.name)
    ]


def paper_reference(column: PaperColumn, system: str, data: str) -> PaperNumber | None:
    """The paper's number to measure against: the first of its tables that has it for this system and these data."""
    for table in paper_tables():
        row = table.reference(system, data)
        if row is None or column not in table.columns or not table.in_paper:
            continue
        percent = row.percents[table.columns.index(column)]
        if percent is not None:
            return PaperNumber(table, row, column, percent)
    return None


def released_per_class(benchmark: str) -> dict[str, float]:
    """Percent of each class that the released code measured of its own checkpoint; empty but for ``voc``."""
    rows = (row for table in _content()["tables"] for row in table["rows"])
    return next((row["per_class"][benchmark] for row in rows if benchmark in row.get("per_class", {})), {})


def paper_benchmarks() -> tuple[str, ...]:
    """The benchmarks that the paper has numbers on."""
    return tuple(_content()["pictures"])


def benchmark_pictures(benchmark: str) -> int | None:
    """How many pictures the benchmark has in full, where the paper has numbers on it."""
    return _content()["pictures"].get(benchmark)


def benchmark_title(benchmark: str) -> str:
    """The benchmark's name in words; its own name where it is not one of ours."""
    title = BENCHMARKS[benchmark].title if benchmark in BENCHMARKS else benchmark
    return title[:1].upper() + title[1:]


def paper_source() -> str:
    """Title and place of the paper."""
    return _content()["source"]


def paper_legend() -> str:
    """What the signs in the tables mean."""
    return _content()["legend"]


def _row(values: Mapping[str, Any]) -> PaperRow:
    return PaperRow(
        system=values["system"],
        data=values["data"],
        percents=tuple(values["values"]),
        settings=values.get("settings", {}),
        headline=values.get("headline", False),
        note=values.get("note", ""),
    )


@cache
def _content() -> dict[str, Any]:
    return json.loads((files("pipelines.evaluation") / "paper.json").read_text(encoding="utf-8"))
