"""``clippy compare``: results are found, and what is none is one sentence."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.cli import main
from pipelines.evaluation.comparison.find import find_results
from pipelines.evaluation.result import RESULT_FILE, SCHEMA
from pipelines.storage import locate
from tests.pipelines.evaluation.comparison_results import shapes, voc, waterbirds

# Finding results, and the command


def test_results_are_found_by_file_folder_and_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for name, result in {"voc": voc(), "waterbirds": waterbirds()}.items():
        result.write(locate(str(run / "evaluation" / "step-00000100" / name)))
    shapes().write(locate(str(tmp_path / "alone")))
    by_run = [one.result.benchmark for one in find_results([str(run)])]
    assert by_run == ["voc", "waterbirds"]
    file = run / "evaluation" / "step-00000100" / "voc" / RESULT_FILE
    again = find_results([str(file), str(file.parent), str(run), str(tmp_path / "alone")])
    assert [one.result.benchmark for one in again] == ["voc", "waterbirds", "shapes"]


def test_what_is_not_defined_is_null_in_json_and_comes_back(tmp_path: Path) -> None:
    tables = {"segmentation": {"model": {"mIoU": float("nan"), "pixel accuracy": 0.5}}}
    result = voc(tables=tables, per_class={"cat": {"iou": float("nan"), "count": 0}})
    json.dumps(result.as_dict(), allow_nan=False)
    result.write(locate(str(tmp_path)))
    assert "NaN" not in (tmp_path / RESULT_FILE).read_text()
    (back,) = find_results([str(tmp_path)])
    assert math.isnan(back.result.tables["segmentation"]["model"]["mIoU"])
    assert math.isnan(back.result.per_class["cat"]["iou"])
    assert back.result.tables["segmentation"]["model"]["pixel accuracy"] == 0.5


def test_results_on_object_storage_are_found(s3: str) -> None:
    voc().write(locate("s3://bucket/compare/run/evaluation/step-00000100/voc"))
    assert [one.result.benchmark for one in find_results(["s3://bucket/compare/run"])] == ["voc"]


def test_the_command_writes_a_page_and_prints_the_same_as_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    voc().write(locate("one"))
    assert main(["compare", "one", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["page"] == "comparison.html"
    assert values["benchmarks"][0]["numbers"][0]["values"]["A"]["to_paper"] == pytest.approx(-8.7)
    assert (tmp_path / "comparison.html").read_text().startswith("<!DOCTYPE html>")
    for name, start in (("a.md", "# "), ("a.csv", "source,")):
        assert main(["compare", "one", "--out", name]) == 0
        assert (tmp_path / name).read_text().startswith(start)
    assert "PASCAL VOC 2012, mIoU, segmentation  50.8   42.1; −8.7 worse than paper" in capsys.readouterr().out


def edited(change: Callable[[dict[str, Any]], Any]) -> str:
    values = voc().as_dict()
    return json.dumps(change(values) or values)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no evaluation.json lies here or below; write one with: clippy evaluate"),
        ("{", "not the result of an evaluation"),
        ("[]", "not the result of an evaluation"),
        (edited(lambda values: values.update(schema=SCHEMA - 1)), "schema 1; evaluate anew"),
        (edited(lambda values: values.pop("tables") and None), "not the result of an evaluation (tables: "),
        (
            edited(lambda values: values["tables"]["segmentation"]["model"].update(mIoU="high")),
            "(tables.segmentation.model.mIoU: ",
        ),
        (edited(lambda values: values.update(confusion=[["a", 1, 2]])), "(confusion.0.0: "),
    ],
)
def test_what_is_no_result_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, said: str
) -> None:
    if content is not None:
        (tmp_path / RESULT_FILE).write_text(content)
    assert main(["compare", str(tmp_path), "--out", str(tmp_path / "a.html")]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert str(tmp_path) in error
    assert "Traceback" not in error
    assert len(error.strip().splitlines()) == 2  # the place, and what is wrong with it
    assert not (tmp_path / "a.html").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--out", "a.txt"], "'a.txt' must end in one of .html, .md, .csv"),
        (["--against", "BLIP"], "'BLIP' is no row of the paper's tables"),
    ],
)
def test_a_wrong_option_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    voc().write(locate(str(tmp_path)))
    assert main(["compare", str(tmp_path), *options]) == 2
    assert said in capsys.readouterr().err


def test_a_missing_file_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(tmp_path / "nothing" / RESULT_FILE)]) == 2
    assert "no evaluation lies here" in capsys.readouterr().err
