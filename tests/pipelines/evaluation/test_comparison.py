"""Results beside each other and beside the paper's: the numbers, the warnings, and pages that hold anything as text."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clippy.config import ConfigError
from cluster.cli import main
from pipelines.evaluation.comparison.classes import class_lines, confused_pairs, confusion_shares
from pipelines.evaluation.comparison.compare import Comparison, compare
from pipelines.evaluation.comparison.data import as_csv, as_data
from pipelines.evaluation.comparison.find import FoundResult, find_results
from pipelines.evaluation.comparison.markdown import as_markdown
from pipelines.evaluation.comparison.numbers import difference, percent_text
from pipelines.evaluation.comparison.page import as_page
from pipelines.evaluation.comparison.pictures import Embedder, galleries
from pipelines.evaluation.comparison.write import write_comparison
from pipelines.evaluation.result import RESULT_FILE, SCHEMA, Picture, Result
from pipelines.storage import locate

PROTOCOL = {"background": "60 words", "input": "short side 448"}


def voc(checkpoint: str = "runs/mine/checkpoints/step-00000100", miou: float = 0.421, **changes: Any) -> Result:
    """A result on PASCAL VOC, of 20 % true background taken for cat and 50 % true cat taken for background."""
    result = Result(
        benchmark="voc",
        method="clippy",
        checkpoint=checkpoint,
        step=100,
        data="data/voc",
        protocol=PROTOCOL,
        images={"val": 1449},
        tables={
            "segmentation": {
                "model": {"mIoU": miou, "pixel accuracy": 0.7},
                "all background": {"mIoU": 0.035, "pixel accuracy": 0.733},
            },
            "grouping": {"model": {"Jaccard": 0.475}, "random partition": {"Jaccard": 0.163}},
        },
        per_class={"background": {"iou": 0.7, "count": 100}, "cat": {"iou": 0.25, "count": 40}},
        confusion=[[0, 0, 80], [0, 1, 20], [1, 0, 20], [1, 1, 20]],
    )
    return replace(result, **changes)


def waterbirds() -> Result:
    """A result with two answers of the model, whose gap of 12 points is worse than the paper's 2."""
    group = {"waterbird on land": 0.7, "waterbird on water": 0.82, "gap waterbird": 0.12}
    tables = {"groups": {"pooled": group, "patches": {**group, "gap waterbird": 0.01}}}
    return voc(benchmark="waterbirds", tables=tables, per_class={}, confusion=[], images={"test": 5794})


def shapes() -> Result:
    """A result on generated pictures, whose mIoU is not the paper's to be held against."""
    tables = {"segmentation": {"model": {"mIoU": 0.499}, "all background": {"mIoU": 0.261}}}
    return voc(benchmark="shapes", tables=tables, images={"multi": 400})


def found(*results: Result) -> list[FoundResult]:
    """Results as if read, without their pictures."""
    return [FoundResult(result, locate(f"results/{i}")) for i, result in enumerate(results)]


def compared(*results: Result, against: str = "CLIPpy, CC-12M") -> Comparison:
    return compare(found(*results), against)


def cell(comparison: Comparison, benchmark: str, number: str, label: str, answer: str = "model") -> dict[str, Any]:
    """What the data say of one number of one model."""
    (numbers,) = (b["numbers"] for b in as_data(comparison)["benchmarks"] if b["benchmark"] == benchmark)
    (line,) = (line for line in numbers if (line["answer"], line["number"]) == (answer, number))
    return line["values"][label]


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
        ({"images": {"val": 100}}, "B was measured on 100 val; the whole benchmark is 1,449 pictures."),
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


# Classes and pictures


def test_swapped_classes_show_in_the_confusion() -> None:
    names = {name: {"iou": 0.0, "count": 10} for name in ("cow", "horse", "absent")}
    result = voc(per_class=names, confusion=[[0, 1, 30], [0, 0, 10], [1, 0, 10], [9, 0, 1]])
    pairs = confused_pairs(result, most=2)
    assert [(pair.true, pair.predicted, pair.share) for pair in pairs] == [
        ("horse", "cow", 100.0),
        ("class 9", "cow", 100.0),
    ]
    shares = confusion_shares(result)
    np.testing.assert_allclose(shares[:2], [[25, 75, 0], [100, 0, 0]])
    assert np.isnan(shares[2]).all()


