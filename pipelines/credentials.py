"""Keeps credentials out of recipes, which are saved, logged and sent on. Imports neither torch nor ray."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from clippy.config import Section

_SECRET_WORDS = {"key", "secret", "token", "password", "passwd", "sas", "credential", "credentials", "authorization"}


class LocationSection(Section):
    """A section that names a place: its options may not hold credentials, because a recipe is saved and logged."""

    storage_options: dict[str, Any] = Field(default_factory=dict)
    """As in fsspec: ``endpoint_url``, ``anon``, ``region``, ``profile``. Credentials come from the environment."""

    @field_validator("storage_options")
    @classmethod
    def _no_credentials(cls, options: dict[str, Any]) -> dict[str, Any]:
        secrets = list(_secrets(options))
        if secrets:
            raise ValueError(
                f"{', '.join(secrets)}: credentials do not belong in a recipe, which is saved and logged; set "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, or name a profile"
            )
        return options


def _secrets(options: Mapping[str, Any], section: str = "") -> Iterator[str]:
    """Names of options that hold credentials, those inside of others too."""
    for name, value in options.items():
        words = set(re.split(r"[_\W]+", name.lower()))
        if words & _SECRET_WORDS or "secret" in name.lower() or name.lower() == "connection_string":
            yield section + name
        elif isinstance(value, Mapping):
            yield from _secrets(value, f"{section}{name}.")
        elif isinstance(value, str) and _has_credentials(value):
            yield section + name


def _has_credentials(url: str) -> bool:
    return "://" in url and "@" in urlsplit(url).netloc


def without_credentials(url: str) -> str:
    """The URL as it may be shown and saved: without the user name and password of its host."""
    host = urlsplit(url).netloc
    return url.replace(host, host.rpartition("@")[2], 1) if _has_credentials(url) else url


def checked_url(value: str | None) -> str | None:
    """``value`` itself. Raises ValueError where it is empty or carries a user name or password."""
    if value is None:
        return None
    if not value:
        raise ValueError("must name a folder or URL, not be empty")
    if _has_credentials(value):
        raise ValueError(
            "carries credentials before the '@'; a recipe is saved and logged, so set them in the environment"
        )
    return value
