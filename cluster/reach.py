"""Which places that a recipe names only one machine has, and that nothing in it is a secret."""

from __future__ import annotations

from pathlib import Path
from posixpath import normpath

from clippy.config import ConfigError
from cluster.spec import ClusterSpec
from pipelines.credentials import has_credentials
from pipelines.places import SQLITE, is_of_this_machine, of_environment
from pipelines.recipe import Recipe


def check_places(recipe: Recipe, spec: ClusterSpec) -> None:
    """Raises ConfigError with every field that names a folder or server of one machine, or holds credentials."""
    problems = [
        f"{name}: holds credentials in a URL, and manifests are no place for them; leave them out and name a Secret in "
        "cluster.secrets, or a cluster.service_account"
        for name, value in recipe.flat().items()
        if isinstance(value, str) and has_credentials(value)
    ]
    told = {f"environment.{name}": place for name, place in of_environment(spec.environment).items()}
    problems += [
        f"{name}: {place!r} is a {_SERVER if _is_server(place) else _FOLDER}"
        for name, place in (recipe.places() | told).items()
        if is_of_this_machine(place) and not _is_on_a_volume(place, spec)
    ]
    problems += [
        f"{name}: {place!r} is a file or folder of one machine; give a name of the Hugging Face hub, {_SHARED}"
        for name, place in weights_here(recipe).items()
        if not _is_on_a_volume(place, spec)
    ]
    tracked = {"MLFLOW_TRACKING_URI"} & (spec.environment.keys() | spec.secrets.keys())
    if recipe.tracking.enabled and recipe.tracking.uri is None and not tracked:
        problems.append(
            "tracking.uri: the nodes need an MLflow server, as in https://mlflow.example; name it, or set "
            "tracking.enabled=false"
        )
    if problems:
        raise ConfigError(recipe.name, problems)


def weights_here(recipe: Recipe) -> dict[str, str]:
    """Fields that name files of other people's models here, rather than a name of a hub."""
    image, text = recipe.model.image, recipe.model.text
    named = {"image.pretrained": image.pretrained, "text.pretrained": text.pretrained, "text.tokenizer": text.tokenizer}
    return {
        f"model.{name}": place
        for name, place in named.items()
        if isinstance(place, str) and place not in ("bytes", "vocabulary") and _is_path(place)
    }


_SHARED = "or the absolute path below a volume of cluster.volumes"
_FOLDER = (
    f"folder of one machine, which a cluster's nodes do not share; give a URL such as s3://bucket/folder, {_SHARED}"
)
_SERVER = "server of one machine, which a cluster's nodes do not reach; give an address that all of them reach"


def _is_path(name: str) -> bool:
    return name.startswith(("/", ".", "~")) or Path(name).exists()


def _is_server(place: str) -> bool:
    return "://" in place and not place.startswith(("file:", "sqlite:"))


def _is_on_a_volume(place: str, spec: ClusterSpec) -> bool:
    path = normpath(place.removeprefix("file://").removeprefix(SQLITE)) + "/"
    return any(path.startswith(volume.path.rstrip("/") + "/") for volume in spec.volumes)