def test_classes_go_from_best_to_worst_and_absent_ones_are_left_out() -> None:
    per_class = {
        "cat": {"iou": 0.2, "count": 4},
        "dog": {"iou": 0.9, "count": 4},
        "cow": {"iou": float("nan"), "count": 0},
    }
    lines = class_lines("voc", {"A": found(voc(per_class=per_class))[0]})
    assert [(line.name, line.percents["A"], line.released) for line in lines] == [
        ("dog", pytest.approx(90), 60.5),
        ("cat", pytest.approx(20), 67.2),
    ]


def test_of_many_classes_the_best_and_the_worst_are_shown_and_the_rest_counted() -> None:
    per_class = {f"class number {i}": {"accuracy": i / 1000, "count": 50} for i in range(1000)}
    page = as_page(compared(voc(benchmark="imagenet", per_class=per_class, confusion=[])))
    assert page.count('<div class="class">') == 40
    assert "960 classes between these are left out." in page
    assert "class number 999" in page
    assert "class number 500" not in page


def drawn(folder: Path, size: tuple[int, int], **scores: float | None) -> FoundResult:
    """A result in a folder with a noisy picture of each name."""
    pictures = [Picture(f"{name}.png", score) for name, score in scores.items()]
    result = voc(pictures=pictures)
    (folder / "pictures").mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
    for picture in pictures:
        Image.fromarray(noise).save(folder / "pictures" / picture.file)
    result.write(locate(str(folder)))
    return FoundResult(result, locate(str(folder)))


def test_the_worst_pictures_are_failures_and_the_others_are_counted(tmp_path: Path) -> None:
    scores = {f"p{i:02}": i / 20 for i in range(20)}
    (gallery,) = galleries({"A": drawn(tmp_path, (8, 8), **scores, unknown=None)})
    assert [shown.name for shown in gallery.worst] == [f"p{i:02}.png" for i in range(6)]
    assert [shown.name for shown in gallery.best] == ["p19.png", "p18.png", "p17.png"]
    assert gallery.left_out == 21 - 9
    (few,) = galleries({"A": drawn(tmp_path / "few", (8, 8), a=0.1, b=0.9, c=0.5)})
    assert [shown.name for shown in few.worst + few.best] == ["a.png", "c.png", "b.png"]


def test_a_picture_stands_beside_the_same_of_another_model_and_questions_apart() -> None:
    first = [Picture("segmentation-val-worst-000007.png", 0.1, "", "segmentation", "worst")]
    other = [
        Picture("segmentation-val-best-000007.png", 0.9, "", "segmentation", "best"),
        Picture("grouping-val-best-000007.png", 0.6, "", "grouping", "best"),
    ]
    a, b = found(voc(pictures=first), voc("runs/other", pictures=other))
    segmentation, grouping = galleries({"A": a, "B": b})
    (both,) = segmentation.worst
    assert (list(both.drawn), both.score) == (["A", "B"], pytest.approx(0.5))
    assert [list(shown.drawn) for shown in grouping.worst] == [["B"]]


def test_pictures_are_made_smaller_and_those_beyond_the_bytes_are_counted(tmp_path: Path) -> None:
    result = drawn(tmp_path, (1500, 500), a=0.1, b=0.2, c=0.3)
    whole = Embedder(10_000_000).embed(result, result.result.pictures[0])
    assert whole is not None
    assert whole.startswith("data:image/jpeg;base64,")
    assert len(whole) < (tmp_path / "pictures" / "a.png").stat().st_size / 2
    embedder = Embedder(most_bytes=len(whole))  # base64 is a third longer: one fits, two do not
    assert [embedder.embed(result, picture) is None for picture in result.result.pictures] == [False, True, True]
    assert embedder.left_out == 2


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "..", "", "a\\b.png", "absent.png", "text.png"])
def test_only_pictures_of_the_result_itself_are_embedded(tmp_path: Path, name: str) -> None:
    result = drawn(tmp_path / "result", (8, 8), a=0.1)
    (tmp_path / "result" / "secret.png").write_bytes((tmp_path / "result" / "pictures" / "a.png").read_bytes())
    (tmp_path / "result" / "pictures" / "text.png").write_text("no picture")
    embedder = Embedder(10_000_000)
    assert embedder.embed(result, Picture(name, 0.1)) is None
    assert embedder.left_out == 1


