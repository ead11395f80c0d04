"""The class lists and prompts of the benchmarks. Imports no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

Kind = Literal["thing", "stuff", "background"]


@dataclass(frozen=True)
class ClassList:
    """Classes of a benchmark in the order of their ids."""

    name: str
    source: str
    """Where the names come from, and what was changed."""
    names: tuple[str, ...]
    """One word or phrase a class, to be put into prompts."""
    kinds: tuple[Kind, ...]
    background: int | None = None
    """Id of the class that is everything else; it has no word of its own in protocols with a threshold."""
    extra_words: tuple[str, ...] = ()
    """Further words whose pixels are background: the paper's extended vocabulary."""
    hypernyms: tuple[str, ...] = ()
    """WordNet synset of each class, a node of `clippy.hierarchy`; empty where there is no map."""

    def __len__(self) -> int:
        return len(self.names)


@cache
def class_list(name: str) -> ClassList:
    """A list by name, such as ``voc``. Raises ValueError for one that is not there."""
    if name not in class_list_names():
        raise ValueError(f"no class list {name!r}; there are {', '.join(class_list_names())}")
    values = json.loads((files(_PACKAGE) / f"{name}.json").read_text())
    classes = values["classes"]
    return ClassList(
        name=name,
        source=values["source"],
        names=tuple(entry["name"] for entry in classes),
        kinds=tuple(entry["kind"] for entry in classes),
        background=values.get("background"),
        extra_words=tuple(values.get("extra_words", ())),
        hypernyms=tuple(entry["synset"] for entry in classes) if "synset" in classes[0] else (),
    )


@cache
def class_list_names() -> tuple[str, ...]:
    """All lists that there are."""
    found = (entry.name for entry in files(_PACKAGE).iterdir())
    return tuple(sorted(name.removesuffix(".json") for name in found if name.endswith(".json") and name not in _OTHER))


def prompt_templates(name: str) -> tuple[str, ...]:
    """A set of prompts with ``{}`` for the class, such as ``openai``. Raises ValueError for one that is not there."""
    sets = json.loads((files(_PACKAGE) / TEMPLATES_FILE).read_text())
    if name not in sets:
        raise ValueError(f"no prompts {name!r}; there are {', '.join(sets)}")
    return tuple(sets[name]["templates"])


_PACKAGE = "clippy.vocabularies"
TEMPLATES_FILE, HYPERNYMS_FILE = "templates.json", "hypernyms.json"
_OTHER = {TEMPLATES_FILE, HYPERNYMS_FILE}
