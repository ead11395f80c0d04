"""Pieces of the page: warnings and tables as HTML. Everything that comes from a result goes through ``text``."""

from __future__ import annotations

from pipelines.evaluation.comparison.numbers import Difference
from pipelines.evaluation.comparison.tables import Entry, Row, Table
from pipelines.web_page import text


def warnings(sentences: list[str]) -> str:
    """A box that nobody overlooks; nothing where there is nothing to warn of."""
    items = "".join(f"<li>{text(sentence)}</li>" for sentence in sentences)
    title = "Warning" if len(sentences) == 1 else f"{len(sentences)} warnings"
    return f'<div class="warning" role="note"><strong>⚠ {title}</strong><ul>{items}</ul></div>' if items else ""


def table(shown: Table, kind: str = "", label: str = "") -> str:
    """A table that scrolls by itself where it is too wide, with its footnotes under it; nothing without rows."""
    if not shown.rows:
        return ""
    head = "".join(f'<th scope="col">{text(name)}</th>' for name in shown.head)
    body = "\n".join(map(_row, shown.rows))
    notes = "".join(f"<li>{text(note)}</li>" for note in shown.footnotes)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(label or "table")}"><table class="{kind}">'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>"
        + (f'<ol class="footnotes">{notes}</ol>' if notes else "")
    )


def _row(row: Row) -> str:
    note = f"<sup>{row.note}</sup>" if row.note else ""
    detail = f"<small>{text(row.detail)}</small>" if row.detail else ""
    cells = "".join(map(_cell, row.entries))
    return f'<tr class="{row.kind}"><th scope="row">{text(row.name)}{note}{detail}</th>{cells}</tr>'


def _cell(entry: Entry) -> str:
    details = "".join(_difference(difference, other) for other, difference in entry.differences)
    if entry.detail:
        details += f"<small{_WARNS if entry.detail.startswith('⚠') else ''}>{text(entry.detail)}</small>"
    return f"<td>{text(entry.text)}{details}</td>"


_WARNS = ' class="warns"'


def _difference(difference: Difference, other: str) -> str:
    kind = {True: "better", False: "worse", None: "same"}[difference.better]
    return f'<small class="{kind}">{text(difference.said(other))}</small>'
