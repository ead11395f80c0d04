"""Strict configuration sections, read from YAML 1.2 and ``a.b=c`` overrides, with errors in plain words."""

from __future__ import annotations

import difflib
import io
import json
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import YAMLError


class ConfigError(ValueError):
    """Every problem of one configuration, each in one line that names the field and its source."""

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__("\n".join([f"{source}: {count}", *(f"  {problem}" for problem in problems)]))


class Section(BaseModel):
    """A frozen group of settings: no unknown field, no silent conversion."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @classmethod
    def load(cls, source: str, text: str, overrides: Sequence[str] = ()) -> Self:
        """Validate YAML ``text`` with ``a.b=c`` overrides on top; ``source`` names the text in errors.

        Raises ConfigError with all problems at once.
        """
        return cls.build(source, parse_mapping(source, text), overrides)

    @classmethod
    def build(cls, source: str, values: dict[str, Any], overrides: Sequence[str] = ()) -> Self:
        """The same from parsed ``values``, which overrides change."""
        problems: list[str] = []
        overridden: set[tuple[str, ...]] = set()
        for override in overrides:
            try:
                overridden.add(_apply_override(values, override))
            except ValueError as error:
                problems.append(f"{error} (from the command line)")
        try:
            # JSON mode: strict about types, yet lists become tuples. See pydantic's conversion table.
            section = cls.model_validate_json(json.dumps(values, default=str))
        except ValidationError as error:
            problems += [_describe(cls, dict(detail), overridden) for detail in error.errors()]
        except ValueError as error:  # json.dumps refuses what JSON cannot hold
            problems.append(str(error))
        if problems:
            raise ConfigError(source, problems)
        return section

    def to_yaml(self) -> str:
        """The section as YAML that ``load`` reads back to an equal section."""
        stream = io.StringIO()
        yaml = YAML()
        yaml.width = 110
        yaml.representer.add_representer(type(None), lambda r, _: r.represent_scalar("tag:yaml.org,2002:null", "null"))
        yaml.representer.add_representer(str, _represent_text)
        yaml.dump(_lists_inline(self.model_dump(mode="json")), stream)
        return stream.getvalue()

    def flat(self) -> dict[str, Any]:
        """All leaves by dotted name, in order."""
        return flatten(self.model_dump(mode="json"))


def parse_yaml(source: str, text: str) -> Any:
    """Parse YAML 1.2 into plain dicts, lists and scalars; ConfigError on bad syntax or a duplicate key."""
    try:
        return YAML(typ="safe", pure=True).load(text)
    except DuplicateKeyError as error:
        where = f" on line {error.problem_mark.line + 1}" if error.problem_mark else ""
        problem = (error.problem or "duplicate key").split(" with value")[0]
        raise ConfigError(source, [f"{problem}{where}: keep one of the two"]) from None
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError(source, [f"{where}not valid YAML: {getattr(error, 'problem', None) or error}"]) from None


def parse_mapping(source: str, text: str) -> dict[str, Any]:
    """Parse YAML that must be a mapping; ConfigError otherwise."""
    values = parse_yaml(source, text)
    if not isinstance(values, dict):
        raise ConfigError(source, [f"must be a mapping of sections, got {_shown(values)}"])
    return values


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes`` laid over it: mappings field by field, anything else in whole."""
    merged = dict(base)
    for name, value in changes.items():
        before = merged.get(name)
        both = isinstance(before, Mapping) and isinstance(value, Mapping)
        merged[name] = merge(before, value) if both else value  # type: ignore[arg-type]
    return merged


def read_text(path: Path) -> str:
    """The file's text, or a ConfigError that names the file."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(str(path), ["not a text file; a recipe is YAML in UTF-8"]) from None
    except OSError as error:
        raise ConfigError(str(path), [f"cannot be read: {error.strerror}"]) from None


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping with dotted names; an empty mapping stays a leaf."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def nearest(name: str, candidates: Sequence[str]) -> str:
    """``; did you mean 'x'?`` for the closest candidate, or the empty string."""
    close = difflib.get_close_matches(name, candidates, n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def _represent_text(representer: Any, text: str) -> Any:
    """NEL is a line break to a YAML reader, yet ruamel writes it plain: only within double quotes is it escaped."""
    return representer.represent_scalar("tag:yaml.org,2002:str", text, style='"' if "\x85" in text else None)


def _lists_inline(value: Any) -> Any:
    """Sections one field a line, but ``[0.9, 0.98]`` on one."""
    if isinstance(value, dict):
        return {name: _lists_inline(child) for name, child in value.items()}
    if isinstance(value, list):
        inline = CommentedSeq(value)
        inline.fa.set_flow_style()
        return inline
    return value


def _apply_override(values: dict[str, Any], override: str) -> tuple[str, ...]:
    name, equals, text = override.partition("=")
    path = tuple(name.split("."))
    if not equals or not all(path):
        raise ValueError(f"{override}: must have the form section.field=value")
    try:
        value = parse_yaml(name, text)
    except ConfigError:
        value = text  # a URL with a colon or a brace is a word, not a YAML mapping
    node = values
    for depth, part in enumerate(path[:-1], start=1):
        child = node.setdefault(part, {})
        if not isinstance(child, dict):
            raise ValueError(f"{override}: {'.'.join(path[:depth])} is a value, not a section")
        node = child
    node[path[-1]] = value
    return path


def _describe(root: type[BaseModel], detail: dict[str, Any], overridden: set[tuple[str, ...]]) -> str:
    """One pydantic error as 'field: rule (got value) (from the file)'."""
    location = tuple(str(part) for part in detail["loc"])
    name = ".".join(location)
    kind, value = detail["type"], detail["input"]
    if kind == "value_error":  # a rule across fields, raised by a validator in words of its own
        message = str(detail["ctx"]["error"])
        return f"{name}: {message}" if name else message
    from_command_line = any(location[: len(path)] == path or path[: len(location)] == location for path in overridden)
    source = "from the command line" if from_command_line else "from the file"
    if kind == "extra_forbidden":
        parent = _section_at(root, location[:-1])
        candidates = list(parent.model_fields) if parent else []
        return f"{name} ({source}): no such field{nearest(location[-1], candidates)}"
    if kind == "missing":
        return f"{name}: required, but not given"
    message = _RULES.get(kind) or detail["msg"].removeprefix("Input ").replace("should be", "must be")
    if kind == "literal_error":
        return f"{name} ({source}): {message} (got {_shown(value)}){nearest(str(value), _quoted(message))}"
    return f"{name} ({source}): {message} (got {_shown(value)})"


_RULES = {
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "model_type": "must be a section with fields of its own",
    "model_attributes_type": "must be a section with fields of its own",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping",
    "none_required": "must be null",
}


def _quoted(message: str) -> list[str]:
    return message.split("'")[1::2]


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _section_at(root: type[BaseModel], path: Sequence[str]) -> type[BaseModel] | None:
    """The section class that the fields of ``path`` lead to from ``root``."""
    section = root
    for part in path:
        field = section.model_fields.get(part)
        found = _section_in(field.annotation) if field else None
        if found is None:
            return None
        section = found
    return section


def _section_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return next((s for s in map(_section_in, typing.get_args(annotation)) if s), None)
    return None
