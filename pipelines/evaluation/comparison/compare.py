"""What is compared: models by letter, their numbers on each benchmark, the paper's beside them, what to be wary of."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clippy.config import ConfigError
from pipelines.evaluation.comparison.find import FoundResult
from pipelines.evaluation.comparison.numbers import Cell, difference, percent
from pipelines.evaluation.comparison.protocol import (
    differing_choices,
    incomplete_results,
    protocol_name,
    protocol_of,
    union,
    warnings_of,
)
from pipelines.evaluation.paper import (
    PaperColumn,
    PaperNumber,
    PaperRow,
    PaperTable,
    benchmark_title,
    paper_benchmarks,
    paper_reference,
    paper_tables,
)

AGAINST = "CLIPpy, CC-12M"
Key = tuple[str, int | None, str, str]
"""Checkpoint, step and read-out, which make a model, and the name of the protocol that it was first measured under."""
_MODEL_ANSWERS = ("model", "pooled", "patches")


@dataclass(frozen=True)
class Model:
    """A model read out one way, under a letter, with at most one result a benchmark."""

    label: str
    checkpoint: str
    step: int | None
    method: str
    name: str
    """Short, for the head of a column: the run's or model's own name, and what sets it apart from the others."""
    results: dict[str, FoundResult]


@dataclass(frozen=True)
class Line:
    """One number of one answer, for each model by its letter."""

    question: str
    answer: str
    number: str
    of_model: bool
    """Whether the answer is the model's, not a trivial one beside it."""
    paper: PaperNumber | None
    cells: dict[str, Cell]


@dataclass(frozen=True)
class BenchmarkComparison:
    """All results on one benchmark."""

    benchmark: str
    title: str
    of_paper: bool
    """Whether the paper has numbers on it; where not, as on generated pictures, none is shown beside ours."""
    results: dict[str, FoundResult]
    lines: list[Line]
    protocol: dict[str, dict[str, str]]
    """Choice -> letter -> what was chosen."""
    incomplete: set[str]
    """Letters of results that were not taken on all of the usual pictures, where their number is known."""
    warnings: list[str]

    def differing(self) -> list[str]:
        """The choices that are not the same for all results; none where they were measured alike."""
        return differing_choices(self.protocol, self.results)

    def questions(self) -> list[str]:
        """What was asked, in the order of the results' tables."""
        return list(dict.fromkeys(line.question for line in self.lines))

    def headlines(self) -> list[Line]:
        """The numbers of the model that the paper has too, or else the first of each question."""
        lines = [line for line in self.lines if line.of_model]
        chosen = []
        for question in self.questions():
            asked = [line for line in lines if line.question == question]
            chosen += [line for line in asked if line.paper] or asked[:1]
        return chosen


@dataclass(frozen=True)
class OurRow:
    """A model's numbers in the columns of one of the paper's tables; None where there is none."""

    model: Model
    answer: str
    """Which of the model's answers, where it gives several."""
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True)
class TableComparison:
    """One of the paper's tables with our rows under it."""

    table: PaperTable
    reference: PaperRow | None
    """The row of the paper that ours are measured against."""
    rows: list[OurRow]


@dataclass(frozen=True)
class Comparison:
    """All that a page shows, pictures and classes excepted, which lie in the results themselves."""

    models: list[Model]
    benchmarks: list[BenchmarkComparison]
    tables: list[TableComparison]
    against: str

    def on(self, benchmark: str) -> BenchmarkComparison | None:
        """What there is on a benchmark."""
        return next((found for found in self.benchmarks if found.benchmark == benchmark), None)

    @property
    def warnings(self) -> list[str]:
        """Of all benchmarks."""
        return [warning for benchmark in self.benchmarks for warning in benchmark.warnings]


def compare(results: Sequence[FoundResult], against: str = AGAINST) -> Comparison:
    """Results side by side, and beside the paper's row ``against``: its system and data, as ``CLIPpy, HQITP-134M``.

    Raises ConfigError for a row that the paper does not have.
    """
    system, data = _paper_row(against)
    models = _models(results)
    known = [name for name in paper_benchmarks() if any(name in model.results for model in models)]
    names = dict.fromkeys([*known, *(found.result.benchmark for found in results)])
    benchmarks = [_benchmark(name, models, system, data) for name in names]
    tables = [_table(table, models, system, data) for table in paper_tables()]
    return Comparison(models, benchmarks, [table for table in tables if table.rows], f"{system}, {data}")


def _paper_row(against: str) -> tuple[str, str]:
    known = {(row.system, row.data) for table in paper_tables() for row in table.rows if row.data}
    system, _, data = (part.strip() for part in against.replace("-dagger", "†").partition(","))
    if (system, data) not in known:
        names = "; ".join(sorted(f"{system}, {data}" for system, data in known))
        raise ConfigError("--against", [f"{against!r} is no row of the paper's tables; they have {names}"])
    return system, data


