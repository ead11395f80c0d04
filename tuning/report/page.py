"""The report as one self-contained HTML page: it asks for nothing from outside and runs no script."""

from __future__ import annotations

import base64
from html import escape
from importlib.resources import files
from itertools import combinations

from pipelines.evaluation.comparison.html import table
from pipelines.evaluation.comparison.html import warnings as warning_box
from pipelines.web_page import anchor, section, text, web_page
from tuning.report import words
from tuning.report.charts import learning_curves, two_metrics
from tuning.report.colours import Colours, colours
from tuning.report.importance import Importance
from tuning.report.parallel import columns_of, parallel_coordinates
from tuning.report.pictures import Drawn
from tuning.report.study_report import StudyReport
from tuning.report.tables import ablation_table, front_table, settings_table, trials_table, verdict

_MOST_PLOTS = 3
"""Pairs of metrics that are plotted."""


def as_page(report: StudyReport) -> str:
    """The page; every name and error on it is escaped."""
    colouring = colours(report.trials, report.ranked, report.by_importance)
    titles = {trial.number: words.told(trial, report) for trial in report.trials}
    study = report.results.study.to_yaml()
    parts = [
        ("Trials", _trials(report), words.TRIALS),
        _ablation(report),
        ("Over seeds", _seeds(report), words.SEEDS),
        ("Learning curves", _curves(report, titles, colouring), words.CURVES),
        ("Parameters and metrics", _parallel(report, titles, colouring), words.PARALLEL),
        ("What matters", _importance(report), words.IMPORTANCE),
        ("Pareto front", _front(report, titles, colouring), words.FRONT),
        ("Best and worst", _pictures(report), words.PICTURES if report.gallery.pictures else ""),
        ("The study", f"<details><summary>study.yaml</summary><pre>{escape(study)}</pre></details>", ""),
    ]
    parts = [part for part in parts if part[1]]
    links = "".join(f'<li><a href="#{anchor(name)}">{text(name)}</a></li>' for name, *_ in parts)
    title, said = words.headline(report), words.summary(report)
    body = [
        f'<header><p class="eyebrow">Study</p><h1>{text(title)}</h1><p class="note">{text(said, 2000)}</p></header>',
        f'<nav aria-label="contents"><ul>{links}</ul></nav>',
        warning_box(words.warnings(report)),
        *(section(*part) for part in parts),
    ]
    return web_page(title, _style(), "\n".join(body))


def _trials(report: StudyReport) -> str:
    return table(trials_table(report.trials, report.objectives, report.parameters, report.names), "trials", "trials")


def _ablation(report: StudyReport) -> tuple[str, str, str]:
    if report.ablation is None:
        return "", "", ""
    paper = report.ablation.table
    notes = "".join(f"<li>{text(note)}</li>" for note in words.ablation_notes(report, report.ablation))
    numbers = table(ablation_table(report.ablation), "ablation", paper.name)
    return f"{paper.name}: {paper.title}", f'{numbers}<ul class="notes">{notes}</ul>', words.ABLATION


def _seeds(report: StudyReport) -> str:
    if not report.settings:
        return ""
    numbers = settings_table(report.settings, report.objectives, report.parameters, report.names)
    return table(numbers, "seeds", "over seeds")


def _curves(report: StudyReport, titles: dict[int, str], colouring: Colours) -> str:
    charts = [
        learning_curves(report.trials, objective, report.names[objective.metric], titles, colouring)
        for objective in report.objectives
    ]
    return f'{_legend(report, colouring)}<div class="charts">{"".join(charts)}</div>' if any(charts) else ""


def _legend(report: StudyReport, colouring: Colours) -> str:
    keys = "".join(
        f'<span class="key"><i style="background:{colour}"></i>{text(word)}</span>'
        for word, colour in colouring.legend.items()
    )
    meaning = text(report.names.get(colouring.meaning, colouring.meaning))
    return f'<p class="legend"><b>{meaning}</b> {keys}</p>' if keys else ""


def _parallel(report: StudyReport, titles: dict[int, str], colouring: Colours) -> str:
    drawn = parallel_coordinates(report.ranked, columns_of(report), titles, colouring)
    return _legend(report, colouring) + drawn if drawn else ""


def _importance(report: StudyReport) -> str:
    return f'<div class="beside even">{"".join(_shares(report, found) for found in report.importance)}</div>'


def _shares(report: StudyReport, found: Importance) -> str:
    bars = "".join(
        f'<div class="class"><span class="name">{text(report.names[share.parameter], 60)}</span><div>'
        f'<div class="bar"><span class="track"><span style="width:{100 * share.share:.1f}%"></span>'
        f'<i style="left:{100 * share.chance:.1f}%"></i></span><b>{share.share:.0%}</b></div>'
        f"<small>{verdict(share)}, which gives up to {share.chance:.0%}</small></div></div>"
        for share in found.shares
    )
    note = words.importance_note(found, report)
    return f'<div><h3>{text(report.names[found.metric])}</h3><p class="note">{text(note)}</p>{bars}</div>'


def _front(report: StudyReport, titles: dict[int, str], colouring: Colours) -> str:
    if not report.front:
        return ""
    pairs = list(combinations(report.objectives, 2))[:_MOST_PLOTS]
    plots = [two_metrics(report.ranked, report.front, pair, report.names, titles, colouring) for pair in pairs]
    numbers = table(front_table(report.front, report.objectives, report.parameters, report.names), "", "Pareto front")
    return f'{numbers}{_legend(report, colouring)}<div class="charts">{"".join(plots)}</div>'


def _pictures(report: StudyReport) -> str:
    gallery = report.gallery
    if not gallery.pictures:
        return f'<p class="note">{text(f"No pictures: {gallery.why_none}.")}</p>'
    trials = {trial.number: trial for trial in report.ranked}
    whose = {answer.number: which for which, answer in zip(("Best", "Worst"), gallery.pictures[0], strict=False)}
    told = "".join(f"<li>{text(f'{which}: {words.told(trials[n], report)}')}</li>" for n, which in whose.items())
    figures = "".join(
        f"<figure>{''.join(_picture(answer, whose[answer.number]) for answer in picture)}</figure>"
        for picture in gallery.pictures
    )
    return f'<ul class="notes">{told}</ul><div class="gallery">{figures}</div>'


def _picture(answer: Drawn, whose: str) -> str:
    said = f"{whose}, trial {answer.number} at step {answer.step:,}"
    content = base64.b64encode(answer.png).decode()
    return (
        f'<img alt="{text(f"{said}: {answer.caption}")}" loading="lazy" src="data:image/png;base64,{content}">'
        f"<p><b>{text(said)}</b> {text(answer.caption)}</p>"
    )


def _style() -> str:
    """The look of ``clippy compare``'s page, and what charts need beside."""
    compare = files("pipelines.evaluation.comparison").joinpath("page.css").read_text(encoding="utf-8")
    return compare + files("tuning.report").joinpath("charts.css").read_text(encoding="utf-8")
