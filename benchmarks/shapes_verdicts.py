"""From numbers of runs to mean and spread over seeds, tables, and what became of each claim."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Numbers = Mapping[str, float]
OfSeed = Mapping[str, Numbers]
"""Arm -> number's name -> number, of one seed."""
SEEDS_NEEDED = 3
HOLDS, FAILS, UNCLEAR, MISSING = "holds", "does not hold", "within noise", "not measured"


@dataclass(frozen=True)
class Spread:
    """Of one number over seeds."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over seeds."""
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float:
        """Standard deviation of a seed (n - 1); NaN of one seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else math.nan

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        return self.deviation / math.sqrt(len(self.values))

    def __str__(self) -> str:
        spread = f" ±{self.deviation:.3f}" if len(self.values) > 1 else ""
        return f"{self.mean:.3f}{spread}"


@dataclass(frozen=True)
class Criterion:
    """One measurable part of a claim, and the threshold that was set before any run."""

    claim: str
    says: str
    value: Callable[[OfSeed], float]
    """Of the arms of one seed; a KeyError where one of them is not there."""
    sense: Literal[">=", "<="]
    threshold: float
    paper: str = ""
    """Where the paper shows that, and which way; in words, for its numbers are of another task."""


@dataclass(frozen=True)
class Verdict:
    """What became of a criterion."""

    criterion: Criterion
    spread: Spread | None
    outcome: str

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        mine = self.criterion
        found = {"mean": self.spread.mean, "values": self.spread.values} if self.spread else {}
        if self.spread and len(self.spread.values) > 1:
            found["sd"] = self.spread.deviation
        said = {name: getattr(mine, name) for name in ("claim", "says", "sense", "threshold", "paper")}
        return {**said, **found, "outcome": self.outcome}


def judge(criterion: Criterion, seeds: Mapping[int, OfSeed]) -> Verdict:
    """Whether the mean over seeds is on the right side of the threshold.

    ``within noise`` says that the threshold lies within a standard error of the mean; ``not measured`` that there are
    fewer than three seeds with all that is compared.
    """
    values = []
    for of_arm in seeds.values():
        try:
            values.append(criterion.value(of_arm))
        except KeyError:
            continue
    if not values:
        return Verdict(criterion, None, MISSING)
    spread = Spread(tuple(values))
    if len(values) < SEEDS_NEEDED:
        return Verdict(criterion, spread, f"{MISSING}: {len(values)} of {SEEDS_NEEDED} seeds")
    beyond = spread.mean - criterion.threshold
    if criterion.sense == "<=":
        beyond = -beyond
    # An exact tie is on the right side, and rounding must not take it to the other.
    if abs(beyond) <= spread.error + 1e-12:
        return Verdict(criterion, spread, HOLDS if spread.error == 0 else UNCLEAR)
    return Verdict(criterion, spread, HOLDS if beyond > 0 else FAILS)


def summarise(verdicts: Sequence[Verdict]) -> dict[str, str]:
    """Claim -> one word for all its criteria: it holds if all do, and fails if one does."""
    found: dict[str, str] = {}
    for claim in dict.fromkeys(verdict.criterion.claim for verdict in verdicts):
        outcomes = [verdict.outcome for verdict in verdicts if verdict.criterion.claim == claim]
        missing = any(outcome.startswith(MISSING) for outcome in outcomes)
        found[claim] = FAILS if FAILS in outcomes else MISSING if missing else UNCLEAR if UNCLEAR in outcomes else HOLDS
    return found


def spreads(runs: Mapping[int, Numbers]) -> dict[str, Spread]:
    """Number's name -> its spread over the seeds that have it."""
    names = dict.fromkeys(name for numbers in runs.values() for name in numbers)
    return {name: Spread(tuple(numbers[name] for numbers in runs.values() if name in numbers)) for name in names}


def table(title: str, columns: Sequence[str], rows: Mapping[str, Mapping[str, Spread]]) -> list[str]:
    """Lines: a row an arm or trivial answer, a column a number; rows that have none of the columns are left out."""
    shown = {name: row for name, row in rows.items() if any(column in row for column in columns)}
    width = max(len(title), *(len(name) + 2 for name in shown)) if shown else len(title)
    cells = {name: [str(row[column]) if column in row else "" for column in columns] for name, row in shown.items()}
    widths = [2 + max(12, len(c), *(len(row[i]) for row in cells.values())) for i, c in enumerate(columns)]
    lines = [f"{title:<{width}}" + "".join(f"{c:>{w}}" for c, w in zip(columns, widths, strict=True))]
    for name, row in cells.items():
        lines.append(f"{'  ' + name:<{width}}" + "".join(f"{c:>{w}}" for c, w in zip(row, widths, strict=True)))
    return lines


def verdict_lines(verdicts: Sequence[Verdict]) -> list[str]:
    """Each claim with its criteria: threshold, what was measured, what became of it, and where the paper shows it."""
    lines = []
    for claim, outcome in summarise(verdicts).items():
        lines.append(f"{claim}: {outcome}")
        for verdict in (v for v in verdicts if v.criterion.claim == claim):
            mine = verdict.criterion
            threshold = f"{mine.sense} {mine.threshold:+.3f}"
            measured = str(verdict.spread) if verdict.spread else "-"
            paper = f"  [{mine.paper}]" if mine.paper else ""
            lines.append(f"  {mine.says:<74} {threshold:>10} {measured:>15}  {verdict.outcome}{paper}")
    return lines
