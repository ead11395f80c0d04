"""Rates from measurements: exact where they explain them exactly, never below zero, and found for real pictures."""

from __future__ import annotations

import numpy as np
import pytest

from clippy.images import decode_image, read_header
from cluster.capacity.calibration import fit
from cluster.capacity.measure import PAIRS, decode_costs, picture, step_seconds_here, synthetic_batch
from cluster.capacity.step import model_step
from pipelines.recipe import load_recipe
from tests.cluster.capacity.settings import TINY


def test_rates_that_explain_everything_are_found() -> None:
    features = [(1.0, 50.0, 3.0), (10.0, 2.0, 1.0), (4.0, 4.0, 9.0), (7.0, 7.0, 7.0)]
    rates = [0.5, 0.02, 0.1]
    seconds = [sum(f * r for f, r in zip(row, rates, strict=True)) for row in features]
    assert fit(features, seconds) == pytest.approx(rates)


def test_no_rate_is_below_zero() -> None:
    """The second feature makes things faster, which no cost does: it is left out."""
    assert fit([(1.0, 0.0), (1.0, 1.0), (2.0, 3.0)], [1.0, 0.9, 1.7]) == pytest.approx([0.93, 0.0], abs=0.05)


def test_pictures_to_measure_with_are_pictures() -> None:
    header = read_header(picture(320, 240, 1))
    assert (header.width, header.height, header.format) == (320, 240, "JPEG")
    assert decode_image(picture(320, 240, 1), 64).std() > 20
    assert picture(64, 64, 1) == picture(64, 64, 1) != picture(64, 64, 2)


def test_decoding_is_measured_in_what_a_plan_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.capacity.measure._PICTURES", ((64, 64), (160, 120), (320, 240)))
    costs = decode_costs()
    rates = fit([amounts for amounts, _ in costs], [seconds for _, seconds in costs])
    assert all(rate >= 0 for rate in rates)
    per_byte, per_pixel = rates[:2]
    assert [amounts[4] > 0 for amounts, _ in costs[:3]] == [False, True, True]  # 64 pixels at 64, 224 and 448
    assert 1e-9 < per_byte + per_pixel < 1e-7
    explained = [float(np.dot(amounts, rates)) / seconds for amounts, seconds in costs]
    assert float(np.median(explained)) == pytest.approx(1, abs=0.25)


def test_a_step_is_measured_as_it_is_planned() -> None:
    recipe = load_recipe("shapes", [*TINY, "optim.global_batch_size=8", "scaling.num_workers=1"])
    batch, lengths = synthetic_batch(recipe, PAIRS), model_step(recipe, PAIRS, 1).passes.rows
    assert batch.pixels.shape == (lengths, 64, 64, 3)
    tokens = (batch.ids != 0).sum(axis=1)
    assert sorted(tokens)[4] == pytest.approx(28, abs=4)
    assert 0 < step_seconds_here(recipe, PAIRS, threads=1) < 10
