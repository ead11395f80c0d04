"""The class lists and prompts of the benchmarks. Imports no torch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

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
    ids: tuple[int, ...] | None = None
    """What the benchmark's own files call each class, such as COCO's category; None where that is its position."""
    folders: tuple[str, ...] | None = None
    """Folder of each class's pictures, where the benchmark has one for each."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def distinct_names(self) -> tuple[str, ...]:
        """The names; those that several classes have, as two of ImageNet's are "missile", with their folder or id."""
        counts, marks = Counter(self.names), self.folders or range(len(self.names))
        return tuple(
            f"{name} ({mark})" if counts[name] > 1 else name for name, mark in zip(self.names, marks, strict=True)
        )

    def words_of(self, ids: Sequence[int]) -> tuple[list[str], list[int]]:
        """The words of some classes, with the extra ones where the background is among them, and the class of each."""
        words, classes = [self.names[i] for i in ids], list(ids)
        if self.background is not None and self.background in classes:
            words += self.extra_words
            classes += [self.background] * len(self.extra_words)
        return words, classes


@cache
def class_list(name: str) -> ClassList:
    """A list by name, such as ``voc``. Raises ValueError for one that is not there."""
    if name not in class_list_names():
        raise ValueError(f"no class list {name!r}; there are {', '.join(class_list_names())}")
    values = _read(f"{name}.json")
    classes = values["classes"]
    fields = classes[0].keys()
    return ClassList(
        name=name,
        source=values["source"],
        names=tuple(entry["name"] for entry in classes),
        kinds=tuple(entry["kind"] for entry in classes),
        background=values.get("background"),
        extra_words=tuple(values.get("extra_words", ())),
        hypernyms=tuple(entry["synset"] for entry in classes) if "synset" in fields else (),
        ids=tuple(entry["id"] for entry in classes) if "id" in fields else None,
        folders=tuple(entry["folder"] for entry in classes) if "folder" in fields else None,
    )


@cache
def class_list_names() -> tuple[str, ...]:
    """All lists that there are."""
    found = (entry.name for entry in files(_PACKAGE).iterdir())
    return tuple(sorted(name.removesuffix(".json") for name in found if name.endswith(".json") and name not in _OTHER))


def prompt_templates(name: str) -> tuple[str, ...]:
    """A set of prompts for `clippy.words.fill`, such as ``openai``. Raises ValueError for one that is not there."""
    sets = _read(TEMPLATES_FILE)
    if name not in sets:
        raise ValueError(f"no prompts {name!r}; there are {', '.join(sets)}")
    return tuple(sets[name]["templates"])


def hypernym_map() -> dict[str, Any]:
    """What `clippy.hierarchy` is built from: ``nodes`` by synset, and where they come from."""
    return _read(HYPERNYMS_FILE)


def _read(file: str) -> Any:
    return json.loads((files(_PACKAGE) / file).read_text(encoding="utf-8"))


_PACKAGE = "clippy.vocabularies"
TEMPLATES_FILE, HYPERNYMS_FILE = "templates.json", "hypernyms.json"
_OTHER = {TEMPLATES_FILE, HYPERNYMS_FILE}
