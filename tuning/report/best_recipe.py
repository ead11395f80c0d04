"""The best trial's whole recipe as a file that ``clippy train`` takes."""

from __future__ import annotations

from textwrap import wrap

from tuning.report.study_report import StudyReport
from tuning.report.tables import number
from tuning.report.words import counts
from tuning.study import shown

BEST_FILE = "best.yaml"


def best_recipe(report: StudyReport) -> str:
    """The recipe of the best trial under a name of its own, below a comment that says where it is from.

    It keeps its run where the base recipe does, so that it neither goes on with the trial's run nor lies in the study;
    it tracks as the base does, and is not held to the trial's share of the decode cores.
    """
    study, best, objective = report.results.study, report.best, report.objectives[0]
    value = best.value(objective.metric)
    assert value is not None  # the ranked have one
    base, recipe = study.base_recipe, report.recipe
    own = {
        "name": f"{study.name}-trial-{best.number}",
        "storage": base.storage,
        "tracking": base.tracking,
        "scaling": recipe.scaling.model_copy(update={"decode_cores": base.scaling.decode_cores}),
    }
    comment = (
        f"Trial {best.number} of the study {study.name} ({counts(report.trials)}), the best by {objective.metric}: "
        f"{number(value)} at step {int(best.history[-1]['step']):,}, with {shown(best.parameters)}."
    )
    lines = [f"# {line}" for line in wrap(comment, 110, break_long_words=False, break_on_hyphens=False)]
    return "\n".join([*lines, recipe.model_copy(update=own).to_yaml()])
