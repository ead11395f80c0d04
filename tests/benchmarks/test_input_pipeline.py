"""The benchmark of the input compares what ran side by side."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def program() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        return importlib.import_module("input_pipeline")


@given(speeds=st.lists(st.floats(0.5, 2), min_size=1, max_size=7))
def test_a_machine_whose_speed_wanders_from_round_to_round_changes_no_ratio(
    program: ModuleType, speeds: list[float]
) -> None:
    steady = {"limit": 1000.0, "ours": 900.0, "open_clip": 300.0, "ours_50ms": 810.0}
    figures = program.summarise({name: [rate * speed for speed in speeds] for name, rate in steady.items()})
    ratios = {name: value for name, value in figures.items() if "/" in name}
    assert ratios == {"ours/limit": 0.9, "ours/open_clip": 3.0, "ours_50ms/ours": 0.9}


def test_a_figure_is_the_median_of_its_rounds(program: ModuleType) -> None:
    assert program.summarise({"ours": [100.0, 400.0, 200.0]}) == {"ours": 200.0}


def test_what_comes_in_the_first_half_does_not_count(program: ModuleType) -> None:
    steady = [(10 + 0.1 * i, 25) for i in range(101)]
    slow = [(float(i), 25) for i in range(10)]
    assert program.loaders.steady_rate(slow + steady) == pytest.approx(250)
