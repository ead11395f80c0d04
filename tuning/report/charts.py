"""What the page draws of trials: learning curves, and two metrics against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tuning.report import svg
from tuning.report.colours import Colours
from tuning.report.scales import numbers_scale
from tuning.results import Trial
from tuning.study import Objective


def learning_curves(
    trials: Sequence[Trial], objective: Objective, name: str, titles: Mapping[int, str], colours: Colours
) -> str:
    """A line a trial over steps, the first thick; a cross where the scheduler ended it, a dot where it is now."""
    curves = {trial.number: _points(trial, objective.metric) for trial in trials}
    points = [point for curve in curves.values() for point in curve]
    if not points:
        return ""
    across, up = numbers_scale([0, *(x for x, _ in points)]), numbers_scale([y for _, y in points], room=0.04)
    frame = svg.Frame(510, 310, across, up)
    parts = []
    for trial in reversed(trials):  # the best on top
        places = [frame.place(*point) for point in curves[trial.number]]
        if not places:
            continue
        colour, best = colours.of(trial), trial is trials[0]
        end = svg.cross(places[-1], colour) if trial.status == "stopped" else svg.dot(places[-1], 3.5, colour)
        curve = svg.path(places, colour, 3 if best else 1.4, 1 if best else 0.75)
        parts.append(svg.titled(titles[trial.number], curve, *(svg.dot(p, 1.6, colour) for p in places[:-1]), end))
    return frame.draw(parts, "step", name)


def _points(trial: Trial, metric: str) -> list[svg.Place]:
    return [(entry["step"], entry[metric]) for entry in trial.history if metric in entry]


def two_metrics(
    trials: Sequence[Trial],
    front: Sequence[Trial],
    objectives: tuple[Objective, Objective],
    names: Mapping[str, str],
    titles: Mapping[int, str],
    colours: Colours,
) -> str:
    """A dot a trial over two metrics; those of the front are large, numbered and joined."""
    across, up = objectives
    points = {}
    for trial in trials:
        x, y = trial.value(across.metric), trial.value(up.metric)
        if x is not None and y is not None:
            points[trial.number] = (x, y)
    if not points:
        return ""
    scales = (numbers_scale([point[i] for point in points.values()], room=0.06) for i in (0, 1))
    frame = svg.Frame(510, 340, *scales)
    on_front = {trial.number for trial in front}
    joined = sorted(points[number] for number in on_front)
    parts = [svg.path([frame.place(*point) for point in joined], svg.GREY, 1.2, dashed=True)]
    for trial in reversed([trial for trial in trials if trial.number in points]):
        place, colour = frame.place(*points[trial.number]), colours.of(trial)
        drawn = [svg.dot(place, 3.5, colour)]
        if trial.number in on_front:
            number = svg.label((place[0] + 8, place[1] - 6), str(trial.number), over=True)
            drawn = [svg.dot(place, 6, colour, svg.INK), number]
        parts.append(svg.titled(titles[trial.number], *drawn))
    return frame.draw(parts, names[across.metric], names[up.metric])
