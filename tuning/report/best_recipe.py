"""The best trial's whole recipe as a file that ``clippy train`` takes."""

from __future__ import annotations

from pipelines.recipe import Recipe
from tuning.report.outcome import Objective
from tuning.report.scales import shown
from tuning.results import StudyResults, Trial

BEST_FILE = "best.yaml"


def best_recipe(results: StudyResults, trial: Trial, recipe: Recipe, objective: Objective) -> str:
    """The trial's recipe under a name of its own beside the study, below a comment that says where it is from."""
    ...
