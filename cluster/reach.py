"""Whether every node of a cluster reaches what a recipe names, and that nothing in it is a secret."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from clippy.config import ConfigError
from cluster.spec import ClusterSpec
from pipelines.credentials import has_credentials
from pipelines.recipe import Recipe


def check_places(recipe: Recipe, spec: ClusterSpec) -> None:
    """Raises ConfigError with every field that names a folder of one machine, or holds credentials."""
    problems = [
        f"{name}: holds credentials in a URL, and manifests are no place for them; leave them out and name a Secret in "
        "cluster.secrets, or a cluster.service_account"
        for name, value in recipe.flat().items()
        if isinstance(value, str) and has_credentials(value)
    ]
    shared = "or the absolute path below a volume of cluster.volumes"
    problems += [
        f"{name}: {place!r} is a folder of one machine, which a cluster's nodes do not share; give a URL such as "
        f"s3://bucket/folder, {shared}"
        for name, place in _places(recipe)
        if not _is_shared(place, spec)
    ]
    problems += [
        f"{name}: {place!r} is a file or folder of one machine; give a name of the Hugging Face hub, {shared}"
        for name, place in _weights(recipe)
        if not _is_shared(place, spec)
    ]
    if recipe.tracking.enabled and recipe.tracking.uri is None and "MLFLOW_TRACKING_URI" not in spec.environment:
        problems.append(
            "tracking.uri: the nodes need an MLflow server, as in https://mlflow.example; name it, or set "
            "tracking.enabled=false"
        )
    if problems:
        raise ConfigError(recipe.name, problems)


def _places(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Fields that name a folder or file, and what they name."""
    several = bool(recipe.data.sources)
    for number, source in enumerate(recipe.data.datasets):
        section = f"data.sources.{number}" if several else "data"
        yield f"{section}.url", source.url
        if source.manifest is not None:
            yield f"{section}.manifest", source.manifest
    if recipe.eval.every is not None and recipe.eval.url is not None:
        yield "eval.url", recipe.eval.url
    yield "storage.url", recipe.storage.url
    if recipe.tracking.enabled and recipe.tracking.uri and recipe.tracking.uri.startswith("sqlite:///"):
        yield "tracking.uri", recipe.tracking.uri.removeprefix("sqlite:///")


def _weights(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Fields that name files of other people's models here, rather than a name of a hub."""
    image, text = recipe.model.image, recipe.model.text
    named = {"image.pretrained": image.pretrained, "text.pretrained": text.pretrained, "text.tokenizer": text.tokenizer}
    for name, place in named.items():
        if isinstance(place, str) and (place.startswith(("/", ".", "~")) or Path(place).exists()):
            yield f"model.{name}", place


def _is_shared(place: str, spec: ClusterSpec) -> bool:
    if "://" in place and not place.startswith("file:"):
        return True
    path = place.removeprefix("file://").rstrip("/") + "/"
    return any(path.startswith(volume.path.rstrip("/") + "/") for volume in spec.volumes)
