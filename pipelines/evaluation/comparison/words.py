"""The sentences that the page and the Markdown share."""

from __future__ import annotations

from collections.abc import Iterator

from pipelines.evaluation.comparison.compare import Comparison
from pipelines.evaluation.comparison.tables import Entry, Table, glance_table
from pipelines.evaluation.paper import paper_tables

LEGEND = (
    "All numbers are percent. Differences are points, with their sign and whether they are for the better or the "
    "worse: of gaps, errors and false positives less is better. Trivial answers stand under those of the models."
)
RELEASED = "Hatched is what the released code measured of its own checkpoint, in a way of its own."
NOT_IN_PAPER = (
    "The paper has no number on these benchmarks. Generated pictures or your own show a mechanism, not the paper's "
    "figures, so none of those stands beside them."
)


def headline(comparison: Comparison) -> str:
    """What is compared, as a title."""
    models = comparison.models[0].name if len(comparison.models) == 1 else f"{len(comparison.models)} models"
    count = len(comparison.benchmarks)
    places = comparison.benchmarks[0].title if count == 1 else f"{count} benchmarks"
    beside = " beside the paper" if comparison.tables else ""
    return f"{models} on {places}{beside}"


def left_out_tables(comparison: Comparison) -> str:
    """Which of the paper's tables are not shown, in a sentence; empty where all are."""
    shown = {table.table.name for table in comparison.tables}
    names = [table.name for table in paper_tables() if table.name not in shown]
    return f"Not shown, because no result is on their benchmarks: {', '.join(names)}." if names else ""


def summary(comparison: Comparison) -> str:
    """The models, the warnings and the main numbers for a terminal."""
    tables = [glance_table(comparison, of_paper) for of_paper in (True, False)]
    parts = [
        "\n".join(f"{model.label}: {model.name}" for model in comparison.models),
        "\n".join(f"warning: {warning}" for warning in comparison.warnings),
        *("\n".join(_aligned(table)) for table in tables if table.rows),
    ]
    return "\n\n".join(part for part in parts if part)


def _aligned(table: Table) -> Iterator[str]:
    heads = [head.partition(":")[0] for head in table.head]  # the letter alone; the names stand above
    lines = [heads]
    for row in table.rows:
        lines.append([f"{row.name}, {row.detail}", *map(_cell, row.entries)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()


def _cell(entry: Entry) -> str:
    return "; ".join([entry.text, *(difference.said(other) for other, difference in entry.differences)])
