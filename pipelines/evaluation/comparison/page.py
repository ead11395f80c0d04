"""The comparison as one self-contained HTML page: it asks for nothing from outside and runs no script."""

from __future__ import annotations

from importlib.resources import files

from pipelines.evaluation.comparison.charts import class_bars, confusion_matrix, gallery
from pipelines.evaluation.comparison.classes import (
    CONFUSED_PAIRS,
    class_lines,
    class_number,
    class_unit,
    confused_pairs,
)
from pipelines.evaluation.comparison.compare import BenchmarkComparison, Comparison, TableComparison
from pipelines.evaluation.comparison.html import table, warnings
from pipelines.evaluation.comparison.pictures import Embedder, galleries
from pipelines.evaluation.comparison.tables import (
    glance_table,
    models_table,
    pairs_table,
    paper_table,
    protocol_lines,
    protocol_table,
    question_table,
    reference_name,
)
from pipelines.evaluation.comparison.words import LEGEND, NOT_IN_PAPER, RELEASED, headline, left_out_tables
from pipelines.evaluation.paper import paper_legend, paper_source
from pipelines.web_page import anchor, section, text, web_page

MOST_PICTURE_BYTES = 12_000_000
"""Of all pictures on the page, before base64 makes them a third longer."""


def as_page(comparison: Comparison) -> str:
    """The page, of which each picture and each name is escaped and within bounds whatever the results hold."""
    share = MOST_PICTURE_BYTES // max(1, len(comparison.benchmarks))
    title = headline(comparison)
    body = [
        f'<header><p class="eyebrow">Comparison</p><h1>{text(title)}</h1><p class="note">{text(LEGEND)}</p></header>',
        _contents(comparison),
        warnings(comparison.warnings),
        table(models_table(comparison), "models", "models"),
        _glance(comparison, True),
        _glance(comparison, False),
        *(_paper_section(shown, comparison) for shown in comparison.tables),
        _about_the_paper(comparison),
        *(_benchmark_section(benchmark, comparison, Embedder(share)) for benchmark in comparison.benchmarks),
    ]
    style = files("pipelines.evaluation.comparison").joinpath("page.css").read_text(encoding="utf-8")
    return web_page(title, style, "\n".join(body))


def _contents(comparison: Comparison) -> str:
    names = [
        *(_table_title(shown) for shown in comparison.tables),
        *(benchmark.title for benchmark in comparison.benchmarks),
    ]
    links = "".join(f'<li><a href="#{anchor(name)}">{text(name)}</a></li>' for name in names)
    return f'<nav aria-label="contents"><ul>{links}</ul></nav>'


def _glance(comparison: Comparison, of_paper: bool) -> str:
    title, note = ("The paper's benchmarks", "") if of_paper else ("Other benchmarks", NOT_IN_PAPER)
    kind = "glance paper" if of_paper else "glance"
    return section(title, table(glance_table(comparison, of_paper), kind, title), note)


def _table_title(shown: TableComparison) -> str:
    return f"{shown.table.name}: {shown.table.title}"


def _paper_section(shown: TableComparison, comparison: Comparison) -> str:
    against = f"Differences are from {reference_name(shown.reference)}, marked ◆." if shown.reference else ""
    measured = "".join(f"<li>{text(sentence, 2000)}</li>" for sentence in protocol_lines(shown, comparison))
    notes = "".join(f"<li>{text(note)}</li>" for note in shown.table.notes)
    numbers = table(paper_table(shown, comparison), "paper", shown.table.name)
    content = (
        f'<div class="beside"><div>{numbers}</div><div><ul class="notes">{notes}</ul>'
        f'<div class="measured"><h3>How ours were measured</h3><ul>{measured}</ul></div></div></div>'
    )
    return section(_table_title(shown), content, against)


def _about_the_paper(comparison: Comparison) -> str:
    if not comparison.tables:
        return ""
    words = f"{paper_legend()} {left_out_tables(comparison)} Source: {paper_source()}."
    return f'<p class="note">{text(words, 2000)}</p>'


def _benchmark_section(benchmark: BenchmarkComparison, comparison: Comparison, embedder: Embedder) -> str:
    numbers = "".join(
        f"<h3>{text(question.capitalize())}</h3>{table(question_table(benchmark, question, comparison), '', question)}"
        for question in benchmark.questions()
    )
    protocol = f"<h3>How it was measured</h3>{table(protocol_table(benchmark), 'protocol', 'protocol')}"
    note = "" if benchmark.of_paper else "The paper has no number on this benchmark."
    parts = [warnings(benchmark.warnings), numbers, protocol, _classes(benchmark), _confusion(benchmark)]
    return section(benchmark.title, "\n".join([*parts, _pictures(benchmark, embedder)]), note)


def _classes(benchmark: BenchmarkComparison) -> str:
    lines = class_lines(benchmark.benchmark, benchmark.results)
    if not lines:
        return ""
    number = class_number(next(iter(benchmark.results.values())).result).replace("iou", "IoU")
    released = any(line.released is not None for line in lines)
    note = f"From the best to the worst. {RELEASED if released else ''}".strip()
    bars = class_bars(lines, list(benchmark.results))
    return f'<h3>Classes, {text(number)}</h3><p class="note">{text(note)}</p>{bars}'


def _confusion(benchmark: BenchmarkComparison) -> str:
    parts = []
    for label, found in benchmark.results.items():
        pairs = confused_pairs(found.result, CONFUSED_PAIRS)
        if not pairs:
            continue
        whose = f", {label}" if len(benchmark.results) > 1 else ""
        unit = class_unit(found.result)
        matrix = confusion_matrix(found.result)
        explained = f"Rows are what is there, columns what it was taken for; percent of the row's {unit}."
        parts.append(
            f"<div><h3>Most confused{whose}</h3>{table(pairs_table(pairs, unit), 'pairs', 'most confused')}</div>"
        )
        if matrix:
            title = f"<h3>Confusion{whose}</h3>"
            parts.append(f'<div class="wide">{title}<p class="note">{text(explained)}</p>{matrix}</div>')
    return f'<div class="confusion">{"".join(parts)}</div>' if parts else ""


def _pictures(benchmark: BenchmarkComparison, embedder: Embedder) -> str:
    parts = []
    for chosen in galleries(benchmark.results):
        about = f", {chosen.table}" if chosen.table else ""
        for title, pictures in (
            (f"Failures{about}, the worst first", chosen.worst),
            (f"Best pictures{about}", chosen.best),
            (f"Pictures without a score{about}", chosen.unscored),
        ):
            figures = gallery(pictures, benchmark, embedder)
            parts.append(f"<h3>{text(title)}</h3>{figures}" if figures else "")
        if chosen.left_out:
            parts.append(f'<p class="note">{chosen.left_out:,} further pictures were drawn and are not shown.</p>')
    dropped = embedder.left_out
    if dropped:
        parts.append(f'<p class="note">Drawings left out, missing, broken or too large for this page: {dropped:,}.</p>')
    return "".join(parts)
