"""How long a step takes and what memory it needs on each worker, from a dry run and the cluster's rates."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import lru_cache
from math import ceil, log2

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from clippy.architecture import ModelConfig
from clippy.loss import contrastive_loss
from cluster.capacity.dry_run import DryRun, Watch, caption_lengths, dry_run
from cluster.capacity.hardware import Cluster, Rates
from cluster.capacity.pairs import Pairs
from cluster.capacity.work import Work
from pipelines.recipe import Recipe

_FLOAT = 4
_BUCKET_BYTES = 25 * 2**20
"""What DistributedDataParallel adds up at once."""
ADAM_PASSES, _LAMB_PASSES = 7, 16
"""Times that an optimizer reads or writes each parameter's float: weight, gradient and two moments, three written."""
_CLIP_PASSES = 3
"""Of the gradients, for their norm and its bound."""


@dataclass(frozen=True)
class LossRun:
    """The loss on one worker, forward and backward."""

    work: Work
    peak_bytes: int
    """Gathered embeddings, their gradients, and a chunk of logits."""


@dataclass(frozen=True)
class StepModel:
    """What a step does on each worker: micro-batches of ``passes.rows`` rows, so many of them, and the loss."""

    passes: DryRun
    micro_batches: int
    loss: LossRun
    embedding_bytes: int
    """One side's embeddings of a worker's rows, in float32."""


@dataclass(frozen=True)
class StepSeconds:
    """Where the time of a step goes."""

    forward: float
    backward: float
    recomputed: float
    """Forward passes that micro-batches run for their embeddings alone."""
    loss: float
    embeddings: float
    """Gathering them, and scattering their gradients."""
    gradients: float
    """What of adding up the gradients goes on after the backward pass."""
    optimizer: float
    copies: float
    """Of pixels to the device."""

    @property
    def total(self) -> float:
        """Of a step."""
        return sum(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True)
class WorkerMemory:
    """Bytes on each worker's device at their highest."""

    weights: int
    optimizer: int
    gradients: int
    gradient_buckets: int
    activations: int
    """Beyond the gradients' own room, which they share before these are there."""
    embeddings_and_loss: int
    inputs: int
    framework: int
    allocator: int

    @property
    def total(self) -> int:
        """Of all that."""
        return sum(getattr(self, field.name) for field in fields(self))


def model_step(recipe: Recipe, pairs: Pairs, workers: int) -> StepModel:
    """Dry runs of the recipe's towers and loss. Raises ValueError naming the field when a tower cannot be built."""
    rows, train = recipe.micro_batch_size, recipe.train
    micro_batches = ceil(recipe.optim.global_batch_size / (rows * workers))
    lengths = tuple(caption_lengths(rows, pairs.tokens, pairs.token_spread, recipe.model.text.max_tokens))
    passes = _passes(recipe.model.model_dump_json(), lengths, train.precision, train.activation_checkpointing)
    own = rows * micro_batches
    return StepModel(passes, micro_batches, loss_run(own, workers, passes.width), own * passes.width * _FLOAT)


@lru_cache(maxsize=32)
def _passes(model: str, lengths: tuple[int, ...], precision: str, checkpointing: bool) -> DryRun:
    config = ModelConfig.model_validate_json(model)
    return dry_run(config, lengths, precision=precision, checkpointing=checkpointing)


@lru_cache(maxsize=32)
def loss_run(rows: int, workers: int, width: int) -> LossRun:
    """The loss of a worker's rows against those of all workers, forward and backward."""

    def gather(own: torch.Tensor) -> tuple[torch.Tensor, int]:
        return own.repeat(workers, *[1] * (own.ndim - 1)), 0

    with FakeTensorMode():
        image, text = (torch.empty(rows, width, requires_grad=True) for _ in range(2))
        scale = torch.empty((), requires_grad=True)
        with Watch() as watch:
            contrastive_loss(image, text, scale, gather=gather).backward()
        return LossRun(watch.take(), watch.peak_bytes)


def step_seconds(recipe: Recipe, model: StepModel, cluster: Cluster, rates: Rates) -> StepSeconds:
    """Where the time of a step goes on each worker, if it never waits for data."""
    device, passes, times = cluster.device, model.passes, model.micro_batches
    forward, backward = passes.forward.seconds(device), passes.backward.seconds(device)
    gradient_bytes = _FLOAT * passes.trained
    last_bucket = all_reduce_seconds(min(_BUCKET_BYTES, gradient_bytes), cluster, rates)
    pixels = passes.rows * times * 3 * recipe.model.image.image_size**2
    return StepSeconds(
        forward=times * forward,
        backward=times * backward,
        recomputed=times * forward if times > 1 else 0.0,
        loss=model.loss.work.seconds(device),
        embeddings=4 * gather_seconds(cluster.workers * model.embedding_bytes, cluster, rates),
        gradients=max(last_bucket, all_reduce_seconds(gradient_bytes, cluster, rates) - backward),
        optimizer=optimizer_bytes(recipe, passes) / device.bytes_per_second
        + 2 * passes.tensors * device.operation_seconds,
        copies=0.0 if cluster.shares_cores else pixels / (rates.host_copy_gb_per_s.value * 1e9),
    )


def optimizer_bytes(recipe: Recipe, passes: DryRun) -> int:
    """Read and written by clipping the gradients and by the optimizer."""
    return _FLOAT * passes.trained * (_CLIP_PASSES + (_LAMB_PASSES if recipe.optim.name == "lamb" else ADAM_PASSES))


def all_reduce_seconds(size: int, cluster: Cluster, rates: Rates) -> float:
    """Adding up ``size`` bytes over all workers in a ring: each sends and receives almost all of them twice."""
    return 2 * gather_seconds(size, cluster, rates)


def gather_seconds(size: int, cluster: Cluster, rates: Rates) -> float:
    """Bringing ``size`` bytes, a part from each worker, to all of them; or scattering as many sums.

    Rings of all workers run side by side over the network cards of each machine, so that between machines they share
    its whole network; the first byte takes as many messages as a tree is high.
    """
    workers = cluster.workers
    if workers == 1:
        return 0.0
    rate = cluster.link_bytes_per_second
    if cluster.nodes > 1:
        rate = min(rate, cluster.node.network_gbit * 1e9 / 8)
    moving = (workers - 1) / workers * size / (rates.network_share.value * rate)
    return moving + ceil(log2(workers)) * rates.network_seconds.value


def worker_memory(model: StepModel, cluster: Cluster, recipe: Recipe) -> WorkerMemory:
    """Memory of one worker's device at its highest."""
    passes, several = model.passes, model.micro_batches > 1
    gradients = _FLOAT * passes.trained
    if several:  # the sum of gradients is there while the next micro-batch runs
        activations = passes.saved_bytes + passes.spare_bytes
        embeddings = 4 * model.embedding_bytes  # and their gradients
        beyond = max(0, model.loss.peak_bytes - gradients - activations)
    else:
        activations = max(0, passes.working_bytes - gradients)
        embeddings, beyond = 0, model.loss.peak_bytes
    image, text = recipe.model.image, recipe.model.text
    used = WorkerMemory(
        weights=passes.weight_bytes,
        optimizer=2 * gradients + _FLOAT * passes.tensors,
        gradients=gradients,
        gradient_buckets=gradients if cluster.workers > 1 else 0,
        activations=activations,
        embeddings_and_loss=embeddings + beyond,
        inputs=passes.rows * (3 * image.image_size**2 + 8 * text.max_tokens),
        framework=0,
        allocator=0,
    )
    device = cluster.device
    return replace(used, framework=device.framework_bytes, allocator=int(device.spare_share * used.total))
