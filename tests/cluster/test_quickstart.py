"""The whole path in one call, with a model too small to learn anything, and again."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from cluster.quickstart import quickstart
from pipelines.shapes import generate
from tests.conftest import ALONE, SMALL_SHAPES, TINY


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_quickstart_goes_from_nothing_to_a_report_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # as on the command line, in a folder that Ray's workers are not in
    monkeypatch.setattr("cluster.quickstart.generate", partial(generate, **SMALL_SHAPES))  # not the thousands of scenes
    overrides = [*TINY, *ALONE, "train.steps=4", "eval.pictures=2"]
    first = quickstart("here", overrides)
    assert first.summary["status"] == "finished"
    for name in ("object accuracy", "mIoU things", "Jaccard, grouping in camouflage", "report.html"):
        assert name in first.as_text()
    page = Path(first.report)
    assert page.read_text().count("<img") == len(first.evaluation["pictures"]) == 5 * 2
    scenes = {path: path.stat().st_mtime_ns for path in (tmp_path / "here" / "data").rglob("*.parquet")}

    again = quickstart("here", overrides)
    assert again.summary["resumed_from"] == 4
    assert again.evaluation["tables"] == first.evaluation["tables"]
    assert {path: path.stat().st_mtime_ns for path in scenes} == scenes
