"""Results beside each other and beside the paper's: the numbers and the warnings."""

from __future__ import annotations

import csv
import io
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clippy.config import ConfigError
from pipelines.evaluation.comparison.data import as_csv, as_data
from pipelines.evaluation.comparison.markdown import as_markdown
from pipelines.evaluation.comparison.numbers import difference, percent_text
from pipelines.evaluation.comparison.page import as_page
from pipelines.evaluation.result import Result
from tests.pipelines.evaluation.comparison_results import PROTOCOL, cell, compared, shapes, voc, waterbirds

# Numbers


def test_ours_stand_beside_the_papers_in_percent() -> None:
    comparison = compared(voc(), voc("runs/other", 0.471))
    ours = cell(comparison, "voc", "mIoU", "A")
    assert ours["percent"] == pytest.approx(42.1)
    assert ours["to_paper"] == pytest.approx(42.1 - 50.8)
    assert ours["better_than_paper"] is False
    assert ours["to_first"] is None
    other = cell(comparison, "voc", "mIoU", "B")
    assert (other["to_paper"], other["to_first"]) == (pytest.approx(-3.7), pytest.approx(5.0))
    assert other["better_than_first"] is True
    same = cell(comparison, "voc", "Jaccard", "A")
    assert (same["to_paper"], same["better_than_paper"]) == (pytest.approx(0), None)


def test_of_a_gap_less_is_better() -> None:
    comparison = compared(waterbirds())
    pooled, patches = (cell(comparison, "waterbirds", "gap waterbird", "A", answer) for answer in ("pooled", "patches"))
    assert (pooled["to_paper"], pooled["better_than_paper"]) == (pytest.approx(10), False)
    assert (patches["to_paper"], patches["better_than_paper"]) == (pytest.approx(-1), True)
    assert "+10.0 worse" in as_markdown(comparison)
    assert "−1.0 better" in as_markdown(comparison)


def test_trivial_answers_are_not_held_against_the_papers() -> None:
    trivial = cell(compared(voc()), "voc", "mIoU", "A", "all background")
    assert trivial["percent"] == pytest.approx(3.5)
    assert trivial["to_paper"] is None


def test_our_rows_stand_in_the_papers_tables_against_its_own_row() -> None:
    tables = {table["name"]: table for table in as_data(compared(voc(miou=0.518)))["tables"]}
    assert "Table 2" not in tables  # nothing of ours is on ImageNet
    (row,) = tables["Table 6"]["ours"]
    assert [bool(cell) for cell in row["cells"]] == [False, False, True, False]
    assert row["cells"][2]["to_paper"] == pytest.approx(51.8 - 50.8)
    (row,) = tables["Table 10"]["ours"]  # there the same system has 50.9
    assert row["cells"][1]["to_paper"] == pytest.approx(51.8 - 50.9)


def test_another_row_of_the_paper_may_be_the_reference() -> None:
    comparison = compared(voc(), against="CLIP-dagger, HQITP-134M")
    assert cell(comparison, "voc", "mIoU", "A")["to_paper"] == pytest.approx(42.1 - 18.1)
    with pytest.raises(ConfigError, match=r"'CLIP, everything' is no row.*CLIPpy, CC-12M"):
        compared(voc(), against="CLIP, everything")


def test_one_checkpoint_is_one_model_on_several_benchmarks_and_another_under_another_protocol() -> None:
    other = voc(protocol={"background": "threshold 0.95", "input": "short side 448"})
    comparison = compared(voc(), waterbirds(), other, voc(method="maskclip"))
    assert [sorted(model.results) for model in comparison.models] == [["voc", "waterbirds"], ["voc"], ["voc"]]
    assert [model.name for model in comparison.models] == ["mine, clippy", "mine, clippy", "mine, maskclip"]


def test_results_join_those_under_their_protocol() -> None:
    def under(name: str, benchmark: str) -> Result:
        return voc(benchmark=benchmark, protocol={"name": name})

    comparison = compared(
        under("paper", "ade20k"), under("tcl", "ade20k"), under("tcl", "voc"), under("shapes", "shapes")
    )
    assert [(model.name, sorted(model.results)) for model in comparison.models] == [
        ("mine, paper protocol", ["ade20k", "shapes"]),
        ("mine, tcl protocol", ["ade20k", "voc"]),
    ]


