"""A decoder trained on the masks of some classes: ``clippy decoder train``. One process; the same command resumes."""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from clippy import inference
from clippy.config import nearest
from clippy.decoder import (
    DECODER_CONFIG_FILE,
    DECODER_WEIGHTS_FILE,
    Decoder,
    DecoderConfig,
    decoder_loss,
    model_checksum,
    read_decoder_config,
)
from clippy.describe import count_parameters
from clippy.load import AnyModel
from clippy.readout import View
from clippy.vocabulary import ClassList
from pipelines import checkpoints
from pipelines.checkpoints import checkpoint_name, checksum, committed_steps, local_folder
from pipelines.console import Console
from pipelines.evaluation.benchmarks import templates_of
from pipelines.evaluation.dataset import Dataset
from pipelines.evaluation.datasets.catalogue import BENCHMARKS as READERS
from pipelines.evaluation.datasets.catalogue import open_benchmark, usual_split
from pipelines.evaluation.names import BENCHMARKS
from pipelines.mask_batches import MaskBatches, targets_of
from pipelines.optim import build_optimizer, learning_rate, set_learning_rate
from pipelines.recipe import OptimConfig
from pipelines.state import OPTIMIZER_FILE, load_optimizer, optimizer_tensors
from pipelines.storage import Location, locate
from pipelines.targets import find_model

CHECKPOINTS = "checkpoints"
WEIGHT_DECAY = 0.01
_WARMUP = 0.05
"""Share of the steps in which the rate rises."""
_LOG_EVERY = 10
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
    facts: dict[str, str | int | float] = {
        "split": split,
        "pictures": len(dataset),
        "templates": " | ".join(templates),
        "size": size,
    }
    config = DecoderConfig(
        model=found.name,
        checksum=model_checksum(model),
        width=words.embeddings_KD.shape[1],
        patch_size=model.patch_size,
        seen=seen,
        training=facts | {name: getattr(request, name) for name in _TOLD},
    )
    decoder = _new_decoder(config, request.seed)
    if (out / DECODER_CONFIG_FILE).exists():
        _require_same(out, read_decoder_config((out / DECODER_CONFIG_FILE).read_text(), out.url), config)
        console.line(f"{out.url}: is trained already")
    else:
        console.line(f"training a decoder over {found.name}: {len(dataset):,} pictures, {len(seen)} classes with masks")
        batches = MaskBatches(dataset, targets_of(len(classes), learnt), size, request.batch_size, request.seed)
        _train(decoder, words, model, batches, request, out, console)
        _write(decoder, out)
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


@dataclass(frozen=True)
class Words:
    """Frozen words (K, D) of unit length, and which of the learnt classes each stands for (K,)."""

    embeddings_KD: Tensor
    class_of_word_K: Tensor

    @classmethod
    def embed(cls, model: AnyModel, classes: ClassList, learnt: list[int], templates: tuple[str, ...]) -> Words:
        """A name for each class, and for the background, if it is learnt, the words that evaluation gives it too."""
        words, class_of_word = [classes.names[i] for i in learnt], list(range(len(learnt)))
        if classes.background in learnt:
            words += classes.extra_words
            class_of_word += [learnt.index(classes.background)] * len(classes.extra_words)
        embeddings_KD = inference.embed_classes(model, words, templates)
        return cls(embeddings_KD.clone(), torch.tensor(class_of_word))  # autograd takes no tensor of inference mode

    def to(self, device: torch.device) -> Words:
        """The same on a device."""
        return Words(self.embeddings_KD.to(device), self.class_of_word_K.to(device))


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


