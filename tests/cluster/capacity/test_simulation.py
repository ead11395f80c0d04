"""The simulation: the closed form to the last bit without noise, slower with it, the same for the same seed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.capacity.plan import make_plan
from cluster.capacity.simulation import (
    Noise,
    Stream,
    noise_of,
    seconds_without_noise,
    simulate,
    simulate_run,
    stream_of,
)
from tests.cluster.capacity.settings import gpu_setting

LARGER = "model.image.arguments={patch_size: 16, embed_dim: 256, depth: 4, num_heads: 4}"
FEW, LARGE = ("scaling.decode_cores=40",), "hqitp,bytes=2.4e5,width=2300,height=1720"
seconds = st.floats(0.05, 3.0)


@settings(deadline=None, max_examples=60)
@given(
    workers=st.integers(1, 5),
    units=st.integers(1, 4),
    cores=st.integers(1, 12),
    read=seconds,
    decode=seconds,
    step=seconds,
    steps=st.integers(1, 10),
)
def test_without_noise_it_is_the_closed_form(
    workers: int, units: int, cores: int, read: float, decode: float, step: float, steps: int
) -> None:
    stream = Stream(workers, units, cores, read, decode, 0.0, 1, 0.0, step, window=10**9)
    assert simulate(stream, steps).ends[-1] == pytest.approx(seconds_without_noise(stream, steps), rel=1e-12)


@pytest.mark.parametrize(
    ("gpus", "overrides", "dataset", "bound"),
    [
        ("8xT4", (LARGER, "model.image.image_size=224"), "hqitp", "workers"),
        ("8xH100", (*FEW, "model.image.image_size=128"), f"{LARGE},group_rows=128", "decoding"),
        ("64xH100", FEW, "hqitp,group_rows=2048", "reading"),
        ("64xH100", (), "hqitp,group_rows=4096,prefixes=99", "network"),
        ("64xH100", ("model.image.image_size=16",), "hqitp,bytes=100,width=16,height=16", "storage requests"),
    ],
)
def test_its_speed_without_noise_is_the_plans_whatever_bounds_it(
    gpus: str, overrides: tuple[str, ...], dataset: str, bound: str
) -> None:
    setting = gpu_setting(gpus, *overrides, dataset=dataset)
    told = replace(setting.cluster, told_decode_cores=setting.recipe.scaling.decode_cores)
    plan = make_plan(replace(setting, cluster=told))
    assert plan.bound.name == bound
    stream = stream_of(plan)
    period = 2 * stream.cores if bound in ("decoding", "reading") else 40  # units come in rounds of the cores
    steps = max(1, period // stream.units_per_step)
    while steps * stream.units_per_step % period and bound in ("decoding", "reading"):
        steps += 1
    found = simulate(stream, 3 * steps + 10)
    slope = (found.ends[-1] - found.ends[-1 - steps]) / steps
    assert slope == pytest.approx(plan.step_interval, rel=1e-9)


def test_noise_slows_it_and_the_seed_decides() -> None:
    plan = make_plan(gpu_setting("16xH100"))
    stream, noise = stream_of(plan), noise_of(plan)
    calm = simulate(stream, 30).ends[-1]
    first, again, other = (simulate(stream, 30, noise, seed).ends for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert first[-1] > calm
    assert simulate(stream, 30, Noise(late_share=0.1, late_seconds=5.0), 1).ends[-1] > first[-1]


def test_a_slow_core_holds_up_a_stream_that_is_handed_over_in_order() -> None:
    stream = Stream(2, 2, 4, 0.0, 1.0, 0.0, 1, 0.0, 0.01, window=8)
    slow = simulate(stream, 40, Noise(slow_share=0.25, slow_times=3.0))
    assert slow.seconds_per_step(10) > 1.4 * simulate(stream, 40).seconds_per_step(10)
    assert slow.waited > 0.9 * slow.ends[-1] - slow.ends[0] - 40 * 0.01


def test_little_memory_holds_it_up_and_never_stops_it() -> None:
    roomy = Stream(2, 2, 4, 2.0, 0.5, 0.0, 1, 0.0, 1.0, window=100)
    narrow = replace(roomy, window=4)
    assert simulate(narrow, 20).ends[-1] > simulate(roomy, 20).ends[-1]
    assert len(simulate(narrow, 20).ends) == 20


def test_a_run_without_failures_is_its_steps_and_checkpoints() -> None:
    plan = make_plan(gpu_setting("8xH100", "checkpoint.every=100"))
    never = replace(plan.checkpoints, hours_between_failures=float("inf"), stall_seconds=0.5)
    run = simulate_run(replace(plan, checkpoints=never), 1050, 0.25)
    assert run == (run.__class__)(1050 * 0.25 + 10 * 0.5, 0, 0)


def test_failures_cost_what_is_expected_of_them() -> None:
    """Over many failures the time lost is near half an interval, the write and the restart for each."""
    plan = make_plan(gpu_setting("8xH100", "checkpoint.every=100"))
    often = replace(plan.checkpoints, hours_between_failures=2.0, stall_seconds=1.0, write_seconds=5.0, steps=100)
    run = simulate_run(replace(plan, checkpoints=often), 400_000, 1.0, seed=4)
    assert run.failures == pytest.approx(400_000 / 7200, rel=0.25)
    assert run.lost_steps / run.failures == pytest.approx(55, rel=0.3)
    restart = plan.setting.hardware.rates.restart_seconds.value
    explained = 400_000 + run.lost_steps + (400_000 + run.lost_steps) / 100 * 1.0 + run.failures * restart
    assert run.seconds == pytest.approx(explained, rel=0.001)
