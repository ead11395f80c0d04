"""The tables that are shown, before they are HTML or Markdown: rows of numbers with their differences and marks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipelines.evaluation.comparison.classes import ConfusedPair
from pipelines.evaluation.comparison.compare import (
    BenchmarkComparison,
    Comparison,
    Line,
    OurRow,
    TableComparison,
)
from pipelines.evaluation.comparison.numbers import Cell, Difference, percent_text
from pipelines.evaluation.comparison.protocol import PICTURES
from pipelines.evaluation.paper import PaperRow, benchmark_title

Kind = Literal["ours", "reference", "paper", "trivial", "differs", ""]
WARNING = "⚠"


@dataclass(frozen=True)
class Entry:
    """A number or word, what is said under it, and how it differs: each difference with what it is held against."""

    text: str
    detail: str = ""
    differences: tuple[tuple[str, Difference], ...] = ()


@dataclass(frozen=True)
class Row:
    """A line of a table."""

    name: str
    entries: tuple[Entry, ...]
    detail: str = ""
    kind: Kind = ""
    note: int | None = None
    """Number of the footnote that belongs to it, from 1."""


@dataclass(frozen=True)
class Table:
    """A table with its heads, the first of them over the rows' names, and its footnotes."""

    head: tuple[str, ...]
    rows: tuple[Row, ...]
    footnotes: tuple[str, ...] = ()


_NONE = Entry("–")
_FEW_LETTERS, _MANY_LETTERS = 48, 120
"""Of a choice of a protocol that is told in one breath with others, and of one that results differ in."""


def models_table(comparison: Comparison) -> Table:
    """Which letter is which model."""
    rows = (
        Row(
            model.label,
            (
                Entry(model.name, f"{model.method} read-out"),
                Entry(model.checkpoint, ", ".join(map(benchmark_title, model.results))),
            ),
            kind="ours",
        )
        for model in comparison.models
    )
    return Table(("", "model", "checkpoint and benchmarks"), tuple(rows))


def glance_table(comparison: Comparison, of_paper: bool) -> Table:
    """The main numbers of all benchmarks, a column a model; beside the paper's, or of benchmarks it does not have."""
    shown = [benchmark for benchmark in comparison.benchmarks if benchmark.of_paper == of_paper]
    models = [model for model in comparison.models if any(model.label in benchmark.results for benchmark in shown)]
    head = (
        "benchmark",
        *([f"paper: {comparison.against}"] if of_paper else []),
        *(f"{model.label}: {model.name}" for model in models),
    )
    rows = []
    for benchmark in shown:
        for line in benchmark.headlines():
            ours = (_entry(line, model.label, benchmark) for model in models)
            paper = [_paper_entry(line)] if of_paper else []
            rows.append(Row(benchmark.title, (*paper, *ours), _number_name(line)))
    return Table(head, tuple(rows))


def paper_table(shown: TableComparison, comparison: Comparison) -> Table:
    """One of the paper's tables, our rows under the paper's; what is doubtful about a row is a footnote."""
    table = shown.table
    head = ("system", "trained on", *(f"{benchmark_title(c.benchmark)} {c.number}" for c in table.columns))
    footnotes: list[str] = []
    rows = []
    for row in table.rows:
        if row.note and row.note not in footnotes:
            footnotes.append(row.note)
        kind: Kind = "reference" if row is shown.reference else "paper"
        rows.append(
            Row(
                row.system,
                (Entry(row.data or "not stated"), *(Entry(percent_text(value)) for value in row.percents)),
                row.setting,
                kind,
                footnotes.index(row.note) + 1 if row.note else None,
            )
        )
    rows += [_our_row(row, shown, comparison) for row in shown.rows]
    return Table(head, tuple(rows), tuple(footnotes))


def _our_row(row: OurRow, shown: TableComparison, comparison: Comparison) -> Row:
    entries = [Entry("ours")]
    for cell, column in zip(row.cells, shown.table.columns, strict=True):
        on = comparison.on(column.benchmark)
        mark = _mark(on, row.model.label) if on else ""
        entries.append(Entry(percent_text(cell.percent), mark, _to_paper(cell, "")) if cell else _NONE)
    return Row(f"{row.model.label}: {row.model.name}", tuple(entries), row.answer, "ours")


def reference_name(row: PaperRow) -> str:
    """The paper's row that differences are taken from, in words."""
    return f"{row.name} ({row.setting})" if row.settings else row.name


