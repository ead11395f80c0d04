"""Numbers as a person reads them."""

from __future__ import annotations

import pytest

from pipelines.inspection.units import bytes_text, percent, share_text, short_number


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"),
        (812, "812 B"),
        (1024, "1 KiB"),
        (3.14 * 2**20, "3.1 MiB"),
        (431 * 2**30, "431 GiB"),
        (5000 * 2**40, "5000 TiB"),
    ],
)
def test_bytes(number: float, text: str) -> None:
    assert bytes_text(number) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0 %"), (1, "100 %"), (0.12, "12 %"), (0.031, "3.1 %"), (0.0001, "< 0.1 %"), (0.9999, "99.9 %")],
)
def test_shares_never_round_to_none_or_all(share: float, text: str) -> None:
    assert percent(share) == text
    assert share_text(1, 0) == "-"


@pytest.mark.parametrize(
    ("number", "text"),
    [(64, "64"), (1.5, "1.5"), (209.8, "210"), (2000, "2k"), (1024, "1024"), (16384, "16384"), (131072, "131k")],
)
def test_short_numbers(number: float, text: str) -> None:
    assert short_number(number) == text
