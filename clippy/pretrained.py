"""Other people's weights: found by hub name, folder or file, and read without running any code in them.

They are loaded whole or not at all: a key that is missing, left over or of another shape is an error that names it.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

WEIGHTS_FILES = (
    "model.safetensors",
    "pytorch_model.bin",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
)
"""Names that weights have in a folder or hub repository, the safest first."""

_WRAPPINGS = ("state_dict", "model", "teacher")
"""Keys under which training programs keep weights: open_clip's, timm's and most others', DINO's."""
_PREFIXES = ("module.", "backbone.", "_orig_mod.")
"""What DistributedDataParallel, DINO's head and torch.compile put before each name."""
_NAMED = 8
"""So many keys are named in an error, the rest counted."""

_SUFFIXES = {".safetensors", ".pt", ".pth", ".bin", ".ckpt"}
"""Of files of weights; no repository of the hub is called so."""


class Repository:
    """Files under one name: a local folder, or a repository of the Hugging Face hub, downloaded once and then cached.

    Raises ValueError, beginning with ``field``, for a name that is neither.
    """

    def __init__(self, name: str, field: str) -> None:
        self.name = name
        self._field = field
        self._folder = Path(name).expanduser()

    def find(self, file: str) -> Path | None:
        """The local path of ``file``, such as ``config.json`` or ``2_Dense/config.json``; None where there is none."""
        if self._folder.is_dir():
            path = self._folder / file
            return path if path.is_file() else None
        from huggingface_hub import hf_hub_download, try_to_load_from_cache
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        try:
            return Path(hf_hub_download(self.name, file))
        except LocalEntryNotFoundError as error:  # an EntryNotFoundError too, but of a hub that does not answer
            if isinstance(try_to_load_from_cache(self.name, "config.json"), str):
                return None  # what was needed of the repository was downloaded before, and this was not
            raise ValueError(
                f"{self._field}: {self.name!r} is no folder here, and the hub cannot be reached for it "
                f"({_first_line(error)}); give a folder, or download it once where there is a network"
            ) from None
        except EntryNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{self._field}: {self.name!r} is neither a folder nor a repository of the hub ({_first_line(error)})"
            ) from None

    def weights(self, subfolder: str = "") -> Path:
        """The file of weights. Raises ValueError naming the files that were looked for."""
        for name in WEIGHTS_FILES:
            if path := self.find(f"{subfolder}/{name}" if subfolder else name):
                return path
        place = f"{self.name}/{subfolder}" if subfolder else self.name
        raise ValueError(f"{self._field}: {place} has no weights; expected one of {', '.join(WEIGHTS_FILES)}")


def find_weights(name: str, field: str) -> Path:
    """The file of weights that ``name`` means: a file, a folder with one, or a repository of the hub."""
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if path.suffix in _SUFFIXES and not path.is_dir():
        raise ValueError(f"{field}: {name}: there is no such file; check the name")
    return Repository(name, field).weights()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The weights in a file, on the CPU, without their wrappings.

    Reads safetensors, and pickles with torch's ``weights_only``, which builds tensors and plain values and refuses
    all else. Raises ValueError naming the file.
    """
    try:
        if path.suffix == ".safetensors":
            return unwrap(load_file(path))
        return unwrap(torch.load(path, map_location="cpu", weights_only=True))
    except pickle.UnpicklingError as error:
        if "weights_only" in str(error) or "Unsupported" in str(error):
            raise ValueError(
                f"{path}: holds more than tensors and plain values, which could run code when read "
                f"({_first_line(error)}); save its weights alone, best as safetensors"
            ) from None
        raise ValueError(f"{path}: no file of weights ({_first_line(error)})") from None
    except (RuntimeError, SafetensorError, EOFError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: damaged or no file of weights ({_first_line(error)})") from None


def unwrap(values: Any) -> dict[str, Tensor]:
    """The innermost mapping of names to tensors, without what training programs put around it and before its names.

    Raises ValueError where there is none.
    """
    while isinstance(values, Mapping):
        inner = next((key for key in _WRAPPINGS if isinstance(values.get(key), Mapping)), None)
        if inner is None:
            break
        values = values[inner]
    tensors = {k: v for k, v in values.items() if isinstance(v, Tensor)} if isinstance(values, Mapping) else {}
    if not tensors:
        raise ValueError("no tensors by name in it")
    changed = True
    while changed:
        changed = False
        for prefix in _PREFIXES:
            with_prefix = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            # DINO's file has its projection head beside the backbone; the others prefix every name.
            if with_prefix and (len(with_prefix) == len(tensors) or prefix == "backbone."):
                tensors, changed = with_prefix, True
    return tensors


def load_exactly(module: nn.Module, tensors: Mapping[str, Tensor], source: str, ignored: Sequence[str] = ()) -> None:
    """Load ``tensors`` into ``module``, every one of its keys and nothing else.

    ``ignored``: prefixes of keys that the file may hold besides. One of two tied parameters may be missing. Raises
    ValueError naming what is missing, left over, or of another shape; then nothing is loaded.
    """
    own = module.state_dict()
    found = dict(tensors)
    for names in _tied(module):
        present = [name for name in names if name in found]
        found |= {name: found[present[0]] for name in names if present and name not in found}
    missing = [name for name in own if name not in found]
    left_over = [name for name in found if name not in own and not name.startswith(tuple(ignored))]
    shapes = [
        f"{name} {tuple(found[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in found and found[name].shape != tensor.shape
    ]
    problems = {"missing": missing, "left over": left_over, "of another shape": shapes}
    if any(problems.values()):
        listed = "; ".join(f"{what}: {_some(names)}" for what, names in problems.items() if names)
        raise ValueError(f"{source}: these weights are not of this architecture: {listed}")
    module.load_state_dict({name: found[name] for name in own})


def _tied(module: nn.Module) -> list[list[str]]:
    """Names of one parameter that has several, as T5's embedding has."""
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [several for several in names.values() if len(several) > 1]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
