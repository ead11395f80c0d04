"""One colour a trial, the same in every chart: by the word that sets trials apart most, or else by rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tuning.results import Trial
from tuning.study import shown_value

# Distinct in hue and in lightness, and to most people whose colour vision is impaired.
PALETTE = ("#1f6fb4", "#d9822b", "#3c8d40", "#b3372f", "#7c5c9e", "#2b9c98", "#c2539a", "#6b5b45")
_UNSET = "#8a8a8a"


@dataclass(frozen=True)
class Colours:
    """A colour by trial number, and what colours mean."""

    by_trial: dict[int, str]
    legend: dict[str, str]
    """Words and their colours, in order."""
    meaning: str
    """What the words are values of."""

    def of(self, trial: Trial) -> str:
        """The trial's colour."""
        return self.by_trial.get(trial.number, _UNSET)


def colours(trials: Sequence[Trial], ranked: Sequence[Trial], words: Sequence[str]) -> Colours:
    """By the first parameter of ``words`` that has few values; without one by rank, the better the darker."""
    for parameter in words:
        values = list(dict.fromkeys(shown_value(t.parameters[parameter]) for t in trials if parameter in t.parameters))
        if 2 <= len(values) <= len(PALETTE):
            legend = dict(zip(values, PALETTE, strict=False))
            by_trial = {
                t.number: legend[shown_value(t.parameters[parameter])] for t in trials if parameter in t.parameters
            }
            return Colours(by_trial, legend, parameter)
    last = max(len(ranked) - 1, 1)
    shades = {trial.number: f"hsl(206 65% {28 + 47 * place / last:.0f}%)" for place, trial in enumerate(ranked)}
    legend = {"best": shades[ranked[0].number], "worst": shades[ranked[-1].number]} if len(ranked) > 1 else {}
    return Colours(shades, legend, "rank")
