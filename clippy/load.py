"""Any model that pictures can be given to, ours or a baseline, picked by what its own configuration says."""

from __future__ import annotations

import json
from pathlib import Path

from clippy.baselines import GroupViT, HuggingFaceCLIP, OpenCLIP
from clippy.model import CONFIG_FILE, CLIPpy
from clippy.pretrained import Repository

OPEN_CLIP = "open_clip:"
"""Begins ``open_clip:ARCHITECTURE:WEIGHTS``: open_clip's name, and a file or its tag, which no configuration tells."""
OPEN_CLIP_FILE = "open_clip_config.json"
"""What open_clip writes beside its weights in a folder or hub repository."""

AnyModel = CLIPpy | HuggingFaceCLIP | GroupViT | OpenCLIP


def load_model(name: str | Path) -> AnyModel:
    """The model in a folder or hub repository, or open_clip's by its own name; in evaluation mode, on the CPU.

    Raises ValueError, as ``model_kind`` does and where weights do not fit.
    """
    name = str(name)
    kind = model_kind(name)
    if name.startswith(OPEN_CLIP):
        _, architecture, weights = name.split(":", 2)
        return OpenCLIP(architecture, weights)
    if kind == "clippy":
        return CLIPpy.from_pretrained(name)
    if kind == "clip":
        return HuggingFaceCLIP(name)
    if kind == "groupvit":
        return GroupViT(name)
    return OpenCLIP(f"local-dir:{name}" if Path(name).is_dir() else f"hf-hub:{name}")


def model_kind(name: str) -> str:
    """``clippy``, ``clip``, ``groupvit`` or ``open_clip``, from the configuration alone.

    Raises ValueError for a name that is no folder and no repository of the hub, and for a model of another kind.
    """
    if name.startswith(OPEN_CLIP):
        if name.count(":") < 2 or not all(name.split(":", 2)):
            raise ValueError(f"MODEL: {name}: the form is open_clip:ARCHITECTURE:WEIGHTS, a file or a tag of open_clip")
        return "open_clip"
    repository = Repository(name, "MODEL")
    config = repository.find(CONFIG_FILE)
    found = _model_type(config, name) if config else None
    if found in ("clippy", "clip", "groupvit"):
        return found
    if repository.find(OPEN_CLIP_FILE):
        return "open_clip"
    problem = f"its {CONFIG_FILE} is of type {found!r}" if config else f"it has no {CONFIG_FILE}"
    raise ValueError(
        f"MODEL: {name}: {problem}; give a model whose type is 'clippy', 'clip' or 'groupvit', or one with open_clip's "
        f"{OPEN_CLIP_FILE}"
    )


def _model_type(config: Path, name: str) -> str | None:
    try:
        return json.loads(config.read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"MODEL: {name}: its {CONFIG_FILE} cannot be read: {error}") from None
