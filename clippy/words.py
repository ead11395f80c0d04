"""The free words that name a picture or its pixels, checked before anything is computed. Imports no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

TEMPLATES = ("a photo of a {}.",)
"""What a word is put into where nothing else is asked for."""
ARTICLE = "{a}"
"""Stands in a template for the article that the word needs."""
MAX_WORDS = 65_535
"""Ids of labels are 1 and up in masks of at most 16 bits, where 0 is the background."""


def fill(template: str, word: str) -> str:
    """Put a word where a template has ``{}``, and "a" or "an" where it has ``{a}``: "a photo of {a} {}".

    The article goes by the first letter, not by the sound ("an hourglass" comes out as "a hourglass"), as in the
    evaluation released with CLIPpy. Raises ValueError for a template without ``{}``.
    """
    if "{}" not in template:
        raise ValueError(f"template {template!r} has no {{}} where the word goes")
    article = "an" if word.lower().startswith(tuple("aeiou")) else "a"
    return template.replace(ARTICLE, article).replace("{}", word)


def check_texts(name: str, values: Sequence[str], at_least: int = 1) -> None:
    """Refuse texts that are too few, a blank one, and one that comes twice. Raises ValueError with their ``name``."""
    if isinstance(values, str):  # a sequence of letters, each of which would become a text
        raise ValueError(f"{name}: must be a list of texts (got the text {values!r})")
    if len(values) < at_least:
        raise ValueError(f"{name}: must hold at least one text (got none)")
    for position, value in enumerate(values, 1):
        if not value.strip():
            raise ValueError(f"{name}: number {position} of {len(values)} is blank; give it a text or none")
    repeated = [value for value, count in Counter(values).items() if count > 1]
    if repeated:
        raise ValueError(f"{name}: {repeated[0]!r} comes more than once; leave the others out")


def check_words(
    labels: Sequence[str],
    background: Sequence[str] = (),
    templates: Sequence[str] = TEMPLATES,
    prefix: str = "",
) -> None:
    """Refuse words that cannot name anything.

    ``prefix`` is put before the argument's name in messages, as ``--`` on the command line. Raises ValueError for no
    labels, no templates, a blank word, one that comes twice, a template without ``{}``, or more than MAX_WORDS words.
    """
    for name, values in (("labels", labels), ("background", background), ("templates", templates)):
        check_texts(prefix + name, values, at_least=0 if name == "background" else 1)
    both = set(labels) & set(background)
    if both:
        raise ValueError(
            f"{prefix}background: {min(both)!r} is also among {prefix}labels; a pixel is one or the other; drop one"
        )
    if len(labels) + len(background) > MAX_WORDS:
        raise ValueError(f"{prefix}labels: at most {MAX_WORDS} words in all (got {len(labels) + len(background)})")
    for template in templates:
        if "{}" not in template:
            raise ValueError(f"{prefix}templates: {template!r} has no {{}} where the word goes; e.g. {TEMPLATES[0]!r}")
