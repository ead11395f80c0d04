"""``clippy search`` on a user's pictures: ranks, contact sheets, and every mistake."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from clippy.load import load_model
from clippy.search import Search
from cluster.cli import main
from tests.cluster.test_use import Run, model, photos, run

__all__ = ["model", "photos", "run"]


@pytest.mark.parametrize(
    ("arguments", "regions"), [([], None), (["--regions"], "groups"), (["--regions", "windows"], "windows")]
)
def test_hits_are_those_of_the_library(
    run: Run, model: Path, photos: Path, arguments: list[str], regions: str | None
) -> None:
    phrases = ["a dax on sand", "wug"]
    asked = [argument for phrase in phrases for argument in ("--phrase", phrase)]
    result = run("search", model, "photos", *asked, "--top", 2, "--size", 48, *arguments)
    assert (result["model"], result["regions"], result["size"]) == (str(model), regions, 48)
    search = Search(load_model(model), phrases, regions, top=2, size=48)  # type: ignore[arg-type]
    for name in ("photos/B.webp", "photos/a.png", "photos/b.jpg"):
        search.look(name, Path(name))
    for answer, phrase, hits in zip(result["phrases"], phrases, search.hits(), strict=True):
        assert (answer["phrase"], answer["sheet"]) == (phrase, None)
        assert [hit["image"] for hit in answer["hits"]] == [hit.name for hit in hits]
        assert [hit["cosine"] for hit in answer["hits"]] == pytest.approx([hit.cosine for hit in hits], abs=1e-6)
        assert [hit["box"] and tuple(hit["box"]) for hit in answer["hits"]] == [hit.box for hit in hits]
    assert sorted(path.name for path in Path().iterdir()) == ["photos"]


def test_each_phrase_gets_a_sheet(run: Run, model: Path, photos: Path) -> None:
    phrases = ["A dax, on sand!", "a dax on sand", "…"]
    asked = [argument for phrase in phrases for argument in ("--phrase", phrase)]
    result = run("search", model, "photos", *asked, "--regions", "--out", "found")
    sheets = ["found/a-dax-on-sand.png", "found/a-dax-on-sand-2.png", "found/phrase.png"]
    assert [answer["sheet"] for answer in result["phrases"]] == sheets
    assert sorted(map(str, Path("found").iterdir())) == sorted(sheets)
    for answer in result["phrases"]:
        columns = min(5, len(answer["hits"]))
        assert Image.open(answer["sheet"]).width == columns * 272


def test_people_read_a_ranking(model: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", str(model), "photos/a.png", "photos/b.jpg", "--phrase", "dax", "--out", "o"]) == 0
    phrase, *hits, sheet = capsys.readouterr().out.splitlines()
    assert (phrase, sheet) == ("dax", "  o/dax.png")
    assert sorted(line.split()[0] for line in hits) == ["1", "2"]
    assert sorted(line.split()[2] for line in hits) == ["photos/a.png", "photos/b.jpg"]
    assert main(["search", str(model), "photos/a.png", "--phrase", "dax", "--regions", "--top", "1"]) == 0
    assert "photos/a.png  [" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--phrase", " "], "--phrase: number 1 of 1 is blank"),
        (["--phrase", "dax", "--phrase", "dax"], "--phrase: 'dax' comes more than once"),
        (["--phrase", "dax", "--top", "0"], "--top: must be at least 1 (got 0)"),
        (["--phrase", "dax", "--size", "4"], "--size: must be from 8, one patch of this model, to 2048 pixels (got 4)"),
        (["--phrase", "a", "--out", "photos"], "--out: photos/a.png is one of the pictures and would be lost"),
        (["--phrase", "dax", "--out", "photos/notes.txt"], "photos/notes.txt is no folder; name another place"),
    ],
)
def test_mistakes_are_one_sentence(
    model: Path, photos: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    assert main(["search", str(model), "photos/a.png", *arguments]) == 2
    printed = capsys.readouterr()
    assert sentence in printed.err
    assert printed.err.count("clippy: ") == 1
    assert printed.out == ""
