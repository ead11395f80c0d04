"""Classes, pictures and the forms of a comparison, which hold anything as text."""

from __future__ import annotations

import csv
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.evaluation.comparison.classes import class_lines, confused_pairs, confusion_shares
from pipelines.evaluation.comparison.compare import compare
from pipelines.evaluation.comparison.data import as_csv
from pipelines.evaluation.comparison.find import FoundResult
from pipelines.evaluation.comparison.markdown import as_markdown
from pipelines.evaluation.comparison.page import as_page
from pipelines.evaluation.comparison.pictures import Embedder, galleries
from pipelines.evaluation.comparison.write import write_comparison
from pipelines.evaluation.result import Picture, Result
from pipelines.storage import locate
from tests.pipelines.evaluation.comparison_results import compared, found, shapes, voc, waterbirds

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
