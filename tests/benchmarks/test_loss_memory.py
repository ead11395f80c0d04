"""The benchmark of the loss's memory runs in small, and calculates rightly what it does not run."""

from __future__ import annotations

import importlib
import json
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "loss_memory.py"


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(PROGRAM.parent))
    return importlib.import_module("loss_memory")


@pytest.mark.skipif(find_spec("open_clip") is None, reason="needs open_clip_torch")
def test_measures_each_loss_and_checks_ours(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "")  # which the program sets
    arguments = ["--json", "--batches", "2048", "--ranks", "4", "--width", "16"]
    monkeypatch.setattr(sys, "argv", ["loss_memory.py", *arguments])
    program.main()
    result = json.loads(capsys.readouterr().out)
    assert max(result["relative_difference"].values()) < 1e-5
    assert all(case["measured"] and case["seconds"] > 0 for case in result["cases"])
    peaks = {case["loss"]: case["peak_bytes"] for case in result["cases"]}
    assert peaks["full"] > 3 * 4 * 2048**2  # three matrices at least
    assert peaks["ours"] < peaks["full"] / 2
    assert result["target"] is None


def test_what_is_not_run_is_calculated_and_the_calculation_checked(program: ModuleType) -> None:
    def case(batch: int, measured: bool = True) -> dict:
        return {"loss": "full", "ranks": 32, "batch": batch, "measured": measured, "peak_bytes": 7 * batch**2 + batch}

    series = [case(100), case(300), case(400), case(1000, measured=False)]
    assert program.calculated(series, 1000)["peak_bytes"] == 7 * 1000**2 + 1000
    assert program.calculated(series[:1], 1000)["peak_bytes"] is None
    assert program.calculation_error(series) == pytest.approx(0, abs=1e-9)
    series[2]["peak_bytes"] *= 2
    assert program.calculation_error(series) == pytest.approx(0.5)
    assert program.calculation_error(series[:3]) is None  # nothing was calculated
