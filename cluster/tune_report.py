"""``clippy tune report``: what a study came to, as a page, Markdown, CSV and the best trial's recipe."""

from __future__ import annotations

import argparse
from typing import Any

from cluster.verbs import add_json, print_result, verb


def add_report_verb(verbs: Any) -> None:
    """Declare the verb."""
    command = verb(
        verbs, "report", _report, "write a study as a page, Markdown and CSV, and its best trial as a recipe"
    )
    command.add_argument("study_run", metavar="STUDY_RUN", help="a study's folder; it may still run")
    command.add_argument(
        "--metric", metavar="NAME", help="what ranks trials, or the end of its name; default: the study's first metric"
    )
    command.add_argument("--out", metavar="FOLDER", help="for the files; default: the study's folder")
    command.add_argument(
        "--pictures",
        type=int,
        default=6,
        metavar="N",
        help="pictures that the best and the worst trial are drawn on; 0 draws none (default: %(default)s)",
    )
    add_json(command)


def _report(options: argparse.Namespace) -> None:
    from tuning.report.data import as_data
    from tuning.report.words import terminal
    from tuning.report.write import Request, write_report

    if options.pictures < 0:
        raise ValueError(f"--pictures: must be at least 0 (got {options.pictures})")
    report, files = write_report(Request(options.study_run, options.metric, options.out, options.pictures))
    print_result({"files": files, **as_data(report)}, options.json, terminal(report, files))
