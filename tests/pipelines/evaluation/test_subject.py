"""Where the numbers of an evaluation go unless that is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.evaluation.protocol import PROTOCOLS, choose_protocol
from pipelines.evaluation.subject import Subject
from pipelines.run_folder import RunFolder
from pipelines.storage import locate
from pipelines.targets import FoundModel


def subject(folder: Path, in_run: bool = True) -> Subject:
    run = RunFolder(locate(str(folder)))
    return Subject(FoundModel("model", 7, None), run if in_run else None, None)


def test_results_of_a_run_lie_by_step_and_benchmark_unless_told(tmp_path: Path) -> None:
    found = subject(tmp_path).output_folder(None, "voc", PROTOCOLS["paper"], "patches", "/data/voc", "val")
    assert found.path == f"{tmp_path}/evaluation/step-00000007/voc"
    told = str(tmp_path / "out")
    assert subject(tmp_path).output_folder(told, "voc", PROTOCOLS["paper"], "patches", "/data/voc").path == told
    with pytest.raises(ValueError, match="lies in no run folder; say where"):
        subject(tmp_path, in_run=False).output_folder(None, "voc", PROTOCOLS["paper"], "patches", "/data/voc")


def test_results_that_differ_in_protocol_split_or_own_pictures_lie_apart(tmp_path: Path) -> None:
    def name(benchmark: str, url: str, split: str | None = None, protocol: str = "paper") -> str:
        chosen = choose_protocol(protocol, benchmark)
        return subject(tmp_path).output_folder(None, benchmark, chosen, "patches", url, split).path

    asked = [("voc", "/a"), ("voc", "/a", "train"), ("voc", "/a", None, "tcl"), ("folder", "/a"), ("folder", "/b")]
    assert len({name(*one) for one in asked}) == len(asked)
    assert name("voc", "/a") == name("voc", "/b", "val")  # there is but one of it, wherever it lies
