"""``clippy compare``: results of evaluations beside each other and beside the paper's."""

from __future__ import annotations

import argparse
from typing import Any

from cluster.verbs import add_json, print_result, verb


def add_compare_verb(verbs: Any) -> None:
    command = verb(verbs, "compare", _compare, "put results of evaluations and the paper's tables side by side")
    command.add_argument(
        "results",
        nargs="+",
        metavar="RESULT",
        help="an evaluation.json or its folder, or a run folder for all results below its evaluation/; folder or URL",
    )
    command.add_argument(
        "--out",
        default="comparison.html",
        metavar="FILE",
        help=".html for a self-contained page, .md for Markdown, .csv for one line a number (default: %(default)s)",
    )
    command.add_argument(
        "--against",
        default="CLIPpy, CC-12M",
        metavar="SYSTEM,DATA",
        help="the paper's row to take differences from, such as 'CLIP-dagger, HQITP-134M' (default: %(default)s)",
    )
    add_json(command)


def _compare(options: argparse.Namespace) -> None:
    from pipelines.evaluation.comparison.compare import compare
    from pipelines.evaluation.comparison.data import as_data
    from pipelines.evaluation.comparison.find import find_results
    from pipelines.evaluation.comparison.words import summary
    from pipelines.evaluation.comparison.write import form_of, write_comparison

    form_of(options.out)  # a wrong ending is refused before anything is read
    comparison = compare(find_results(options.results), options.against)
    page = write_comparison(comparison, options.out)
    print_result({"page": page, **as_data(comparison)}, options.json, f"{summary(comparison)}\n\n{page}")
