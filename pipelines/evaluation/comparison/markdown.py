"""The comparison as Markdown: the tables of the page, with names of pictures and classes instead of drawings."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipelines.evaluation.comparison.classes import (
    CONFUSED_PAIRS,
    class_lines,
    class_number,
    class_unit,
    confused_pairs,
)
from pipelines.evaluation.comparison.compare import BenchmarkComparison, Comparison, TableComparison
from pipelines.evaluation.comparison.numbers import percent, percent_text
from pipelines.evaluation.comparison.pictures import Shown, galleries
from pipelines.evaluation.comparison.tables import (
    Entry,
    Table,
    glance_table,
    models_table,
    pairs_table,
    paper_table,
    protocol_lines,
    protocol_table,
    question_table,
    reference_name,
)
from pipelines.evaluation.comparison.words import LEGEND, NOT_IN_PAPER, headline, left_out_tables
from pipelines.evaluation.paper import paper_legend, paper_source

_CLASSES = 5
"""Of the best and of the worst classes."""
_SPECIAL = re.compile(r"([\\`*_\[\]<>|~#&])")


def as_markdown(comparison: Comparison) -> str:
    """The whole comparison as one document."""
    blocks = [f"# {escaped(headline(comparison))}", escaped(LEGEND), *table_lines(models_table(comparison))]
    if comparison.warnings:
        blocks += ["## Warnings", "\n".join(f"- ⚠ {escaped(warning)}" for warning in comparison.warnings)]
    for of_paper, title in ((True, "At a glance: the paper's benchmarks"), (False, "At a glance: other benchmarks")):
        table = glance_table(comparison, of_paper)
        if table.rows:
            blocks += [f"## {title}", *([] if of_paper else [escaped(NOT_IN_PAPER)]), *table_lines(table)]
    for shown in comparison.tables:
        blocks += _paper_table(shown, comparison)
    if comparison.tables:
        blocks.append(escaped(f"{paper_legend()} {left_out_tables(comparison)} Source: {paper_source()}."))
    for benchmark in comparison.benchmarks:
        blocks += _benchmark(benchmark, comparison)
    return "\n\n".join(blocks) + "\n"


def _paper_table(shown: TableComparison, comparison: Comparison) -> Iterator[str]:
    yield f"## {escaped(shown.table.name)}: {escaped(shown.table.title)}"
    if shown.reference:
        yield f"Differences are from {escaped(reference_name(shown.reference))}."
    yield from table_lines(paper_table(shown, comparison))
    yield "\n".join(f"- {escaped(line)}" for line in (*shown.table.notes, *protocol_lines(shown, comparison)))


def _benchmark(benchmark: BenchmarkComparison, comparison: Comparison) -> Iterator[str]:
    yield f"## {escaped(benchmark.title)}"
    if benchmark.warnings:
        yield "\n".join(f"- ⚠ {escaped(warning)}" for warning in benchmark.warnings)
    for question in benchmark.questions():
        yield f"### {escaped(question.capitalize())}"
        yield from table_lines(question_table(benchmark, question, comparison))
    yield "### How it was measured"
    yield from table_lines(protocol_table(benchmark))
    yield from _classes(benchmark)
    for gallery in galleries(benchmark.results):
        about = f", {gallery.table}" if gallery.table else ""
        for title, pictures in ((f"Best pictures{about}", gallery.best), (f"Worst pictures{about}", gallery.worst)):
            if pictures:
                yield f"### {escaped(title)}"
                yield "\n".join(f"- {_picture(shown)}" for shown in pictures)


def _classes(benchmark: BenchmarkComparison) -> Iterator[str]:
    lines = class_lines(benchmark.benchmark, benchmark.results)
    if lines:
        number = class_number(next(iter(benchmark.results.values())).result)
        yield f"### Classes, {escaped(number)}"
        ends = [("best", lines[:_CLASSES]), ("worst", lines[_CLASSES:][-_CLASSES:])]
        for title, some in ends:
            said = (
                f"{escaped(line.name)} (" + ", ".join(f"{k} {percent_text(v)}" for k, v in line.percents.items()) + ")"
                for line in some
            )
            if some:
                yield f"- {title}: {', '.join(said)}"
    for label, found in benchmark.results.items():
        pairs = confused_pairs(found.result, CONFUSED_PAIRS)
        if pairs:
            yield f"### Most confused, {label}"
            yield from table_lines(pairs_table(pairs, class_unit(found.result)))


def _picture(shown: Shown) -> str:
    scores = (
        f"{label} {percent_text(percent(picture.score) if picture.score is not None else None)}"
        for label, picture in shown.drawn.items()
    )
    return f"{escaped(shown.name)}: {', '.join(scores)}"


def table_lines(table: Table) -> Iterator[str]:
    """The table, and its footnotes as a list under it."""
    lines = ["| " + " | ".join(map(escaped, table.head)) + " |", "|" + " --- |" * len(table.head)]
    for row in table.rows:
        name = escaped(", ".join(filter(None, (row.name, row.detail))) + (f" [{row.note}]" if row.note else ""))
        name = f"**{name}**" if row.kind == "ours" and name else name
        lines.append("| " + " | ".join([name, *map(_entry, row.entries)]) + " |")
    yield "\n".join(lines)
    if table.footnotes:
        yield "\n".join(f"{number}. {escaped(note)}" for number, note in enumerate(table.footnotes, 1))


def _entry(entry: Entry) -> str:
    said = [difference.said(other) for other, difference in entry.differences]
    said += [entry.detail] if entry.detail else []
    return escaped(f"{entry.text} ({'; '.join(said)})" if said else entry.text)


def escaped(text: str) -> str:
    """``text`` as Markdown that shows it as it is, on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))
