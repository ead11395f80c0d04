"""The comparison as a file, in the form that its name asks for."""

from __future__ import annotations

from collections.abc import Callable

from clippy.config import ConfigError
from pipelines.evaluation.comparison.compare import Comparison
from pipelines.evaluation.comparison.data import as_csv
from pipelines.evaluation.comparison.markdown import as_markdown
from pipelines.evaluation.comparison.page import as_page
from pipelines.storage import locate

FORMS: dict[str, Callable[[Comparison], str]] = {".html": as_page, ".md": as_markdown, ".csv": as_csv}


def form_of(out: str) -> Callable[[Comparison], str]:
    """What writes a file of this name. Raises ConfigError for an ending that nothing writes."""
    for ending, form in FORMS.items():
        if out.lower().endswith(ending):
            return form
    raise ConfigError("--out", [f"{out!r} must end in one of {', '.join(FORMS)}, which says what is written"])


def write_comparison(comparison: Comparison, out: str) -> str:
    """Write it to file or URL ``out``, and return where it lies."""
    content = form_of(out)(comparison)
    file = locate(out)
    file.write_bytes(content.encode("utf-8", "replace"))  # a lone surrogate in somebody's JSON is no reason to fail
    return file.url
