"""Manifests as text: the same bytes for the same values, read alike by YAML 1.1 and 1.2."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ruamel.yaml import YAML

_PLAIN = re.compile(r"[A-Za-z/]([A-Za-z0-9 ._/-]*[A-Za-z0-9._/-])?")
_WORDS_OF_YAML = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}
"""Which YAML 1.1, that Kubernetes and Ray read, takes for no text."""


def as_yaml(documents: Sequence[Mapping[str, Any]], heading: Sequence[str]) -> str:
    """The documents below a comment."""
    yaml = YAML(pure=True)
    yaml.width = 10**6
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.representer.add_representer(str, _represent_text)
    yaml.representer.ignore_aliases = lambda _: True
    texts = []
    for document in documents:
        stream = io.StringIO()
        yaml.dump(document, stream)
        texts.append(stream.getvalue())
    comment = "".join(f"# {line}".rstrip() + "\n" for line in heading)
    return comment + "---\n".join(texts)


def _represent_text(representer: Any, text: str) -> Any:
    """Plain where no reader can take it for anything else, lines as a block, and in quotes what is left."""
    style = None if _PLAIN.fullmatch(text) and text.lower() not in _WORDS_OF_YAML else '"'
    if re.fullmatch(r"[\x21-\x7e]([\x20-\x7e]*\n)+", text):
        style = "|"
    return representer.represent_scalar("tag:yaml.org,2002:str", text, style=style)
