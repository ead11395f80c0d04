"""The report's tables, before they are HTML or Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.evaluation.comparison.numbers import difference, percent_text
from pipelines.evaluation.comparison.tables import Entry, Kind, Row, Table
from pipelines.evaluation.paper import PaperColumn, benchmark_title
from tuning.report.ablation import Ablation, AblationRow
from tuning.report.importance import Importance, Share
from tuning.report.outcome import SEED, STATUS, Setting, Spread
from tuning.results import Trial
from tuning.study import Objective, shown_value

_NONE = Entry("–")


def trials_table(
    trials: Sequence[Trial], objectives: Sequence[Objective], parameters: Sequence[str], names: Mapping[str, str]
) -> Table:
    """A line a trial, in the order given: what became of it, what it came to, its parameters."""
    head = ("trial", "status", "step", *(names[o.metric] for o in objectives), *(names[name] for name in parameters))
    rows = []
    for place, trial in enumerate(trials):
        status = Entry(STATUS.get(trial.status, trial.status), trial.error or "")
        values = [_value(trial, objective) for objective in objectives]
        chosen = [_chosen(trial.parameters, name) for name in parameters]
        best = place == 0 and trial.value(objectives[0].metric) is not None
        kind: Kind = "ours" if best else "trivial" if trial.status in ("failed", "waiting") else ""
        rows.append(Row(str(trial.number), (status, Entry(f"{trial.steps:,}"), *values, *chosen), kind=kind))
    return Table(head, tuple(rows))


def _chosen(parameters: Mapping[str, Any], name: str) -> Entry:
    """A parameter's value; a dash where its condition does not hold."""
    return Entry(shown_value(parameters[name])) if name in parameters else _NONE


def _value(trial: Trial, objective: Objective) -> Entry:
    """The last value; below it the best where that was another."""
    last, best = trial.value(objective.metric), trial.best(objective.metric, objective.direction)
    if last is None:
        return _NONE
    return Entry(number(last), f"best {number(best)}" if best is not None and number(best) != number(last) else "")


def number(value: float) -> str:
    """A metric as it stands in a table."""
    return f"{value:.3f}".replace("-", "−") if abs(value) < 1000 else shown_value(value)


def settings_table(
    settings: Sequence[Setting], objectives: Sequence[Objective], parameters: Sequence[str], names: Mapping[str, str]
) -> Table:
    """A line for trials that are equal but for their seed: mean and deviation of those that finished."""
    shown = [name for name in parameters if name != SEED]
    head = ("setting", *(names[name] for name in shown), "seeds", *(names[o.metric] for o in objectives))
    rows = []
    for place, setting in enumerate(settings):
        chosen = [_chosen(setting.parameters, name) for name in shown]
        missing = len(setting.trials) - len(setting.finished)
        seeds = Entry(str(len(setting.finished)), f"{missing} more did not finish" if missing else "")
        spreads = [setting.spread(objective) for objective in objectives]
        kind: Kind = "ours" if place == 0 and spreads[0] else ""
        rows.append(Row(str(place + 1), (*chosen, seeds, *(Entry(_spread(s)) for s in spreads)), kind=kind))
    return Table(head, tuple(rows))


def _spread(found: Spread | None) -> str:
    if found is None:
        return "–"
    return number(found.mean) + (f" ± {number(found.deviation)}" if found.deviation is not None else "")


def importance_table(found: Importance, names: Mapping[str, str]) -> Table:
    """A line a parameter: the share that it explains alone, and what chance gives."""
    rows = [
        Row(names[s.parameter], (Entry(f"{s.share:.0%}"), Entry(f"{s.chance:.0%}"), Entry(verdict(s))))
        for s in found.shares
    ]
    return Table(("parameter", "explains alone", "by chance up to", ""), tuple(rows))


def verdict(share: Share) -> str:
    """What a share comes to beside chance."""
    return "more than chance" if share.matters else "no more than chance"


def front_table(
    front: Sequence[Trial], objectives: Sequence[Objective], parameters: Sequence[str], names: Mapping[str, str]
) -> Table:
    """The trials that none beats in everything."""
    head = ("trial", *(names[o.metric] for o in objectives), *(names[name] for name in parameters))
    rows = []
    for trial in front:
        values = [_value(trial, objective) for objective in objectives]
        chosen = [_chosen(trial.parameters, name) for name in parameters]
        rows.append(Row(str(trial.number), (*values, *chosen)))
    return Table(head, tuple(rows))


def ablation_table(ablation: Ablation) -> Table:
    """The paper's rows with ours beside, in percent, in the columns that the study has numbers in."""
    names = list(ablation.rows[0].settings)
    columns = [i for i, _ in enumerate(ablation.table.columns) if any(row.ours[i] for row in ablation.rows)]
    titles = [_title(ablation.table.columns[i]) for i in columns]
    head = (*names, "data", *(f"{title}{which}" for title in titles for which in (", paper", ", ours")), "our seeds")
    rows = []
    for row in ablation.rows:
        first, *rest = row.settings.values()
        numbers = [entry for i in columns for entry in _beside(row, i, ablation.table.columns[i].number)]
        missing = row.trials - row.seeds
        seeds = Entry(str(row.seeds) if row.trials else "–", f"{missing} more did not finish" if missing else "")
        kind: Kind = "ours" if row.seeds else "paper"
        rows.append(Row(first, (*map(Entry, rest), Entry(row.data or "own"), *numbers, seeds), kind=kind))
    return Table(head, tuple(rows))


def _title(column: PaperColumn) -> str:
    return f"{benchmark_title(column.benchmark)} {column.number}"


def _beside(row: AblationRow, index: int, name: str) -> tuple[Entry, Entry]:
    """The paper's number and ours, with how far apart they are: better or worse only beyond the spread over seeds."""
    paper, ours = row.paper.percents[index] if row.paper else None, row.ours[index]
    if ours is None:
        return Entry(percent_text(paper)), _NONE
    shown = percent_text(ours.mean) + (f" ± {percent_text(ours.deviation)}" if ours.deviation is not None else "")
    apart = difference(ours.mean, paper, name)
    if apart is None:
        return Entry(percent_text(paper)), Entry(shown)
    if ours.deviation is not None and abs(apart.points) <= ours.deviation:
        within = f"{apart.points:+.1f} from the paper, within the spread".replace("-", "−", 1)
        return Entry(percent_text(paper)), Entry(shown, within)
    return Entry(percent_text(paper)), Entry(shown, differences=(("the paper", apart),))