def test_the_page_says_how_many_pictures_it_leaves_out(tmp_path: Path) -> None:
    result = drawn(tmp_path, (8, 8), **{f"p{i:02}": i / 20 for i in range(20)})
    (tmp_path / "pictures" / "p00.png").unlink()
    page = as_page(compare([result]))
    assert page.count("<img ") == 8
    assert "11 further pictures were drawn and are not shown." in page
    assert "Drawings left out, missing, broken or too large for this page: 1." in page


# The forms


class Page(HTMLParser):
    """Tags, addresses, ids and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            self.attributes.add(name)
            if name in ("src", "href", "srcset", "data", "action", "poster"):
                self.addresses.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_asks_for_nothing_from_outside(tmp_path: Path) -> None:
    page = as_page(compare([drawn(tmp_path, (300, 100), a=0.1, b=0.5), *found(waterbirds(), shapes())]))
    parsed = Page(page)
    assert any(address.startswith("data:image/") for address in parsed.addresses)
    for address in parsed.addresses:
        assert address.startswith("data:image/") or address.removeprefix("#") in parsed.ids
    assert len(parsed.ids) == len(set(parsed.ids))
    assert not parsed.tags & {"script", "link", "iframe", "object", "base", "form"}
    style = page[page.index("<style>") : page.index("</style>")]
    assert not re.search(r"url\(|@import|@font-face", style)
    assert "default-src 'none'" in page


HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>&amp;|`*_[a](http://b)\n\x00\ud800"


def hostile() -> Result:
    return voc(
        checkpoint=HOSTILE,
        benchmark=HOSTILE,
        method=HOSTILE,
        data=HOSTILE,
        protocol={HOSTILE: HOSTILE},
        images={HOSTILE: 3},
        tables={HOSTILE: {HOSTILE: {HOSTILE: 0.5}}},
        per_class={HOSTILE: {HOSTILE: 0.5, "count": 3}, "other": {HOSTILE: 0.2}},
        confusion=[[0, 1, 3], [-1, 7, 2]],
        pictures=[Picture(HOSTILE, 0.1, HOSTILE)],
    )


def test_whatever_a_result_says_is_text(tmp_path: Path) -> None:
    plain, odd = Page(as_page(compared(voc(), shapes(), waterbirds()))), Page(as_page(compared(hostile(), voc())))
    assert odd.tags <= plain.tags
    assert odd.attributes <= plain.attributes
    assert "<script>alert(1)</script>" in "".join(odd.words)
    for name in ("a.html", "a.md", "a.csv"):  # a lone surrogate is no reason to fail
        write_comparison(compared(hostile(), voc(protocol={HOSTILE: "b"})), str(tmp_path / name))
        assert (tmp_path / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("results", [(voc(), voc("runs/b"), waterbirds(), shapes()), (hostile(), hostile())])
def test_markdown_tables_are_well_formed(results: tuple[Result, ...]) -> None:
    text = as_markdown(compared(*results))
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(blocks) >= 3
    for lines in blocks:
        columns = {len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in lines}
        assert len(columns) == 1
        assert re.fullmatch(r"\|( --- \|)+", lines[1])
        assert all(line.startswith("| ") and line.endswith(" |") for line in lines)
    assert not re.search(r"(?<!\\)[<\[]", text)


def test_csv_has_one_line_a_number_ours_and_the_papers() -> None:
    text = as_csv(compared(voc("-runs/mine"), waterbirds()))
    rows = list(csv.DictReader(io.StringIO(text)))
    assert all(None not in row and None not in row.values() for row in rows)
    ours = [row for row in rows if row["source"] == "ours"]
    assert len(ours) == 4 + 2 + 6
    (row,) = (r for r in ours if (r["benchmark"], r["answer"], r["number"]) == ("voc", "model", "mIoU"))
    assert [float(row[name]) for name in ("percent", "paper_percent", "to_paper")] == [42.1, 50.8, -8.7]
    assert row["better_than_paper"] == "False"
    assert row["protocol"] == "background: 60 words; input: short side 448"
    papers = [r for r in rows if r["source"] == "Table 6"]
    assert {(r["system"], float(r["percent"])) for r in papers} >= {("CLIPpy", 50.8), ("GroupViT", 41.1)}
    odd = as_csv(compared(voc(tables={"=1+1": {"model": {"@x": 0.5}}})))
    assert "'=1+1" in odd  # else a spreadsheet computes it
    assert "'@x" in odd


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