def question_table(benchmark: BenchmarkComparison, question: str, comparison: Comparison) -> Table:
    """All answers to one question, a column a number: the paper's, the models', then the trivial ones."""
    lines = [line for line in benchmark.lines if line.question == question]
    numbers = list(dict.fromkeys(line.number for line in lines))
    by_place = {(line.answer, line.number): line for line in lines}
    names = {model.label: f"{model.label}: {model.name}" for model in comparison.models}
    rows, trivial = [], []
    answers = {line.answer: line.of_model for line in lines}
    alone = sum(answers.values()) == 1
    for answer, of_model in answers.items():
        found = [by_place.get((answer, number)) for number in numbers]
        if not of_model:
            trivial += _trivial_rows(answer, found, benchmark)
            continue
        for label in benchmark.results:
            entries = tuple(_entry(line, label, benchmark) if line else _NONE for line in found)
            rows.append(Row(names[label], entries, "" if alone else answer, "ours"))
    papers = {line.number: line for line in lines if line.paper}
    if papers:
        entries = tuple(_paper_entry(papers[number]) if number in papers else _NONE for number in numbers)
        rows.insert(0, Row(f"paper: {comparison.against}", entries, kind="paper"))
    return Table(("answer", *numbers), (*rows, *trivial))


def _trivial_rows(answer: str, lines: Sequence[Line | None], benchmark: BenchmarkComparison) -> list[Row]:
    """One row for all results that say the same, as they do under one protocol on the same pictures."""
    texts = {
        label: tuple(percent_text(line.cells[label].percent) if line and label in line.cells else "–" for line in lines)
        for label in benchmark.results
    }
    texts = {label: row for label, row in texts.items() if set(row) != {"–"}}
    shared: dict[tuple[str, ...], list[str]] = {}
    for label, row in texts.items():
        shared.setdefault(row, []).append(label)
    details = [f"for {', '.join(labels)}" if len(shared) > 1 else "" for labels in shared.values()]
    return [Row(answer, tuple(map(Entry, row)), detail, "trivial") for row, detail in zip(shared, details, strict=True)]


def protocol_table(benchmark: BenchmarkComparison) -> Table:
    """Every choice that the numbers hang on, a column a result, or one for all where they agree throughout."""
    labels, differing = list(benchmark.results), benchmark.differing()
    shown = labels if differing else labels[:1]
    rows = [
        Row(
            choice,
            tuple(Entry(chosen.get(label, "not stated")) for label in shown),
            f"{WARNING} differs" if choice in differing else "",
            "differs" if choice in differing else "",
        )
        for choice, chosen in benchmark.protocol.items()
    ]
    return Table(("choice", *(labels if differing else [", ".join(labels)])), tuple(rows))


def protocol_lines(shown: TableComparison, comparison: Comparison) -> list[str]:
    """How our numbers of one of the paper's tables were taken: one sentence a benchmark and protocol.

    Choices that take many words are left to the benchmark's own part, but for those in which results differ.
    """
    sentences = []
    for name in dict.fromkeys(column.benchmark for column in shown.table.columns):
        benchmark = comparison.on(name)
        if benchmark is None:
            continue
        differing = benchmark.differing()
        said: dict[str, list[str]] = {}
        for label in benchmark.results:
            chosen = {choice: by[label] for choice, by in benchmark.protocol.items() if label in by}
            told = (f"{c}: {_cut(t)}" for c, t in chosen.items() if len(t) <= _FEW_LETTERS or c in differing)
            said.setdefault("; ".join(told), []).append(label)
        sentences += [
            f"{', '.join(labels)} on {benchmark.title}: {told}. In full under {benchmark.title}."
            for told, labels in said.items()
        ]
    return sentences


def _cut(words: str) -> str:
    return words if len(words) <= _MANY_LETTERS else f"{words[: _MANY_LETTERS - 1]}…"


def pairs_table(pairs: Sequence[ConfusedPair], unit: str) -> Table:
    """Which class is most often taken for which."""
    rows = (
        Row(pair.true, (Entry(pair.predicted), Entry(f"{pair.share:.0f} %"), Entry(f"{pair.count:,}")))
        for pair in pairs
    )
    return Table(("of", "taken for", "share", unit), tuple(rows))


def _number_name(line: Line) -> str:
    return ", ".join([line.number, line.question, *([line.answer] if line.answer != "model" else [])])


def _paper_entry(line: Line) -> Entry:
    return Entry(percent_text(line.paper.percent), line.paper.table.name) if line.paper else _NONE


def _entry(line: Line, label: str, benchmark: BenchmarkComparison) -> Entry:
    cell = line.cells.get(label)
    if cell is None:
        return _NONE
    first = next(iter(line.cells))
    than_first = ((first, cell.to_first),) if cell.to_first else ()
    return Entry(percent_text(cell.percent), _mark(benchmark, label), (*_to_paper(cell, "paper"), *than_first))


def _to_paper(cell: Cell, against: str) -> tuple[tuple[str, Difference], ...]:
    return ((against, cell.to_paper),) if cell.to_paper else ()


def _mark(benchmark: BenchmarkComparison, label: str) -> str:
    """A warning that stands with the number itself."""
    differing = benchmark.differing()
    if differing:
        return f"{WARNING} {'pictures' if differing == [PICTURES] else 'protocols'} differ"
    return f"{WARNING} not all of the usual pictures" if label in benchmark.incomplete else ""