def _train(
    decoder: Decoder,
    words: Words,
    model: AnyModel,
    batches: MaskBatches,
    request: DecoderRequest,
    out: Location,
    console: Console,
) -> None:
    """From the newest checkpoint, if there is one, to the last step."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device), decoder.to(device)
    words = words.to(device)
    config = OptimConfig(
        global_batch_size=request.batch_size,
        learning_rate=request.learning_rate,
        warmup_steps=round(_WARMUP * request.steps),
        weight_decay=WEIGHT_DECAY,
    )
    optimizer = build_optimizer(decoder, config)
    step = first = _resume(decoder, optimizer, out, console)
    started = time.monotonic()
    for images_B3SS, targets_BSS in batches.read_from(step):
        if step == request.steps:
            break
        with torch.no_grad():
            patches_BND, grid = model.encode_patches(images_B3SS.to(device))
        loss = decoder_loss(
            decoder(patches_BND, grid), grid, words.embeddings_KD, words.class_of_word_K, targets_BSS.to(device)
        )
        optimizer.zero_grad()
        loss.backward()
        set_learning_rate(optimizer, learning_rate(step, config, request.steps))
        optimizer.step()
        step += 1
        if step % _LOG_EVERY == 0 or step == request.steps:
            rate = (step - first) * request.batch_size / (time.monotonic() - started)
            console.progress(f"step {step}/{request.steps}  loss {loss.item():.4f}  {rate:.1f} pictures/s")
        if step % request.checkpoint_every == 0 and step < request.steps:
            _save(decoder, optimizer, step, out)
    console.clear()


def _new_decoder(config: DecoderConfig, seed: int) -> Decoder:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Decoder(config)


def _resume(decoder: Decoder, optimizer: torch.optim.Optimizer, out: Location, console: Console) -> int:
    """Put the newest checkpoint into decoder and optimizer; the step that it was made after, 0 without one."""
    checkpoints.clear_remains(out / CHECKPOINTS)
    steps = committed_steps(out / CHECKPOINTS)
    if not steps:
        return 0
    checkpoint = out / CHECKPOINTS / checkpoint_name(steps[-1])
    with local_folder(checkpoint) as folder:
        checkpoints.verify(folder, checkpoint.url)
        saved = Decoder.from_pretrained(folder)
        _require_same(out, saved.config, decoder.config)
        decoder.load_state_dict(saved.state_dict())
        load_optimizer(decoder, optimizer, load_file(folder / OPTIMIZER_FILE))
    console.line(f"going on after step {steps[-1]}")
    return steps[-1]


def _save(decoder: Decoder, optimizer: torch.optim.Optimizer, step: int, out: Location) -> None:
    """A checkpoint, whole or not at all; then those before it are removed."""
    place = out / CHECKPOINTS
    before = committed_steps(place)
    with checkpoints.staging(place, checkpoint_name(step)) as folder:
        decoder.save_pretrained(folder)
        save_file(optimizer_tensors(decoder, optimizer), folder / OPTIMIZER_FILE)
        files = {path.name: checksum(path) for path in sorted(folder.iterdir())}
        checkpoints.commit(folder, place / checkpoint_name(step), {"step": step, "files": files})
    for old in before:
        if old != step:
            checkpoints.remove(place / checkpoint_name(old))


def _write(decoder: Decoder, out: Location) -> None:
    """The decoder itself; its configuration comes last and says that it is trained."""
    with tempfile.TemporaryDirectory() as folder:
        decoder.save_pretrained(folder)
        for name in (DECODER_WEIGHTS_FILE, DECODER_CONFIG_FILE):
            (out / name).write_bytes((Path(folder) / name).read_bytes())
    (out / CHECKPOINTS).remove_folder()


def _require_same(out: Location, there: DecoderConfig, wanted: DecoderConfig) -> None:
    """Raise ValueError unless what lies in ``out`` comes of the same training, wherever the model lay."""
    old, new = (config.flat() for config in (there, wanted))
    for name in new:
        if name != "model" and old.get(name) != new[name]:
            raise ValueError(
                f"{out.url}: holds another training, whose {name.removeprefix('training.')} is {old.get(name)!r} and "
                f"not {new[name]!r}; give --out another folder"
            )


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
