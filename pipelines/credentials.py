"""Keeps credentials out of recipes, which are saved, logged and sent on. Imports neither torch nor ray."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from pydantic import Field, field_validator

from clippy.config import Section

_SECRET_WORDS = {
    *("key", "secret", "token", "password", "passwd", "sas", "credential", "credentials", "authorization"),
    *("sig", "signature"),
}


_KINDS: dict[str, type] = {"endpoint_url": str, "region": str, "profile": str, "anon": bool}
_KIND_NAMES = {str: "text", bool: "true or false"}


class LocationSection(Section):
    """A section that names a place: its options may not hold credentials, because a recipe is saved and logged."""

    storage_options: dict[str, Any] = Field(default_factory=dict)
    """As in fsspec: ``endpoint_url``, ``anon``, ``region``, ``profile``. Credentials come from the environment."""

    @field_validator("storage_options")
    @classmethod
    def _check_options(cls, options: dict[str, Any]) -> dict[str, Any]:
        secrets = list(secret_names(options))
        if secrets:
            raise ValueError(
                f"{', '.join(secrets)}: credentials do not belong in a recipe, which is saved and logged; set "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, or name a profile"
            )
        for name, kind in _KINDS.items():
            if options.get(name) is not None and not isinstance(options[name], kind):
                raise ValueError(f"{name}: must be {_KIND_NAMES[kind]} (got {json.dumps(options[name])})")
        return options


def secret_names(options: Mapping[str, Any], section: str = "") -> Iterator[str]:
    """Names of options that hold credentials, those inside of others too."""
    for name, value in options.items():
        words = set(re.split(r"[_\W]+", name.lower()))
        if words & _SECRET_WORDS or "secret" in name.lower() or name.lower() == "connection_string":
            yield section + name
        elif isinstance(value, Mapping):
            yield from secret_names(value, f"{section}{name}.")
        elif isinstance(value, str) and has_credentials(value):
            yield section + name


def has_credentials(url: str) -> bool:
    """Whether a URL carries a user name or password, or a token or signature among its parameters."""
    if "://" not in url:
        return False
    parts = urlsplit(url)
    user, at, _ = parts.netloc.rpartition("@")
    named = bool(at) and not (parts.scheme in ("abfs", "abfss") and ":" not in user)  # Azure's container@account
    return named or any(secret_names(dict(parse_qsl(parts.query))))


def without_credentials(url: str) -> str:
    """The URL as it may be shown and saved: without user name, password, and parameters where one of them is secret."""
    if not has_credentials(url):
        return url
    parts = urlsplit(url)
    query = "" if any(secret_names(dict(parse_qsl(parts.query)))) else parts.query
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=query))


def checked_url(value: str | None) -> str | None:
    """``value`` itself. Raises ValueError where it is empty or carries a user name or password."""
    if value is None:
        return None
    if not value:
        raise ValueError("must name a folder or URL, not be empty")
    if has_credentials(value):
        raise ValueError(
            "carries credentials before the '@' or among its parameters; a recipe is saved and logged, so set them in "
            "the environment"
        )
    return value
