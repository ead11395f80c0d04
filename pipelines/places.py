"""Places as they are named: folders, files, URLs and servers. Imports neither torch nor ray."""

from __future__ import annotations

from collections.abc import Mapping
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


def endpoints(options: Mapping[str, Any], section: str) -> dict[str, str]:
    """Servers that storage options name, by field."""
    return {
        f"{section}.{name}": _server(value)
        for name, value in flatten(options).items()
        if name.rpartition(".")[2] == "endpoint_url" and isinstance(value, str)
    }


def of_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Places that variables name for what a recipe leaves open."""
    servers = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "STORAGE_EMULATOR_HOST")
    named = {name: _server(variables[name]) for name in servers if name in variables}
    tracking = mlflow_place(variables.get("MLFLOW_TRACKING_URI"))
    return named | ({"MLFLOW_TRACKING_URI": tracking} if tracking else {})


def mlflow_place(uri: str | None) -> str | None:
    """The file or server of an MLflow store; None where an account says where that is, as with ``databricks``."""
    return None if uri is None or uri.startswith("databricks") else uri


def _server(address: str) -> str:
    """Without a scheme, as storage reads it."""
    return address if "://" in address else f"https://{address}"
