"""The dealing of units: never far ahead of the decoding, and never stuck behind it."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from pipelines.deal import MOST_AHEAD, Pace


@given(st.integers(0, 3000), st.integers(1, 3000))
def test_a_unit_a_core_at_first_and_a_thousand_ahead_at_most(done: int, more: int) -> None:
    async def deal() -> list[int]:
        pace = Pace(cores=4)
        found = [await pace.allowed(0)]
        for count in (done, more):
            for _ in range(count):
                await pace.done()
            found.append(await pace.allowed(0))
        return found

    first, second, third = asyncio.run(deal())
    assert first == 4
    assert done < second <= done + MOST_AHEAD
    assert done + more < third <= done + more + MOST_AHEAD
    assert third > second


def test_who_dealt_all_that_is_allowed_waits_for_the_next_decoded_unit() -> None:
    async def deal() -> tuple[bool, int]:
        pace = Pace(cores=32)
        waiting = asyncio.create_task(pace.allowed(32))
        await asyncio.sleep(0.01)
        waited = not waiting.done()
        await pace.done()
        return waited, await asyncio.wait_for(waiting, timeout=5)

    waited, allowed = asyncio.run(deal())
    assert waited
    assert allowed > 32
