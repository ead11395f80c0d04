"""Where a step's time goes: each moment in one phase, and words for the phase that bounds a run."""

from __future__ import annotations

import time

import pytest
import torch

from pipelines.bounds import verdict
from pipelines.recipe import Recipe, load_recipe
from pipelines.timing import PHASES, StepTimer


def test_a_phase_inside_another_takes_its_time_from_that_one() -> None:
    timer = StepTimer(torch.device("cpu"))
    started = time.perf_counter()
    with timer("backward"):
        time.sleep(0.02)
        with timer("communication"):
            time.sleep(0.05)
        time.sleep(0.02)
        timer.turn("communication")
        time.sleep(0.03)
    time.sleep(0.01)
    whole = time.perf_counter() - started
    seconds = timer.take()
    assert seconds["backward"] == pytest.approx(0.04, abs=0.02)
    assert seconds["communication"] == pytest.approx(0.08, abs=0.02)
    assert sum(seconds.values()) == pytest.approx(whole, abs=0.005)
    assert timer.take()["communication"] == 0


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
