"""Numbers as a person reads them."""

from __future__ import annotations


def bytes_text(number: float) -> str:
    """'812 B', '3.1 MiB', '8 MiB', '431 GiB'."""
    size, unit = float(number), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if size >= 99.95 else f"{size:.1f}".removesuffix(".0") + f" {unit}"


def short_number(number: float) -> str:
    """'64', '1.5', '2k', '16384', '131k': for the edge of a bin."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= 100 * limit or (abs(number) >= limit and number % limit == 0):
            return f"{number / limit:.3g}{unit}"
    return f"{number:.0f}" if float(number).is_integer() or abs(number) >= 10 else f"{number:.1f}"


def percent(share: float) -> str:
    """'12 %', '0.3 %', '99.9 %'; never 0 or 100 for what is only close to it."""
    value = 100 * share
    if value in (0, 100) or 10 <= value < 99.5:
        return f"{value:.0f} %"
    return f"{min(value, 99.9):.1f}".removesuffix(".0") + " %" if value >= 0.1 else "< 0.1 %"


def share_text(part: float, whole: float) -> str:
    """The share that ``part`` is of ``whole``, '-' of nothing."""
    return percent(part / whole) if whole else "-"
