"""The dealing of units: never far ahead of the decoding, and never stuck behind it."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from pipelines.deal import AHEAD_PER_CORE, Pace


@given(st.integers(1, 300), st.integers(0, 2000))
def test_the_dealing_is_a_few_units_a_core_ahead_of_the_decoding(cores: int, done: int) -> None:
    async def deal() -> tuple[int, int]:
        pace = Pace(cores)
        first = await pace.allowed(0)
        for _ in range(done):
            await pace.done()
        return first, await pace.allowed(0)

    first, later = asyncio.run(deal())
    assert cores <= first <= AHEAD_PER_CORE * cores
    assert later == done + first


@given(st.integers(1, 8), st.integers(1, 200))
def test_a_plan_of_any_length_is_dealt_to_its_end_while_units_are_decoded(cores: int, units: int) -> None:
    async def deal() -> None:
        pace, dealt, done = Pace(cores), 0, 0
        while dealt < units:
            allowing = asyncio.create_task(pace.allowed(dealt))
            await asyncio.sleep(0)
            while not allowing.done():
                assert done < dealt, "nothing is dealt, nothing is left to decode: stuck"
                await pace.done()
                done += 1
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            dealt = min(allowing.result(), units)

    asyncio.run(asyncio.wait_for(deal(), timeout=10))
