"""The report for programs: as plain values for ``--json``, and as CSV with one line a trial."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict
from typing import Any

from pipelines.evaluation.comparison.data import spreadsheet_text
from tuning.report.ablation import AblationRow
from tuning.report.study_report import StudyReport
from tuning.results import Trial

_OWN = ("trial", "status", "step", "error", "seconds", "run", "mlflow_run_id")


def as_csv(report: StudyReport) -> str:
    """A line a trial, the best first: what became of it, its parameters, the last value of each metric and its best."""
    objectives = report.objectives
    values = [name for o in objectives for name in (o.metric, f"best {o.metric}")]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, [*_OWN, *report.parameters, *values], lineterminator="\n")
    writer.writeheader()
    for trial in report.trials:
        row: dict[str, Any] = dict(zip(_OWN, _facts(trial), strict=True)) | trial.parameters
        for objective in objectives:
            row[objective.metric] = trial.value(objective.metric)
            row[f"best {objective.metric}"] = trial.best(objective.metric, objective.direction)
        writer.writerow({name: spreadsheet_text(value) for name, value in row.items()})
    return stream.getvalue()


def _facts(trial: Trial) -> tuple[Any, ...]:
    return (trial.number, trial.status, trial.steps, trial.error, trial.seconds, trial.run, trial.mlflow_run_id)


def as_data(report: StudyReport) -> dict[str, Any]:
    """Values that JSON can hold; metrics as the trials reported them, numbers of the paper's tables in percent."""
    return {
        "study": report.results.study.name,
        "folder": report.results.folder.url,
        "metrics": [objective.model_dump() for objective in report.objectives],
        "best": report.best.number,
        "trials": [asdict(trial) for trial in report.trials],
        "settings": [
            {
                "parameters": setting.parameters,
                "trials": [trial.number for trial in setting.trials],
                "over_seeds": {o.metric: asdict(s) if (s := setting.spread(o)) else None for o in report.objectives},
            }
            for setting in report.settings
        ],
        "importance": [asdict(found) for found in report.importance],
        "front": [trial.number for trial in report.front],
        "ablation": {
            "table": report.ablation.table.name,
            "columns": [asdict(column) for column in report.ablation.table.columns],
            "rows": [_ablation_row(row) for row in report.ablation.rows],
        }
        if report.ablation
        else None,
        "no_pictures": report.gallery.why_none or None,
    }


def _ablation_row(row: AblationRow) -> dict[str, Any]:
    return {
        "settings": row.settings,
        "data": row.data,
        "paper_percents": list(row.paper.percents) if row.paper else None,
        "our_percents": [asdict(cell) if cell else None for cell in row.ours],
        "seeds": row.seeds,
        "trials": row.trials,
    }
