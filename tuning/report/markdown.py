"""The report as Markdown: the tables of the page, without drawings."""

from __future__ import annotations

from collections.abc import Iterator

from pipelines.evaluation.comparison.markdown import escaped, table_lines
from tuning.report import words
from tuning.report.study_report import StudyReport
from tuning.report.tables import ablation_table, front_table, importance_table, settings_table, trials_table


def as_markdown(report: StudyReport) -> str:
    """The whole report as one document."""
    return "\n\n".join(_blocks(report)) + "\n"


def _blocks(report: StudyReport) -> Iterator[str]:
    names, objectives, parameters = report.names, report.objectives, report.parameters
    yield f"# {escaped(words.headline(report))}"
    yield escaped(words.summary(report))
    if warned := words.warnings(report):
        yield "\n".join(f"- ⚠ {escaped(warning)}" for warning in warned)
    yield from ("## Trials", escaped(words.TRIALS))
    yield from table_lines(trials_table(report.trials, objectives, parameters, names))
    if report.ablation:
        paper = report.ablation.table
        yield from (f"## {escaped(f'{paper.name}: {paper.title}')}", escaped(words.ABLATION))
        yield from table_lines(ablation_table(report.ablation))
        yield "\n".join(f"- {escaped(note)}" for note in words.ablation_notes(report, report.ablation))
    if report.settings:
        yield from ("## Over seeds", escaped(words.SEEDS))
        yield from table_lines(settings_table(report.settings, objectives, parameters, names))
    yield from ("## What matters", escaped(words.IMPORTANCE))
    for found in report.importance:
        yield f"### {escaped(names[found.metric])}"
        yield escaped(words.importance_note(found, report))
        if found.shares:
            yield from table_lines(importance_table(found, names))
    if report.front:
        yield from ("## Pareto front", escaped(words.FRONT))
        yield from table_lines(front_table(report.front, objectives, parameters, names))
