"""Who takes which rows of a global batch: each row once, in micro-batches that do not depend on the workers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipelines.layout import FILLER, Layout

SIZES = st.tuples(st.integers(1, 24), st.integers(1, 4), st.integers(1, 9))


@given(SIZES, st.integers(0, 50))
def test_every_unit_of_a_batch_goes_to_one_worker_once(sizes: tuple[int, int, int], batch: int) -> None:
    micro_batches, units, workers = sizes
    layout = Layout(micro_batches * units, units, workers)
    taken = [layout.units(batch, rank) for rank in range(workers)]
    first = batch * layout.units_per_batch
    in_order = [unit for worker in taken for unit in worker if unit != FILLER]
    assert in_order == list(range(first, first + layout.units_per_batch))
    assert {len(worker) for worker in taken} == {layout.units_per_worker}
    filler = sum(worker.count(FILLER) for worker in taken)
    assert filler < workers * units
    assert filler % units == 0


@given(SIZES, st.integers(0, 50), st.integers(0, 5), st.integers(1, 9))
def test_blocks_dealt_in_turn_are_each_workers_own(
    sizes: tuple[int, int, int], first: int, batches: int, units_per_block: int
) -> None:
    micro_batches, units, workers = sizes
    layout = Layout(micro_batches * units, units, workers)
    dealt = list(layout.dealt(first, first + batches, units_per_block))
    for rank in range(workers):
        expected = [unit for batch in range(first, first + batches) for unit in layout.units(batch, rank)]
        assert [unit for block in dealt[rank::workers] for unit in block] == expected
    assert all(len(block) == units_per_block for block in dealt[:-workers])
    assert len({len(block) for block in dealt[-workers:]}) <= 1  # or Ray Data would cut one to make them even


@given(SIZES)
def test_micro_batches_are_the_same_for_any_number_of_workers(sizes: tuple[int, int, int]) -> None:
    micro_batches, units, workers = sizes

    def cut(world_size: int) -> list[tuple[int, ...]]:
        layout = Layout(micro_batches * units, units, world_size)
        taken = [unit for rank in range(world_size) for unit in layout.units(0, rank)]
        return [tuple(taken[i : i + units]) for i in range(0, len(taken), units) if taken[i] != FILLER]

    assert cut(workers) == cut(1)
