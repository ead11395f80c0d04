"""A decoder trained on the masks of some classes: ``clippy decoder train``. One process; the same command resumes."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from typing import Any

from clippy.config import nearest
from clippy.decoder import DecoderConfig, model_checksum
from clippy.describe import count_parameters
from clippy.load import AnyModel
from clippy.readout import View
from clippy.vocabulary import ClassList
from pipelines.console import Console
from pipelines.decoder_training import DecoderTraining, Words
from pipelines.evaluation.benchmarks import templates_of
from pipelines.evaluation.dataset import Dataset
from pipelines.evaluation.datasets.catalogue import BENCHMARKS as READERS
from pipelines.evaluation.datasets.catalogue import open_benchmark, usual_split
from pipelines.evaluation.datasets.masked import MaskedPictures
from pipelines.evaluation.names import BENCHMARKS
from pipelines.mask_batches import MaskBatches, targets_of
from pipelines.storage import locate
from pipelines.targets import find_model

HIDDEN_WIDTH = 256
"""Channels of the decoder where embeddings are wider."""
_TOLD = ("benchmark", "data", "steps", "batch_size", "learning_rate", "seed")
"""Fields of a request that the decoder's weights hang on."""


@dataclass(frozen=True)
class DecoderRequest:
    """What to train on what."""

    model: str
    benchmark: str
    data: str
    out: str
    split: str | None = None
    """None is ``train``, or the only split that there is."""
    seen: tuple[str, ...] | None = None
    """Classes whose masks are shown; None is all but ``unseen``."""
    unseen: tuple[str, ...] = ()
    steps: int = 2000
    batch_size: int = 16
    learning_rate: float = 1e-3
    size: int | None = None
    """Side of the crops in pixels; None is the size that the model was trained on."""
    seed: int = 0
    checkpoint_every: int = 200


@dataclass(frozen=True)
class DecoderSummary:
    """What was trained."""

    decoder: str
    model: str
    pictures: int
    seen: tuple[str, ...]
    unseen: tuple[str, ...]
    steps: int
    parameters: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """For ``--json`` and people."""
        return asdict(self)


def train_decoder(request: DecoderRequest, console: Console | None = None) -> DecoderSummary:
    """Train a decoder over a frozen model, write it into ``request.out``; what is there already is gone on with.

    Bit by bit the same on a CPU for the same request, however often it was interrupted. Raises ValueError, with one
    clear sentence, for what is missing or does not fit.
    """
    console, started = console or Console(), time.monotonic()
    _check(request)
    dataset, classes, split = _open_pictures(request)
    seen = choose_seen(classes.names, request)
    found, out = find_model(request.model), locate(request.out)
    model = found.load().requires_grad_(False)
    size = request.size or model.image_size
    _check_size(model, size)
    learnt = [i for i, name in enumerate(classes.names) if name in seen]
    templates = templates_of(request.benchmark, locate(request.data))
    words = Words.embed(model, classes, learnt, templates)
    told: dict[str, str | int | float] = {name: getattr(request, name) for name in _TOLD}
    told |= {"split": split, "pictures": len(dataset), "templates": " | ".join(templates), "size": size}
    config = DecoderConfig(
        model=found.name,
        checksum=model_checksum(model),
        width=words.embeddings_KD.shape[1],
        patch_size=model.patch_size,
        hidden_width=min(HIDDEN_WIDTH, words.embeddings_KD.shape[1]),
        seen=seen,
        training=told,
    )
    targets = targets_of(len(classes), learnt)
    batches = MaskBatches(dataset, targets, size, request.batch_size, request.seed)
    training = DecoderTraining(
        config, model, words, batches, request.steps, request.learning_rate, request.checkpoint_every, out
    )
    console.line(f"a decoder over {found.name}: {len(dataset):,} pictures, {len(seen)} of {len(classes)} classes")
    decoder = training.run(console)
    return DecoderSummary(
        decoder=out.url,
        model=found.name,
        pictures=len(dataset),
        seen=seen,
        unseen=tuple(name for name in classes.names if name not in seen),
        steps=request.steps,
        parameters=count_parameters(decoder),
        seconds=round(time.monotonic() - started, 1),
    )


def choose_seen(names: tuple[str, ...], request: DecoderRequest) -> tuple[str, ...]:
    """The classes whose masks are shown, in the benchmark's order. Raises ValueError."""
    if request.seen is not None and request.unseen:
        raise ValueError("--seen, --unseen: each says what the other leaves; give one of them")
    for option, told in (("--seen", request.seen or ()), ("--unseen", request.unseen)):
        for name in told:
            if name not in names:
                raise ValueError(f"{option}: {request.benchmark} has no class {name!r}{nearest(name, names)}")
    seen = tuple(
        name for name in names if (name not in request.unseen if request.seen is None else name in request.seen)
    )
    if len(seen) < 2:
        raise ValueError(f"--seen, --unseen: at least two classes must be seen to be told apart (got {len(seen)})")
    return seen


def _open_pictures(request: DecoderRequest) -> tuple[Dataset, ClassList, str]:
    """Pictures with masks, their classes, and the split's name. Raises ValueError."""
    masked = [name for name, asked in BENCHMARKS.items() if asked.kind in ("segmentation", "shapes", "own")]
    if request.benchmark not in masked:
        raise ValueError(f"--benchmark: {request.benchmark!r} has no masks to learn from; {', '.join(masked)} have")
    only_one = len(READERS[request.benchmark].splits) == 1
    split = request.split or (usual_split(request.benchmark) if only_one else "train")
    dataset, classes = open_benchmark(request.benchmark, locate(request.data), split)
    if not len(dataset):
        raise ValueError(f"{request.data}: {request.benchmark} has no pictures here")
    if isinstance(dataset, MaskedPictures):
        dataset = replace(dataset, segments=None)  # files that nobody looks into
    return dataset, classes, split


def _check(request: DecoderRequest) -> None:
    for name in ("steps", "batch_size", "checkpoint_every"):
        if getattr(request, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')}: must be at least 1 (got {getattr(request, name)})")
    if request.learning_rate <= 0:
        raise ValueError(f"--learning-rate: must be above 0 (got {request.learning_rate})")


def _check_size(model: AnyModel, size: int) -> None:
    View(size=size).check_model(model.image_size, model.patch_size, model.takes_one_size, "--")
    if size % model.patch_size:
        near = max(1, round(size / model.patch_size)) * model.patch_size
        raise ValueError(f"--size: must be whole patches of {model.patch_size} pixels (got {size}); use {near}")
