"""The comparison for programs: as plain values for ``--json``, and as CSV with one line a number."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from typing import Any

from pipelines.evaluation.comparison.classes import CONFUSED_PAIRS, class_lines, confused_pairs
from pipelines.evaluation.comparison.compare import (
    BenchmarkComparison,
    Comparison,
    Line,
    Model,
    TableComparison,
)
from pipelines.evaluation.comparison.numbers import Cell, Difference
from pipelines.evaluation.comparison.pictures import Gallery, Shown, galleries
from pipelines.evaluation.comparison.protocol import PICTURES
from pipelines.evaluation.paper import PaperNumber, paper_numbers, paper_source


def as_data(comparison: Comparison) -> dict[str, Any]:
    """Values that JSON can hold; numbers are in percent, None where not defined."""
    return {
        "paper": paper_source(),
        "against": comparison.against,
        "warnings": comparison.warnings,
        "models": [_model(model) for model in comparison.models],
        "benchmarks": [_benchmark(benchmark) for benchmark in comparison.benchmarks],
        "tables": [_table(table) for table in comparison.tables],
    }


def _model(model: Model) -> dict[str, Any]:
    return {
        "label": model.label,
        "name": model.name,
        "checkpoint": model.checkpoint,
        "step": model.step,
        "method": model.method,
        "evaluations": {name: found.folder.url for name, found in model.results.items()},
    }


def _benchmark(benchmark: BenchmarkComparison) -> dict[str, Any]:
    return {
        "benchmark": benchmark.benchmark,
        "title": benchmark.title,
        "in_paper": benchmark.of_paper,
        "alike": not benchmark.differing(),
        "warnings": benchmark.warnings,
        "protocol": benchmark.protocol,
        "numbers": [_line(line) for line in benchmark.lines],
        "classes": [
            {"name": line.name, "percent": line.percents, "released_percent": line.released}
            for line in class_lines(benchmark.benchmark, benchmark.results)
        ],
        "confused": {
            label: [vars(pair) for pair in confused_pairs(found.result, CONFUSED_PAIRS)]
            for label, found in benchmark.results.items()
        },
        "pictures": [_gallery(gallery) for gallery in galleries(benchmark.results)],
    }


def _line(line: Line) -> dict[str, Any]:
    return {
        "question": line.question,
        "answer": line.answer,
        "number": line.number,
        "of_model": line.of_model,
        "paper": _paper(line.paper),
        "values": {label: _cell(cell) for label, cell in line.cells.items()},
    }


def _paper(number: PaperNumber | None) -> dict[str, Any] | None:
    if number is None:
        return None
    return {
        "table": number.table.name,
        "system": number.row.system,
        "data": number.row.data,
        "settings": dict(number.row.settings),
        "percent": number.percent,
    }


def _cell(cell: Cell) -> dict[str, Any]:
    return {
        "percent": _finite(cell.percent),
        "to_paper": _points(cell.to_paper),
        "better_than_paper": cell.to_paper.better if cell.to_paper else None,
        "to_first": _points(cell.to_first),
        "better_than_first": cell.to_first.better if cell.to_first else None,
    }


def _points(difference: Difference | None) -> float | None:
    return round(difference.points, 6) if difference else None


def _finite(value: float | None) -> float | None:
    return round(value, 6) if value is not None and math.isfinite(value) else None


def _gallery(gallery: Gallery) -> dict[str, Any]:
    return {
        "question": gallery.table,
        "best": [_shown(shown) for shown in gallery.best],
        "worst": [_shown(shown) for shown in gallery.worst],
    }


def _shown(shown: Shown) -> dict[str, Any]:
    return {
        "name": shown.name,
        "scores": {label: _finite(picture.score) for label, picture in shown.drawn.items()},
        "files": {label: picture.file for label, picture in shown.drawn.items()},
    }


def _table(comparison: TableComparison) -> dict[str, Any]:
    table = comparison.table
    return {
        "name": table.name,
        "title": table.title,
        "columns": [vars(column) for column in table.columns],
        "notes": list(table.notes),
        "reference": comparison.reference.name if comparison.reference else None,
        "rows": [
            {
                "system": row.system,
                "data": row.data,
                "settings": dict(row.settings),
                "percents": list(row.percents),
                "note": row.note,
            }
            for row in table.rows
        ],
        "ours": [
            {
                "label": row.model.label,
                "answer": row.answer,
                "cells": [_cell(cell) if cell else None for cell in row.cells],
            }
            for row in comparison.rows
        ],
    }


CSV_COLUMNS = (
    "source",
    "label",
    "system",
    "data",
    "settings",
    "step",
    "benchmark",
    "question",
    "answer",
    "number",
    "percent",
    "paper_percent",
    "paper_row",
    "to_paper",
    "better_than_paper",
    "to_first",
    "better_than_first",
    "protocol_alike",
    "pictures",
    "protocol",
    "note",
)


def as_csv(comparison: Comparison) -> str:
    """One line a number, ours first, then the paper's on the same benchmarks; numbers in percent."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in (*_our_lines(comparison), *_paper_lines(comparison)):
        writer.writerow({name: spreadsheet_text(value) for name, value in row.items()})
    return stream.getvalue()


def _our_lines(comparison: Comparison) -> Iterator[dict[str, Any]]:
    models = {model.label: model for model in comparison.models}
    for benchmark in comparison.benchmarks:
        for line in benchmark.lines:
            paper = line.paper
            for label, cell in line.cells.items():
                choices = {choice: chosen[label] for choice, chosen in benchmark.protocol.items() if label in chosen}
                yield {
                    "source": "ours",
                    "label": label,
                    "system": f"{models[label].method} of {models[label].checkpoint}",
                    "data": benchmark.results[label].result.data,
                    "step": models[label].step,
                    "benchmark": benchmark.benchmark,
                    "question": line.question,
                    "answer": line.answer,
                    "number": line.number,
                    "paper_percent": paper.percent if paper else None,
                    "paper_row": f"{paper.row.name} ({paper.table.name})" if paper else None,
                    **_cell(cell),
                    "protocol_alike": not benchmark.differing(),
                    "pictures": choices.pop(PICTURES),
                    "protocol": "; ".join(f"{choice}: {chosen}" for choice, chosen in choices.items()),
                }


def _paper_lines(comparison: Comparison) -> Iterator[dict[str, Any]]:
    for benchmark in comparison.benchmarks:
        for number in paper_numbers(benchmark.benchmark):
            yield {
                "source": number.table.name,
                "system": number.row.system,
                "data": number.row.data,
                "settings": number.row.setting,
                "benchmark": benchmark.benchmark,
                "question": number.column.question,
                "number": number.column.number,
                "percent": number.percent,
                "note": " ".join([number.row.note, *number.table.notes]).strip(),
            }


def spreadsheet_text(value: Any) -> Any:
    """Text that a spreadsheet does not take for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
