"""The classes of users' own data, as they wrote them down beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from clippy.config import nearest
from clippy.vocabulary import ClassList, Kind
from pipelines.columns import DataError
from pipelines.evaluation.datasets.files import exists, read_json, read_text
from pipelines.evaluation.datasets.labels import IdMap, own_ids
from pipelines.storage import Location

JSON_FILE, TEXT_FILE = "classes.json", "classes.txt"
FORMS = """classes.json    ["cat", "dog"], or {"classes": ["cat", {"name": "grass", "kind": "stuff"}, "other"],
                "background": "other", "void": 255}; classes are numbered from 0
or classes.txt  a name a line"""
KINDS: tuple[Kind, ...] = ("thing", "stuff", "background")
_FIELDS = ("classes", "background", "void", "templates")
"""The last are the prompts of the generated scenes."""
_CLASS_FIELDS = ("name", "kind", "id")


@dataclass(frozen=True)
class OwnClasses:
    """Classes, and the number that masks have for what is not counted."""

    classes: ClassList
    void: int | None = 255

    def ids(self) -> IdMap:
        """What the numbers in masks stand for."""
        return own_ids(len(self.classes), self.void)


def read_classes(folder: Location) -> OwnClasses | None:
    """What ``classes.json`` or ``classes.txt`` in a folder says; None without either.

    Raises DataError naming the file and the entry.
    """
    if exists(folder / JSON_FILE):
        file = folder / JSON_FILE
        content = read_json(file)
        return _parse(content if isinstance(content, dict) else {"classes": content}, file)
    if exists(folder / TEXT_FILE):
        file = folder / TEXT_FILE
        lines = (line.strip() for line in read_text(file).splitlines())
        return _parse({"classes": [line for line in lines if line]}, file)
    return None


def named_classes(names: tuple[str, ...], source: Location) -> OwnClasses:
    """Classes of which only the names are known."""
    return _parse({"classes": list(names)}, source)


def _parse(content: dict[str, Any], file: Location) -> OwnClasses:
    _check_fields(content, _FIELDS, file)
    entries = content.get("classes")
    if not isinstance(entries, list) or not entries:
        raise DataError(
            f"{file.url}: has no classes; it is a list of names, or an object with such a list as 'classes'"
        )
    names = tuple(_name(entry, file) for entry in entries)
    for number, entry in enumerate(entries):
        if isinstance(entry, dict) and entry.get("id", number) != number:
            raise DataError(
                f"{file.url}: {names[number]} has the id {entry['id']!r} and is number {number}; classes are numbered "
                "from 0 in their order"
            )
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise DataError(f"{file.url}: names the class {twice!r} twice")
    background = _background(content.get("background"), names, file)
    void = content.get("void", 255)
    if void is not None and not (_is_number(void) and len(names) <= void < 65536):
        raise DataError(
            f"{file.url}: void is {void!r}; it is null, or a number that no class has, {len(names)} to 65535"
        )
    kinds = tuple("background" if i == background else _kind(entry, file) for i, entry in enumerate(entries))
    return OwnClasses(ClassList("own", file.url, names, kinds, background), void)


def _check_fields(told: dict[str, Any], fields: tuple[str, ...], file: Location) -> None:
    """A field that nobody reads, such as ``backgruond``, would be missed in silence."""
    for field in told:
        if field not in fields:
            raise DataError(f"{file.url}: has no field {field!r}, only {', '.join(fields)}{nearest(field, fields)}")


def _name(entry: Any, file: Location) -> str:
    if isinstance(entry, dict):
        _check_fields(entry, _CLASS_FIELDS, file)
    name = entry.get("name") if isinstance(entry, dict) else entry
    if not isinstance(name, str) or not name.strip():
        raise DataError(f"{file.url}: has the class {entry!r}; it is a name, or an object with a name")
    return name.strip()


def _kind(entry: Any, file: Location) -> Kind:
    kind = entry.get("kind", "thing") if isinstance(entry, dict) else "thing"
    if kind not in KINDS:
        raise DataError(f"{file.url}: has a class of kind {kind!r}; kinds are {', '.join(KINDS)}")
    return kind


def _background(told: Any, names: tuple[str, ...], file: Location) -> int | None:
    if told is None:
        return None
    number = names.index(told) if told in names else told
    if not _is_number(number) or not 0 <= number < len(names):
        raise DataError(f"{file.url}: background is {told!r}, which is none of the classes")
    return number


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
