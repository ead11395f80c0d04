"""The order of samples: every row once an epoch, whatever the worker count, and no row group read twice for nothing."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.plan import MAX_UNIT_BYTES, Part, Plan, unit_rows

SIZES = st.lists(st.sampled_from([0, 1, 3, 4, 4, 4, 4, 7, 8]), min_size=1, max_size=12).filter(any)
PARTS = st.builds(lambda sizes, digest: Part(np.array(sizes), digest), SIZES, st.text())
WEIGHTED = st.builds(
    lambda sizes, digest, weight: Part(np.array(sizes), digest, weight),
    SIZES,
    st.text(),
    st.sampled_from([0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 3.7]),
)
PLANS = st.builds(lambda part, seed: Plan([part], seed), PARTS, st.integers(0, 9))
MIXTURES = st.builds(Plan, st.lists(WEIGHTED, min_size=1, max_size=3), st.integers(0, 9))


def plan_of(sizes: np.ndarray, digest: str, seed: int) -> Plan:
    return Plan([Part(sizes, digest)], seed)


def sequence(plan: Plan, start: int, stop: int) -> list[tuple[int, int, int]]:
    """(dataset, row group, usable row) of each position."""
    return [(run.part, run.group, int(row)) for run in plan.rows(start, stop) for row in run.rows]


def everything(plan: Plan) -> set[tuple[int, int, int]]:
    return {
        (p, group, row)
        for p, part in enumerate(plan.parts)
        for group, rows in enumerate(part.usable_rows)
        for row in range(rows)
    }


@given(PLANS)
def test_each_epoch_has_each_row_once(plan: Plan) -> None:
    for epoch in range(3):
        rows = sequence(plan, epoch * plan.rows_per_epoch, (epoch + 1) * plan.rows_per_epoch)
        assert len(rows) == plan.rows_per_epoch
        assert set(rows) == everything(plan)


@given(MIXTURES)
def test_a_mixture_repeats_and_subsamples_exactly_as_stated(plan: Plan) -> None:
    epochs = 4
    seen = Counter(sequence(plan, 0, epochs * plan.rows_per_epoch))
    for p, part in enumerate(plan.parts):
        assert abs(part.rows_per_epoch - part.weight * part.rows_per_pass) <= 0.5 or part.rows_per_epoch == 1
        counts = [seen[key] for key in everything(plan) if key[0] == p]
        assert sum(counts) == epochs * part.rows_per_epoch
        assert max(counts) - min(counts) <= 1  # nobody comes up twice more than anybody else
        if part.weight == int(part.weight):
            for epoch in range(epochs):
                rows = Counter(sequence(plan, epoch * plan.rows_per_epoch, (epoch + 1) * plan.rows_per_epoch))
                assert {rows[key] for key in everything(plan) if key[0] == p} == {int(part.weight)}


@given(MIXTURES)
def test_repeats_of_a_row_are_told_apart_by_the_pass(plan: Plan) -> None:
    runs = plan.rows(0, 3 * plan.rows_per_epoch)
    visits = Counter((run.part, run.group, run.passes, int(row)) for run in runs for row in run.rows)
    assert max(visits.values()) == 1


def test_datasets_are_mixed_and_not_one_after_the_other() -> None:
    plan = Plan([Part(np.full(40, 8), "a"), Part(np.full(10, 8), "b", 2.0)], 0)
    halves = [[key[0] for key in sequence(plan, start, start + 240)].count(1) for start in (0, 240)]
    assert sum(halves) == 160
    assert min(halves) > 50


def test_a_mixture_depends_on_its_weights() -> None:
    def mixed(weight: float) -> str:
        return Plan([Part(np.full(4, 8), "a"), Part(np.full(4, 8), "b", weight)], 0).digest

    assert mixed(1.0) != mixed(2.0)
    assert Plan([Part(np.full(4, 8), "a")], 0).digest == "a"


@given(MIXTURES, st.data())
def test_any_part_is_a_slice_of_the_whole(plan: Plan, data: st.DataObject) -> None:
    end = 3 * plan.rows_per_epoch
    start = data.draw(st.integers(0, end))
    stop = data.draw(st.integers(start, end))
    assert sequence(plan, start, stop) == sequence(plan, 0, end)[start:stop]


@given(MIXTURES, st.sampled_from([4, 8, 16]), st.integers(0, 5))
def test_global_batches_are_the_same_sets_for_any_worker_count(plan: Plan, batch: int, step: int) -> None:
    def keys(workers: int) -> list[tuple[int, int, int]]:
        """What the workers hold at ``step``: units of equal size in turn, as the stream deals them."""
        unit = batch // workers
        units = range(step * workers, (step + 1) * workers)
        return [key for u in units for key in sequence(plan, u * unit, (u + 1) * unit)]

    # One epoch may be shorter than a batch, so a batch may hold a row twice: compare with multiplicity.
    assert sorted(keys(1)) == sorted(keys(2)) == sorted(keys(4))


@given(PLANS)
def test_full_row_groups_never_straddle_a_unit(plan: Plan) -> None:
    usual, rows = plan.usual_rows, plan.rows_per_epoch
    for epoch in range(3):
        units: dict[int, set[int]] = {}
        for i, (_, group, _) in enumerate(sequence(plan, epoch * rows, (epoch + 1) * rows)):
            units.setdefault(group, set()).add((epoch * rows + i) // usual)
        split = [g for g, seen in units.items() if plan.parts[0].usable_rows[g] == usual and len(seen) > 1]
        assert len(split) <= 1  # one may have to fill the joint between two epochs


def test_order_depends_on_data_seed_and_epoch() -> None:
    sizes = np.full(20, 16)
    plan = plan_of(sizes, "a", 0)
    first = sequence(plan, 0, 320)
    assert first == sequence(plan_of(sizes, "a", 0), 0, 320)
    others = [sequence(plan_of(sizes, digest, seed), 0, 320) for digest, seed in (("b", 0), ("a", 1))]
    others.append(sequence(plan, 320, 640))
    assert all(first != other for other in others)
    assert first[:16] != sorted(first[:16])  # rows are shuffled inside their group too


def test_order_is_fixed_for_ever() -> None:
    """A run resumed after an upgrade must go on where it was: these numbers may never change."""
    runs = plan_of(np.array([4, 4, 3]), "digest", 7).rows(9, 14)
    assert [(run.group, run.rows.tolist()) for run in runs] == [(2, [2, 1]), (2, [1]), (1, [1, 0])]


def test_resuming_late_costs_no_more_than_starting() -> None:
    plan = plan_of(np.full(1000, 100), "a", 0)
    assert len(plan.rows(10**15, 10**15 + 256)) <= 4


def test_a_dataset_without_usable_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="no usable row"):
        plan_of(np.array([0, 0]), "a", 0)


@given(st.integers(1, 5000), st.integers(1, 10**7))
def test_units_divide_the_batch_and_fit_a_block(rows_per_worker: int, bytes_per_row: int) -> None:
    rows = unit_rows(rows_per_worker, bytes_per_row)
    assert rows_per_worker % rows == 0
    assert rows == 1 or rows * bytes_per_row <= MAX_UNIT_BYTES
