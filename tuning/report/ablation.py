"""A study that repeats one of the paper's ablations, in that table's layout: the paper's numbers, ours beside."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipelines.evaluation.comparison.compare import model_answers
from pipelines.evaluation.comparison.numbers import percent
from pipelines.evaluation.paper import PaperColumn, PaperRow, PaperTable, paper_tables
from pipelines.evaluation.result import Result
from pipelines.recipe import Recipe
from tuning.report.outcome import Setting, Spread, spread
from tuning.results import Trial


def _pooling(recipe: Recipe) -> str:
    pooling = recipe.model.image.pooling
    return {"max": "maximum", "mean": "average", "cls": "CLS"}.get(pooling, pooling.replace("_", " "))


def _frozen(recipe: Recipe) -> str:
    towers = {"image tower": recipe.model.image.frozen, "text tower": recipe.model.text.frozen}
    return " and ".join(name for name, frozen in towers.items() if frozen) or "none"


def _image_start(recipe: Recipe) -> str:
    image = recipe.model.image
    if not image.pretrained:
        return "random"
    return "DINO" if "dino" in f"{image.name} {image.pretrained}".lower() else "supervised"


def _text_start(recipe: Recipe) -> str:
    pretrained = recipe.model.text.pretrained
    if pretrained is None:
        return "random"
    return "Sentence-T5" if "sentence-t5" in pretrained.lower() else pretrained


def _patches_left_out(recipe: Recipe) -> str:
    fraction = recipe.model.image.patch_dropout
    if not fraction:
        return "none"
    larger = " at up to twice the resolution" if recipe.model.image.image_size == 448 else ""
    return f"{100 * fraction:g} %{larger}"


@dataclass(frozen=True)
class _Told:
    """How a setting of the paper's tables is read off a recipe, and the fields that it hangs on."""

    read: Callable[[Recipe], str]
    fields: frozenset[str]


_SETTINGS = {
    "pooling": _Told(_pooling, frozenset({"model.image.pooling"})),
    "frozen": _Told(_frozen, frozenset({"model.image.frozen", "model.text.frozen"})),
    "image start": _Told(_image_start, frozenset({"model.image.pretrained", "model.image.name"})),
    "text start": _Told(_text_start, frozenset({"model.text.pretrained", "model.text.dense"})),
    "patches left out": _Told(_patches_left_out, frozenset({"model.image.patch_dropout", "model.image.image_size"})),
}
_ABSENT = object()
"""Is the value of a parameter whose condition does not hold."""
_DATA = {"cc12m": "CC-12M", "hqitp": "HQITP-134M"}
"""What the paper's rows call the data, by what a recipe's places and names have in them."""


@dataclass(frozen=True)
class TrialNumbers:
    """The recipe of a trial, its data, and what it came to in the columns of the paper's tables, as fractions."""

    recipe: Recipe
    data: str | None
    """In the paper's words; None where nothing says so."""
    numbers: Mapping[PaperColumn, float]


def trial_numbers(trial: Trial, recipe: Recipe, base: Recipe, results: Iterable[Result]) -> TrialNumbers:
    """Of the trial's evaluations and, for what those lack, of its last validation; ``base`` is the study's recipe."""
    numbers: dict[PaperColumn, float] = {}
    for column in {column for table in paper_tables() for column in table.columns}:
        if column.benchmark == recipe.eval.benchmark:
            name = f"{column.question}/model/{column.number}".replace(" ", "_")
            value = trial.value(name)
            if value is not None:
                numbers[column] = value
    for result in results:
        for question, table in result.tables.items():
            answer = next(iter(model_answers(table)), None)
            for number, value in table.get(answer or "", {}).items():
                numbers[PaperColumn(result.benchmark, question, number)] = value
    places = [recipe.data.urls] if "data.url" in trial.parameters else [recipe.data.urls, base.name]
    return TrialNumbers(recipe, data_name(places), numbers)


@dataclass(frozen=True)
class AblationRow:
    """A row of the paper's table, ours, or both: where settings and data are the same."""

    settings: dict[str, str]
    data: str | None
    paper: PaperRow | None
    ours: tuple[Spread | None, ...]
    """Percent over seeds, one a column."""
    seeds: int = 0
    """Trials that finished, of so many that there are."""
    trials: int = 0


