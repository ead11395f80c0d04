"""Parameters and metrics of all trials as parallel coordinates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuning.report import svg
from tuning.report.colours import Colours
from tuning.report.scales import Scale, numbers_scale, words_scale
from tuning.report.study_report import StudyReport
from tuning.results import Trial
from tuning.study import shown_value

_TOP, _HEIGHT, _BELOW = 40, 280, 34
_WIDTH = 1060
_LEAST_STEP, _MOST_STEP = 120, 240
"""Pixels from one axis to the next."""
_AXIS = "#9a9a9a"


@dataclass(frozen=True)
class Column:
    """An axis: a parameter or a metric by its short and its full name; a trial that lacks it passes below."""

    name: str
    full_name: str
    scale: Scale
    values: Mapping[int, Any]
    """By trial number."""

    def y(self, trial: Trial) -> float:
        """How far down the trial's value lies."""
        if trial.number not in self.values:
            return _TOP + _HEIGHT + 18
        return _TOP + _HEIGHT * (1 - self.scale.at(self.values[trial.number]))


def columns_of(report: StudyReport) -> list[Column]:
    """The parameters that vary, then the metrics."""
    columns = []
    for name in report.parameters:
        values = {trial.number: trial.parameters[name] for trial in report.ranked if name in trial.parameters}
        if len(set(map(shown_value, values.values()))) > 1 or 0 < len(values) < len(report.ranked):
            columns.append(Column(report.names[name], name, _scale(report, name, list(values.values())), values))
    for objective in report.objectives:
        found = {trial.number: trial.value(objective.metric) for trial in report.ranked}
        known = {number: value for number, value in found.items() if value is not None}
        if known:
            scale = numbers_scale(known.values())
            columns.append(Column(report.names[objective.metric], objective.metric, scale, known))
    return columns


def _scale(report: StudyReport, name: str, values: list[Any]) -> Scale:
    """A range of the study by its numbers, on a log scale where it searches so; listed values side by side."""
    domain = report.results.study.space.get(name)
    if domain is None or domain.values is not None:
        return words_scale(values, [value for value in (domain.values if domain else None) or () if value in values])
    return numbers_scale(values, by_ratio=domain.kind == "log_uniform")


def parallel_coordinates(
    trials: Sequence[Trial], columns: Sequence[Column], titles: Mapping[int, str], colours: Colours
) -> str:
    """A line a trial over all axes, the first thick; dashed where the scheduler ended it."""
    if len(columns) < 2 or not trials:
        return ""
    left = 14 + svg.LETTER * len(columns[0].name) / 2
    right = 14 + svg.LETTER * max(len(columns[-1].name) / 2, 7)
    step = max(_LEAST_STEP, min(_MOST_STEP, (_WIDTH - left - right) / (len(columns) - 1)))
    xs = [left + step * index for index in range(len(columns))]
    parts = [_axis(column, x, trials) for column, x in zip(columns, xs, strict=True)]
    for trial in reversed(trials):  # the best on top
        places = [(x, column.y(trial)) for column, x in zip(columns, xs, strict=True)]
        width, opacity = (3.2, 1.0) if trial is trials[0] else (1.6, 0.7)
        line = svg.path(places, colours.of(trial), width, opacity, dashed=trial.status == "stopped")
        parts.append(svg.titled(titles[trial.number], line))
    parts += [_labels(column, x) for column, x in zip(columns, xs, strict=True)]  # over the lines
    return svg.svg(xs[-1] + right, _TOP + _HEIGHT + _BELOW, parts, "parameters and metrics of the trials")


def _axis(column: Column, x: float, trials: Sequence[Trial]) -> str:
    name = svg.titled(column.full_name, svg.label((x, _TOP - 20), column.name, "middle"))
    lacking = any(trial.number not in column.values for trial in trials)
    unset = svg.label((x + 7, _TOP + _HEIGHT + 22), "not set", colour=svg.GREY, over=True) if lacking else ""
    return name + svg.line((x, _TOP), (x, _TOP + _HEIGHT), _AXIS) + unset


def _labels(column: Column, x: float) -> str:
    parts = []
    for share, tick in column.scale.ticks():
        y = _TOP + _HEIGHT * (1 - share)
        parts += [svg.line((x - 4, y), (x + 4, y), _AXIS), svg.label((x + 7, y + 4), tick, over=True)]
    return "".join(parts)
