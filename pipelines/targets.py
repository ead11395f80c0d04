"""What MODEL and CHECKPOINT on the command line name. Imports no ray, so that using a model starts at once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clippy.load import CONFIG_FILE, OPEN_CLIP, OPEN_CLIP_FILE, load_model, model_kind
from pipelines.checkpoints import STATE_FILE, CheckpointError, checkpoint_name, checksum, committed_steps, local_folder
from pipelines.recipe import Recipe
from pipelines.run_folder import RECIPE_FILE, RunFolder
from pipelines.storage import Location, locate

if TYPE_CHECKING:
    from clippy.decoder import Decoder, DecoderConfig
    from clippy.load import AnyModel


@dataclass(frozen=True)
class Target:
    """A model of ours to evaluate, and the run it comes from if it lies in one."""

    model: Location
    step: int | None
    run: RunFolder | None
    recipe: Recipe | None


@dataclass(frozen=True)
class FoundModel:
    """A model to use, ours or a baseline: where it is, and the step of a run that it comes from."""

    name: str
    step: int | None
    folder: Location | None
    """None for what the hub or open_clip has under ``name``."""

    def load(self) -> AnyModel:
        """The model, on the CPU. Raises ValueError where it does not load whole."""
        if self.folder is None:
            return load_model(self.name)
        with local_folder(self.folder) as folder:
            return load_model(folder)


@dataclass(frozen=True)
class FoundDecoder:
    """A trained decoder, and what tells it from others that lay in its folder before."""

    folder: Location
    config: DecoderConfig
    digest: str

    def load(self) -> Decoder:
        """The decoder, on the CPU. Raises ValueError where it does not load whole."""
        from clippy.decoder import Decoder

        with local_folder(self.folder) as folder:
            return Decoder.from_pretrained(folder)


def find_decoder(path: str) -> FoundDecoder:
    """The decoder in a folder. Raises ValueError where there is none."""
    from clippy.decoder import DECODER_WEIGHTS_FILE, Decoder

    location = locate(path)
    with local_folder(location) as folder:
        config = Decoder.from_pretrained(folder).config
        return FoundDecoder(location, config, checksum(folder / DECODER_WEIGHTS_FILE))


def find_model(path: str) -> FoundModel:
    """What ``path`` names: a run, a checkpoint, a folder of any kind of model, a hub name, or open_clip's.

    Raises ValueError where nothing is found.
    """
    if not path.startswith(OPEN_CLIP):
        location = locate(path)
        if (location / OPEN_CLIP_FILE).exists() and not (location / CONFIG_FILE).exists():
            return FoundModel(path, None, location)
        if location.exists() or not _may_be_of_hub(path):
            target = find_target(path)
            return FoundModel(target.model.url, target.step, target.model)
    model_kind(path)  # refuses what is no model before anything else is done
    return FoundModel(path, None, None)


def find_target(path: str) -> Target:
    """What ``path`` names: a run folder, one of its checkpoints, or a model folder. Raises CheckpointError."""
    location = locate(path)
    if (location / RECIPE_FILE).exists() and not (location / STATE_FILE).exists():
        run = RunFolder(location)
        recipe = run.read_recipe()
        location = locate(path, recipe.storage.storage_options)
        steps = committed_steps(run.checkpoints)
        if not steps:
            raise CheckpointError(
                f"{path}: this run has no checkpoint yet; go on with: clippy train {path}/{RECIPE_FILE}"
            )
        return Target(run.checkpoints / checkpoint_name(steps[-1]), steps[-1], run, recipe)
    if not (location / CONFIG_FILE).exists():
        raise CheckpointError(f"{path}: neither a run, a checkpoint nor a model folder; it has no {CONFIG_FILE}")
    if not (location / STATE_FILE).exists():
        return Target(location, None, None, None)
    step = json.loads((location / STATE_FILE).read_text())["step"]
    recipe = Recipe.load(f"{path}/{RECIPE_FILE}", (location / RECIPE_FILE).read_text())
    parent = RunFolder(locate("/".join(path.rstrip("/").split("/")[:-2]) or "."))
    return Target(location, step, parent if parent.exists() else None, recipe)


def _may_be_of_hub(path: str) -> bool:
    """Whether this has the form OWNER/NAME; in a folder that is here it is a slip, for which no network is asked."""
    parts = Path(path).parts
    return "://" not in path and len(parts) == 2 and parts[0] not in ("/", "~", "..") and not Path(parts[0]).is_dir()