@dataclass(frozen=True)
class Ablation:
    """One of the paper's tables with ours beside."""

    table: PaperTable
    rows: tuple[AblationRow, ...]


def find_ablation(settings: Sequence[Setting], numbers_of: Callable[[Trial], TrialNumbers | None]) -> Ablation | None:
    """The table of the paper whose settings are all that the study varies, and in whose columns it has numbers.

    Of several the one that has most of the study's rows; None where the paper has no such table, and then no trial is
    looked at.
    """
    varied, tables = _varied(settings), []
    for table in paper_tables():
        names = list(dict.fromkeys(name for row in table.rows for name in row.settings))
        if names and all(name in _SETTINGS for name in names) and _vary(varied, names):
            tables.append((table, names))
    if not tables:
        return None
    numbers = {trial.number: numbers_of(trial) for setting in settings for trial in setting.trials}
    known = {number: found for number, found in numbers.items() if found is not None}
    ablations = [Ablation(table, tuple(_rows(table, names, settings, known))) for table, names in tables]
    ablations = [ablation for ablation in ablations if any(any(row.ours) for row in ablation.rows)]
    return max(ablations, key=lambda ablation: sum(1 for r in ablation.rows if r.paper and r.trials), default=None)


def _varied(settings: Sequence[Setting]) -> set[str]:
    """Parameters that do not have one value throughout, or of which a lone setting tells."""
    names = {name for setting in settings for name in setting.parameters}
    if len(settings) == 1:
        return names
    values = {name: {repr(setting.parameters.get(name, _ABSENT)) for setting in settings} for name in names}
    return {name for name, some in values.items() if len(some) > 1}


def _vary(varied: set[str], names: Iterable[str]) -> bool:
    """Whether settings of these names are what varies, perhaps on several datasets, each with steps of its own."""
    fields = {"data.url"}.union(*(_SETTINGS[name].fields for name in names))
    steps = {"train.steps"} if "data.url" in varied else set()
    return bool(varied & fields) and varied <= fields | steps


def _rows(
    table: PaperTable, names: Sequence[str], settings: Sequence[Setting], numbers: Mapping[int, TrialNumbers]
) -> list[AblationRow]:
    """The paper's rows in the paper's order, ours with them; then those of ours that the paper has not."""
    ours = [row for setting in settings if (row := _our_row(table, names, setting, numbers)) is not None]
    rows = []
    for paper in table.rows:
        match = next((own for own in ours if own.settings == paper.settings and own.data == paper.data), None)
        blank = AblationRow(dict(paper.settings), paper.data, paper, (None,) * len(table.columns))
        if match is not None:
            ours.remove(match)
            blank = AblationRow(match.settings, match.data, paper, match.ours, match.seeds, match.trials)
        rows.append(blank)
    return rows + ours


def _our_row(
    table: PaperTable, names: Sequence[str], setting: Setting, numbers: Mapping[int, TrialNumbers]
) -> AblationRow | None:
    known = [trial for trial in setting.trials if trial.number in numbers]
    if not known:
        return None
    first = numbers[known[0].number]
    finished = [numbers[trial.number].numbers for trial in known if trial.status == "finished"]
    cells = []
    for column in table.columns:
        values = [found[column] for found in finished if column in found]
        cells.append(spread([percent(value) for value in values]))
    told = settings_of(first.recipe, names)
    return AblationRow(told, first.data, None, tuple(cells), len(finished), len(setting.trials))


def settings_of(recipe: Recipe, names: Iterable[str]) -> dict[str, str]:
    """A recipe's settings of these names, in the paper's words."""
    return {name: _SETTINGS[name].read(recipe) for name in names}


def data_name(told: Iterable[str]) -> str | None:
    """What the paper calls the data that the first of these places or names speaks of; None where none does."""
    for words in told:
        plain = re.sub(r"[^a-z0-9]", "", words.lower())
        for sign, name in _DATA.items():
            if sign in plain:
                return name
    return None