def test_trivial_answers_that_agree_are_told_once() -> None:
    def random_partition(jaccard: float) -> dict[str, Any]:
        return {"grouping": {"model": {"Jaccard": 0.5}, "random partition": {"Jaccard": jaccard}}}

    results = [voc(f"runs/{i}", tables=random_partition(jaccard)) for i, jaccard in enumerate((0.163, 0.163, 0.2))]
    lines = [line for line in as_markdown(compared(*results)).splitlines() if line.startswith("| random")]
    assert lines == ["| random partition, for A, B | 16.3 |", "| random partition, for C | 20.0 |"]


def test_what_is_not_defined_is_a_dash_and_no_difference() -> None:
    comparison = compared(voc(miou=float("nan")), voc("runs/other"))
    assert cell(comparison, "voc", "mIoU", "A")["percent"] is None
    assert cell(comparison, "voc", "mIoU", "B")["to_first"] is None
    json.dumps(as_data(comparison), allow_nan=False)
    assert "nan" not in as_page(comparison).lower()
    assert percent_text(float("nan")) == "–"


@given(st.floats(-100, 100), st.floats(-100, 100))
def test_a_difference_turned_around_is_its_opposite(a: float, b: float) -> None:
    there, back = difference(a, b, "mIoU"), difference(b, a, "mIoU")
    gap = difference(a, b, "gap waterbird")
    assert there is not None
    assert back is not None
    assert gap is not None
    assert there.points == -back.points == gap.points
    if abs(a - b) < 0.05:
        assert there.better is back.better is gap.better is None
    else:
        assert there.better is not back.better
        assert there.better is not gap.better
    assert re.fullmatch(r"[+−]\d+\.\d (better|worse)|±0\.0 same", there.said())


# Warnings


def test_alike_results_bring_no_warning() -> None:
    comparison = compared(voc(), voc("runs/other"))
    assert comparison.warnings == []
    assert "⚠" not in as_page(comparison)
    assert "⚠" not in as_markdown(comparison)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"protocol": {**PROTOCOL, "background": "threshold 0.95"}}, "different protocols; they differ in background."),
        ({"protocol": {"background": "60 words"}}, "different protocols; they differ in input."),
        ({"images": {"val": 100}}, "different pictures (A on 1,449 val; B on 100 val)."),
        ({"images": {"val": 100}}, "B was measured on 100 val; the whole benchmark is 1,449 val pictures."),
        ({"per_class": {"cat": {"iou": 0.2, "count": 40}}}, "different lists of classes (A on 2; B on 1)."),
    ],
)
def test_results_that_were_not_measured_alike_are_warned_of(changes: dict[str, Any], said: str) -> None:
    comparison = compared(voc(), voc("runs/other", **changes))
    assert any(said in warning for warning in comparison.warnings)
    for shown in (as_page(comparison), as_markdown(comparison).replace("\\", "")):
        assert said in shown
    rows = list(csv.DictReader(io.StringIO(as_csv(comparison))))
    alike = {row["protocol_alike"] for row in rows if row["source"] == "ours"}
    assert alike == {str("classes" in said)}


def test_another_sample_of_the_same_size_is_not_held_against_the_papers_unmarked() -> None:
    usual, easier = (
        voc(benchmark="imagenet-v2", tables={"classification": {"model": {"top-1": 0.4}}}, images={sample: 10_000})
        for sample in ("matched-frequency", "top-images")
    )
    assert compared(usual).warnings == []
    (warning,) = compared(easier).warnings
    assert "measured on 10,000 top-images; the whole benchmark is 10,000 matched-frequency pictures" in warning
    assert "⚠ not all of the usual pictures" in as_page(compared(easier))


def test_the_protocol_stands_beside_the_numbers() -> None:
    page = as_page(compared(voc()))
    for part in re.findall(r'<section id="table-\d.*?</section>', page, re.DOTALL):
        assert (
            "A on PASCAL VOC 2012: pictures measured: 1,449 val; background: 60 words; input: short side 448." in part
        )
    assert page.count("60 words") > 1


# Generated pictures


def test_on_generated_pictures_no_number_of_the_paper_is_shown() -> None:
    comparison = compared(shapes())
    assert as_data(comparison)["tables"] == []
    for shown in (as_page(comparison), as_markdown(comparison), as_csv(comparison)):
        assert not re.search(r"50\.8|Table \d|CC-12M", shown)
    assert cell(comparison, "shapes", "mIoU", "A")["to_paper"] is None


def test_no_table_holds_both_generated_pictures_and_the_papers_numbers() -> None:
    page = as_page(compared(voc(), shapes()))
    tables = re.findall(r"<table.*?</table>", page, re.DOTALL)
    ours, papers = ([t for t in tables if mark in t] for mark in ("49.9", "50.8"))
    assert ours
    assert papers
    assert not set(ours) & set(papers)
