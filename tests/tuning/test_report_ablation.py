"""An ablation in the paper's layout: its rows as they are, ours beside where settings, data and benchmark fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.console import Console
from pipelines.evaluation.paper import paper_tables
from pipelines.evaluation.result import EVALUATION_FOLDER, Result
from tests.tuning.made_up import trial, write_study
from tuning.report.ablation import data_name, settings_of
from tuning.report.study_report import StudyReport, report_study, run_of
from tuning.report.tables import ablation_table
from tuning.results import StudyResults, Trial
from tuning.study import load_study

POOLING = "model.image.pooling"
# cc12m-clippy trains for 43,008 steps; no trial here runs.
OVERRIDES = {"eval": {"every": 1000, "benchmark": "voc", "url": "voc"}, "train": {"steps": 43000}, "checkpoint": {}}


def ablate(folder: Path, trials: list[Trial], base: str = "cc12m-clippy", **overrides: object) -> StudyResults:
    told = {**OVERRIDES, "optim": {}, "storage": {"url": str(folder)}, **overrides}
    return write_study(folder, trials, base=base, overrides=told)


def report(results: StudyResults) -> StudyReport:
    return report_study(results, None, 0, Console())


def seeds(pooling: str, first: int, *values: float) -> list[Trial]:
    return [trial(first + i, {POOLING: pooling, "seed": i}, value) for i, value in enumerate(values)]


def evaluate_on_imagenet(results: StudyResults, one: Trial, top1: float, folder: str = "imagenet") -> None:
    tables = {"classification": {"model": {"top-1": top1}, "chance": {"top-1": 0.001}}}
    found = Result("imagenet", "clippy", "a", 40, "b", {"name": "paper"}, {"val": 50_000}, tables)
    found.write(run_of(results, one).location / EVALUATION_FOLDER / "step-00000040" / folder)


def test_ours_stand_beside_the_papers(tmp_path: Path) -> None:
    trials = [*seeds("cls", 0, 0.05, 0.07), *seeds("max", 2, 0.52, 0.53, 0.54), *seeds("top_k", 5, 0.3)]
    trials += [trial(6, {POOLING: "cls", "seed": 2}, 0.9, status="stopped")]
    results = ablate(tmp_path, trials)
    for one, top1 in zip(trials[2:5], (0.4, 0.42, 0.44), strict=True):
        evaluate_on_imagenet(results, one, top1)
        evaluate_on_imagenet(results, one, 0.9, "imagenet-maskclip-0a1b2c")  # not the usual way
    found = report(results).ablation
    assert found is not None
    assert found.table.name == "Table 9"
    shown = ablation_table(found)
    assert shown.head == (
        *("pooling", "data", "ImageNet top-1, paper", "ImageNet top-1, ours"),
        *("PASCAL VOC 2012 mIoU, paper", "PASCAL VOC 2012 mIoU, ours", "our seeds"),
    )
    rows = {(row.name, row.entries[0].text): [entry.text for entry in row.entries[1:]] for row in shown.rows}
    assert rows["maximum", "CC-12M"] == ["42.3", "42.0 ± 2.0", "50.8", "53.0 ± 1.0", "3"]
    assert rows["average", "CC-12M"] == ["44.0", "–", "11.6", "–", "–"]
    assert rows["CLS", "CC-12M"] == ["46.0", "–", "4.0", "6.0 ± 1.4", "2"]
    assert rows["maximum", "HQITP-134M"] == ["59.0", "–", "50.1", "–", "–"]
    assert rows["top k", "CC-12M"] == ["–", "–", "–", "30.0", "1"]
    best = next(row for row in shown.rows if row.name == "maximum").entries
    assert (best[2].detail, best[2].differences) == ("−0.3 from the paper, within the spread", ())
    assert best[4].differences[0][1].said("the paper") == "+2.2 better than the paper"
    assert next(row for row in shown.rows if row.name == "CLS").entries[-1].detail == "1 more did not finish"


@pytest.mark.parametrize("number", [7, 8, 9, 10])
def test_the_shipped_studies_are_the_rows_of_the_papers_tables(number: int) -> None:
    study = load_study(f"paper-table{number}")
    (table,) = (table for table in paper_tables() if table.name == f"Table {number}")
    rows: list[tuple[dict[str, str], str | None]] = []
    for point in study.points():
        recipe = study.trial_recipe(point)
        rows.append((settings_of(recipe, table.rows[0].settings), data_name([recipe.data.urls])))
    for row in table.rows:
        assert rows.count((dict(row.settings), row.data)) == 3  # seeds
    assert len(rows) == 3 * len(table.rows)


def test_where_the_data_lie_elsewhere_the_base_tells_them(tmp_path: Path) -> None:
    results = ablate(tmp_path, [*seeds("cls", 0, 0.05), *seeds("max", 1, 0.5)], data={"url": "s3://bucket/pairs"})
    found = report(results).ablation
    assert found is not None
    assert [row.data for row in found.rows if row.trials] == ["CC-12M", "CC-12M"]


def test_numbers_of_another_benchmark_do_not_stand_beside_the_papers(tmp_path: Path) -> None:
    shapes = write_study(tmp_path, [*seeds("cls", 0, 0.05), *seeds("max", 1, 0.5)])
    assert report(shapes).ablation is None


@pytest.mark.parametrize(("field", "values"), [("optim.learning_rate", (1e-3, 2e-3)), ("train.steps", (20000, 21000))])
def test_a_study_that_varies_something_else_is_no_ablation_of_the_paper(
    tmp_path: Path, field: str, values: tuple[float, float]
) -> None:
    trials = [trial(i, {POOLING: "max", field: value}, 0.5) for i, value in enumerate(values)]
    assert report(ablate(tmp_path, trials)).ablation is None
