"""The report's files beside the study, or where they are told to go."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.console import Console
from pipelines.storage import locate
from tuning.report.best_recipe import BEST_FILE, best_recipe
from tuning.report.data import as_csv
from tuning.report.markdown import as_markdown
from tuning.report.page import as_page
from tuning.report.study_report import StudyReport, report_study
from tuning.results import load_results

_FORMS = {"report.html": as_page, "report.md": as_markdown, "report.csv": as_csv, BEST_FILE: best_recipe}


@dataclass(frozen=True)
class Request:
    """What to report of which study."""

    study_run: str
    """Folder or URL of the study's results."""
    metric: str | None = None
    """What ranks trials; None is the study's first metric."""
    out: str | None = None
    """Folder or URL for the files; None is the study's."""
    pictures: int = 6
    """Pictures that the best and the worst trial are drawn on."""


def write_report(request: Request, console: Console | None = None) -> tuple[StudyReport, dict[str, str]]:
    """Write page, Markdown, CSV and the best trial's recipe; return what they tell, and where each file lies.

    Raises ConfigError where no study lies there, or none of its trials came to anything yet.
    """
    results = load_results(request.study_run)
    report = report_study(results, request.metric, request.pictures, console or Console())
    folder = locate(request.out) if request.out else results.folder
    contents = {name: form(report) for name, form in _FORMS.items()}  # all or none
    for name, content in contents.items():
        (folder / name).write_bytes(content.encode("utf-8", "replace"))
    return report, {name: (folder / name).url for name in contents}