def _models(results: Sequence[FoundResult]) -> list[Model]:
    """Results of one checkpoint, step and read-out make one model; a second on the same benchmark makes another.

    Where there are several to choose from, a result joins those under its protocol.
    """
    groups: list[tuple[Key, dict[str, FoundResult]]] = []
    for found in results:
        result = found.result
        key = (result.checkpoint, result.step, result.method, protocol_name(found))
        free = [(k, group) for k, group in groups if k[:3] == key[:3] and result.benchmark not in group]
        _, group = min(free, key=lambda item: item[0] != key, default=(key, {}))
        if not group:
            groups.append((key, group))
        group[result.benchmark] = found
    keys = [key for key, _ in groups]
    return [Model(_letter(i), *key[:3], _name(key, keys), group) for i, (key, group) in enumerate(groups)]


def _name(key: Key, others: Sequence[Key]) -> str:
    """The checkpoint's own name; with step, read-out and protocol where those are not the same for all."""
    checkpoint, step, method, protocol = key
    parts = [part for part in checkpoint.split("/") if part and part != "checkpoints"]
    own = [part for part in parts if not re.fullmatch(r"step-\d+", part)] or parts or [checkpoint]
    apart = ["" if step is None else f"step {step:,}", method, f"{protocol} protocol" if protocol else ""]
    several = [len({other[i] for other in others}) > 1 for i in (1, 2, 3)]
    return ", ".join([own[-1], *(name for name, tell in zip(apart, several, strict=True) if tell and name)])


def _letter(index: int) -> str:
    """A, B, ..., Z, AA, AB, ..."""
    return (_letter(index // 26 - 1) if index >= 26 else "") + chr(ord("A") + index % 26)


def _benchmark(name: str, models: Sequence[Model], system: str, data: str) -> BenchmarkComparison:
    results = {model.label: model.results[name] for model in models if name in model.results}
    return BenchmarkComparison(
        benchmark=name,
        title=benchmark_title(name),
        of_paper=name in paper_benchmarks(),
        results=results,
        lines=_lines(name, results, system, data),
        protocol=protocol_of(results),
        incomplete=incomplete_results(name, results),
        warnings=list(warnings_of(name, results)),
    )


def model_answers(table: Mapping[str, Any]) -> list[str]:
    """The answers of a table that are the model's: the first, and others by the names that only a model's have."""
    return [
        answer for i, answer in enumerate(table) if i == 0 or answer in _MODEL_ANSWERS or answer.startswith("model ")
    ]


def _lines(benchmark: str, results: Mapping[str, FoundResult], system: str, data: str) -> list[Line]:
    tables = [found.result.tables for found in results.values()]
    questions = union(tables)
    lines = []
    for question in questions:
        asked = [table[question] for table in tables if question in table]
        own = set(union(map(model_answers, asked)))
        for answer in union(asked):
            for number in union(table[answer] for table in asked if answer in table):
                paper = paper_reference(PaperColumn(benchmark, question, number), system, data)
                paper = paper if answer in own else None
                lines.append(_line((question, answer, number), answer in own, paper, results))
    return sorted(lines, key=lambda line: (questions.index(line.question), not line.of_model))


def _line(
    place: tuple[str, str, str], of_model: bool, paper: PaperNumber | None, results: Mapping[str, FoundResult]
) -> Line:
    question, answer, number = place
    values = {
        label: percent(found.result.tables[question][answer][number])
        for label, found in results.items()
        if number in found.result.tables.get(question, {}).get(answer, {})
    }
    first = next(iter(values), None)
    cells = {
        label: Cell(
            value,
            difference(value, paper.percent if paper else None, number),
            difference(value, values[first], number) if first not in (None, label) else None,
        )
        for label, value in values.items()
    }
    return Line(question, answer, number, of_model, paper, cells)


def _table(table: PaperTable, models: Sequence[Model], system: str, data: str) -> TableComparison:
    reference = table.reference(system, data)
    rows = [row for model in models for row in _our_rows(table, reference, model)]
    return TableComparison(table, reference, rows)


def _our_rows(table: PaperTable, reference: PaperRow | None, model: Model) -> list[OurRow]:
    asked = [_asked(model, column) for column in table.columns]
    answers = union(map(model_answers, asked))
    rows = []
    for answer in answers:
        cells = [_our_cell(asked[i].get(answer, {}), table, reference, i) for i in range(len(table.columns))]
        if any(cells):
            rows.append(OurRow(model, answer if answer != _MODEL_ANSWERS[0] else "", tuple(cells)))
    return rows


def _asked(model: Model, column: PaperColumn) -> Mapping[str, Mapping[str, float]]:
    found = model.results.get(column.benchmark)
    return found.result.tables.get(column.question, {}) if found else {}


def _our_cell(numbers: Mapping[str, float], table: PaperTable, reference: PaperRow | None, index: int) -> Cell | None:
    number = table.columns[index].number
    if number not in numbers:
        return None
    value = percent(numbers[number])
    return Cell(value, difference(value, reference.percents[index] if reference else None, number))
