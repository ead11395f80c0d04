"""A self-contained page: it asks for nothing from outside and runs no script, whatever the words on it are."""

from __future__ import annotations

import re
import unicodedata
from html import escape


def web_page(title: str, style: str, body: str) -> str:
    """The whole page; ``title`` is any text, ``style`` is CSS and ``body`` is HTML."""
    return _PAGE.format(title=text(title), style=style, body=body)


def text(words: str, most: int = 600) -> str:
    """``words`` for HTML: cut, without control characters, escaped."""
    cut = words if len(words) <= most else f"{words[: most - 1]}…"
    return escape("".join(" " if unicodedata.category(letter) in ("Cc", "Cs") else letter for letter in cut))


def anchor(name: str) -> str:
    """``name`` as the id of a place on the page."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "part"


def section(title: str, content: str, note: str = "") -> str:
    """A titled part of the page that can be linked to; nothing where it has no content."""
    if not content:
        return ""
    note = f'<p class="note">{text(note)}</p>' if note else ""
    return f'<section id="{anchor(title)}"><h2>{text(title)}</h2>\n{note}{content}\n</section>'


# Names and captions come from strangers: they are escaped, and the policy keeps the page from running or loading
# anything.
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
{body}
</body>
</html>
"""
