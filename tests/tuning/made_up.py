"""Studies as ``clippy tune`` leaves them, with trials made up by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipelines.storage import locate
from tuning.results import STUDY_FILE, TRIALS, StudyResults, Trial, load_results, save_trial
from tuning.study import load_study

MIOU, TOP1 = "segmentation/model/mIoU", "classification/model/top-1"


def trial(number: int, parameters: Mapping[str, Any], *values: float, status: str = "finished", **more: Any) -> Trial:
    """A trial whose mIoU came to these values, ten steps apart."""
    history = [{"step": 10.0 * (i + 1), MIOU: value} for i, value in enumerate(values)]
    return Trial(number, dict(parameters), "", status, steps=10 * len(values), history=history, **more)  # type: ignore[arg-type]


def write_study(folder: Path, trials: Sequence[Trial], **fields: Any) -> StudyResults:
    """The study in ``folder/study``; ``fields`` are those of its file, beside the space, which the trials tell."""
    names = dict.fromkeys(name for one in trials for name in one.parameters)
    fields.setdefault("space", {n: {"choice": _values(trials, n)} for n in names})
    base = {"storage": {"url": str(folder)}, "eval": {"every": 10}, "checkpoint": {"every": 10}}
    told = {"train": {"steps": 40}, "optim": {"warmup_steps": 2}, **base, **fields.pop("overrides", {})}
    values = {
        "name": "study",
        "base": "shapes",
        "overrides": told,
        "metrics": [{"metric": MIOU}],
        "budget": {"trials": 99},
        **fields,
    }
    file = folder / "asked.yaml"
    with file.open("w") as stream:
        YAML().dump(values, stream)
    study, place = load_study(str(file)), locate(str(folder / "study"))
    (place / STUDY_FILE).write_text(study.to_yaml())
    for one in trials:
        own = place / TRIALS / one.name
        save_trial(place, replace(one, run=own.url))
        if one.status != "waiting":
            changes = {"name": one.name, "storage": {"url": (place / TRIALS).url}}
            (own / "recipe.yaml").write_text(study.trial_recipe(one.parameters, changes).to_yaml())
    return load_results(place.url)


def _values(trials: Sequence[Trial], name: str) -> list[Any]:
    return list(dict.fromkeys(one.parameters[name] for one in trials if name in one.parameters))
