"""A row as it lies in a source, before anything is checked; and how the members of a sample become one."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.ingest.config import ImportConfig

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "jfif")
CAPTION_EXTENSIONS = ("txt", "text", "caption", "cap")
CAPTION_FIELDS = ("caption", "captions", "text", "texts", "txt", "title", "alt_text", "description", "sentence")
KEY_FIELDS = ("key", "__key__", "uid", "id", "image_id")

NULL_IMAGE, NULL_CAPTION, EMPTY_CAPTION = "null_image", "null_caption", "empty_caption"
STATUS, MISSING_FILE, INCOMPLETE, NOT_TEXT = "status_not_success", "missing_file", "incomplete_sample", "not_text"
DUPLICATE = "duplicate"


@dataclass(frozen=True)
class SourceRow:
    """One row of a source. ``cause`` and ``message`` say why it is refused, where the source alone tells."""

    source: str
    """``00003.tar#000031.jpg``, ``file.parquet#row 17``: with the root, the row's identity."""
    key: str
    caption: Any = None
    image: bytes | None = None
    cause: str | None = None
    message: str = ""


def is_missing(value: Any) -> bool:
    """Whether a value is null: JSON and Parquet that pandas wrote have NaN there."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def is_text(value: Any) -> bool:
    """Whether a value may be a caption: text or a number."""
    return isinstance(value, str | bytes | int | float)


def wanted_member(extension: str, config: ImportConfig) -> bool:
    """Whether a member of a sample with this extension may hold its image, caption or key."""
    told = (config.image_column, config.caption_column)
    last = extension.rpartition(".")[2]
    return extension in told or last == "json" or last in IMAGE_EXTENSIONS or last in CAPTION_EXTENSIONS


def row_from_members(key: str, prefix: str, members: Mapping[str, bytes], config: ImportConfig) -> SourceRow:
    """One sample from its members by extension, as webdataset and img2dataset write them; ``prefix`` names the tar.

    The caption is a text member, else a field of the JSON member.
    """
    image_extension = choose_extension(members, config.image_column, IMAGE_EXTENSIONS)
    text_extension = choose_extension(members, config.caption_column, CAPTION_EXTENSIONS)
    fields = _json_fields(members)
    name = f"{prefix}{key}" + (f".{image_extension}" if image_extension else "")
    if config.key_column is not None and fields.get(config.key_column) is not None:
        key = str(fields[config.key_column])
    field = pick(fields, config.caption_column, CAPTION_FIELDS)
    if image_extension is None or (text_extension is None and field is None):
        lacking = "image" if image_extension is None else "caption"
        has = ", ".join(sorted(members)) or "nothing else"
        return SourceRow(name, key, cause=INCOMPLETE, message=f"has no {lacking}; it has {has}")
    caption: Any = members[text_extension] if text_extension is not None else fields[field or ""]
    return SourceRow(name, key, caption, members[image_extension])


def choose_extension(names: Iterable[str], told: str | None, usual: tuple[str, ...]) -> str | None:
    """The member told, or the first of the usual extensions; of longer ones, ``left.jpg``, the only one."""
    names = list(names)
    if told is not None:
        return told if told in names else None
    exact = next((extension for extension in usual if extension in names), None)
    longer = [name for name in names if name.rpartition(".")[2] in usual]
    return exact or (longer[0] if len(longer) == 1 else None)


def pick(names: Iterable[str], told: str | None, usual: tuple[str, ...]) -> str | None:
    """The name told, or the first usual one, whatever its case; None if there is neither."""
    names = list(names)
    if told is not None:
        return told if told in names else None
    lower = {name.lower(): name for name in reversed(names)}
    return next((name if name in names else lower[name] for name in usual if name in names or name in lower), None)


def _json_fields(members: Mapping[str, bytes]) -> dict[str, Any]:
    try:
        fields = json.loads(members.get("json", b"{}"))
    except (ValueError, RecursionError):  # the latter for brackets within thousands of brackets
        return {}
    return fields if isinstance(fields, dict) else {}
