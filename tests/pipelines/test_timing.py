"""Where a step's time goes: each moment in one phase, and words for the phase that bounds a run."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from pipelines import timing
from pipelines.bounds import verdict
from pipelines.recipe import Recipe, load_recipe
from pipelines.timing import PHASES, StepTimer


def test_a_phase_inside_another_takes_its_time_from_that_one(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: clock))
    timer = StepTimer(torch.device("cpu"))
    with timer("backward"):
        clock += 20
        with timer("communication"):
            clock += 50
        clock += 7
        timer.turn("communication")
        clock += 30
    clock += 10
    expected = {"backward": 27, "communication": 80, "other": 10}
    assert timer.take() == dict.fromkeys(PHASES, 0) | expected
    assert timer.take() == dict.fromkeys(PHASES, 0)


@pytest.fixture
def recipe() -> Recipe:
    return load_recipe("shapes")


@pytest.mark.parametrize(
    ("phases", "words"),
    [
        ({"data_wait": 0.3, "forward": 0.7}, "decoding is slow (training waits for data 30% of the time)"),
        ({"checkpoint": 0.1, "backward": 0.9}, "checkpoints are the limit, 10% of the time: raise checkpoint.every"),
        ({"communication": 0.4, "backward": 0.6}, "waiting for the other workers is the limit, 40% of the time"),
        ({"optimizer": 0.5, "backward": 0.5}, "the optimizer is the limit, 50% of the time"),
        ({"forward": 0.4, "backward": 0.6}, "the model is the limit: forward 40%, backward 60% of the time"),
    ],
)
def test_what_takes_most_is_said_with_the_field_to_change(phases: dict[str, float], words: str, recipe: Recipe) -> None:
    assert words in verdict(dict.fromkeys(PHASES, 0.0) | phases, recipe, "decoding is slow")
