"""Places as they are named: folders, files, URLs and servers. Imports neither torch nor ray."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from clippy.config import flatten

SQLITE = "sqlite:///"
"""Begins an MLflow store that is a file."""


def anchored(place: str) -> str:
    """The place with an absolute path where it is a folder or file of this machine; a URL as it is."""
    if place.startswith(SQLITE):
        return SQLITE + anchored(place.removeprefix(SQLITE))
    return place if "://" in place else str(Path(place).expanduser().absolute())


def is_of_this_machine(place: str) -> bool:
    """Whether the place is a file, folder or server that other machines do not have or find elsewhere."""
    if "://" not in place or place.startswith(("file:", "sqlite:")):
        return True
    host = urlsplit(place).hostname or ""
    return host in ("localhost", "::1", "0.0.0.0") or host.endswith(".localhost") or host.startswith("127.")


def endpoints(options: Mapping[str, Any], section: str) -> Iterator[tuple[str, str]]:
    """Servers that storage options name, by field; one without a scheme is read as storage reads it."""
    for name, value in flatten(options).items():
        if name.rpartition(".")[2] == "endpoint_url" and isinstance(value, str):
            yield f"{section}.{name}", value if "://" in value else f"https://{value}"
