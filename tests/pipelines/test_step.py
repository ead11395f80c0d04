"""A step on micro-batches is the step on the whole batch: the same gradient and draws, on any number of workers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file

from clippy.loss import contrastive_loss
from clippy.model import CLIPpy
from clippy.tokens import build_tokenizer
from pipelines.batches import MicroBatch
from pipelines.optim import build_optimizer
from pipelines.parallel import data_parallel
from pipelines.recipe import Recipe, load_recipe
from pipelines.state import TrainState
from pipelines.step import Stepper
from pipelines.timing import PHASES, StepTimer
from tests.conftest import TINY

CPU = torch.device("cpu")
DROPOUT = "model.text.arguments={d_model: 24, d_kv: 12, num_heads: 2, d_ff: 32, num_layers: 1, dropout_rate: 0.3}"


def recipe(*overrides: str) -> Recipe:
    """Patch dropout and T5's dropout on, bytes as tokens."""
    more = ("model.image.patch_dropout=0.5", DROPOUT, "model.text.tokenizer=bytes", "data.url=nowhere")
    return load_recipe("shapes", [*TINY, *more, *overrides])


def state_of(config: Recipe) -> TrainState:
    torch.manual_seed(0)
    model = CLIPpy(config.model, build_tokenizer(config.model.text)).train()
    return TrainState(model, build_optimizer(model, config.optim))


def micro_batches(config: Recipe) -> list[MicroBatch]:
    """The same global batch for everyone, a few of its rows invalid."""
    generator = np.random.default_rng(0)
    batch, size, micro = config.optim.global_batch_size, config.model.image.image_size, config.micro_batch_size
    pixels = generator.integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
    ids = generator.integers(4, 200, (batch, 12), dtype=np.int32)
    causes = np.where(np.arange(batch) % 9 == 3, 3, 0).astype(np.int8)
    cut = (np.split(array, batch // micro) for array in (pixels, ids, causes))
    return [MicroBatch(*arrays) for arrays in zip(*cut, strict=True)]


def gradients(state: TrainState) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in state.model.named_parameters() if p.grad is not None}


def take_step(config: Recipe, batches: list[MicroBatch], rank: int = 0, world_size: int = 1) -> tuple[Any, TrainState]:
    state, timer = state_of(config), StepTimer(CPU)
    forward = data_parallel(state.model, CPU, world_size, timer)
    share = len(batches) // world_size
    result = Stepper(state, forward, config, CPU, timer, rank, world_size)(batches[rank * share : (rank + 1) * share])
    assert set(timer.take()) == set(PHASES)
    return result, state


def obvious_gradients(config: Recipe) -> tuple[float, dict[str, torch.Tensor]]:
    """All micro-batches' activations kept, one loss, one backward pass."""
    state = state_of(config)
    stepper = Stepper(state, state.model, config, CPU, StepTimer(CPU))
    outputs = [stepper._embed(stepper._load(batch), i, state.model) for i, batch in enumerate(micro_batches(config))]
    valid = torch.cat([torch.from_numpy(batch.valid) for batch in micro_batches(config)])
    loss = contrastive_loss(
        torch.cat([o[0] for o in outputs]), torch.cat([o[1] for o in outputs]), state.model.logit_scale, valid
    )
    loss.backward()
    return loss.item(), gradients(state)


def assert_close(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], relative: float = 1e-6) -> None:
    assert ours.keys() == theirs.keys()
    scale = max(gradient.norm().item() for gradient in theirs.values())
    for name, gradient in theirs.items():
        difference = (ours[name] - gradient).norm().item()
        assert difference <= relative * max(gradient.norm().item(), 1e-3 * scale), name


def test_gradient_caching_is_the_gradient_of_the_whole_batch() -> None:
    config = recipe("scaling.num_workers=1", "train.micro_batch_size=8")
    loss, expected = obvious_gradients(config)
    result, state = take_step(config, micro_batches(config))
    assert result.loss.item() == pytest.approx(loss, rel=1e-6)
    assert_close(gradients(state), expected)
    clipped = math.sqrt(sum(g.square().sum().item() for g in expected.values()))
    assert result.grad_norm == pytest.approx(clipped, rel=1e-5)


def test_draws_differ_between_micro_batches_and_steps_and_come_again() -> None:
    config = recipe("scaling.num_workers=1", "train.micro_batch_size=8")
    state = state_of(config)
    stepper = Stepper(state, state.model, config, CPU, StepTimer(CPU))
    inputs = stepper._load(micro_batches(config)[0])
    first, other, again = (stepper._embed(inputs, i, state.model)[0] for i in (0, 1, 0))
    state.step = 1
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, stepper._embed(inputs, 0, state.model)[0])


def _work(rank: int, world_size: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world_size)
    config = recipe("scaling.num_workers=2", "train.micro_batch_size=8")
    result, state = take_step(config, micro_batches(config), rank, world_size)
    save_file({**gradients(state), "loss": result.loss}, f"{folder}/{rank}.safetensors")
    dist.destroy_process_group()


def test_two_workers_with_gradient_caching_have_it_too(tmp_path: Path) -> None:
    mp.spawn(_work, (2, str(tmp_path)), nprocs=2)
    loss, expected = obvious_gradients(recipe("scaling.num_workers=2", "train.micro_batch_size=8"))
    found = [load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1)]
    assert sum(worker.pop("loss").item() for worker in found) == pytest.approx(loss, rel=1e-6)
    for worker in found:
        assert_close(worker, expected)


@pytest.fixture
def process_group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_workers_do_not_wait_for_gradients_of_what_no_output_depends_on() -> None:
    """Of some CNNs timm leaves a part of the head, which the tower never runs."""
    conv = ["model.image.name=convnext_atto", "model.image.arguments={}", "model.image.patch_dropout=0.0"]
    config = recipe("scaling.num_workers=1", "train.micro_batch_size=16", *conv)
    state, timer = state_of(config), StepTimer(CPU)
    before = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
    forward = data_parallel(state.model, CPU, 2, timer)  # as for two workers
    assert all(torch.equal(tensor, before[name]) for name, tensor in state.model.state_dict().items())
    step = Stepper(state, forward, config, CPU, timer)
    for _ in range(2):
        assert not step(micro_batches(config)).skipped


def test_a_step_that_is_not_finite_changes_nothing_but_the_step() -> None:
    config = recipe("scaling.num_workers=1")
    _, state = take_step(config, micro_batches(config))
    before = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
    with torch.no_grad():
        state.model.log_logit_scale.fill_(math.nan)
    result = Stepper(state, state.model, config, CPU, StepTimer(CPU))(micro_batches(config))
    assert result.skipped
    assert state.step == 2
    after = state.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items() if name != "log_logit_scale")


@pytest.mark.parametrize("micro_batch", [16, 32])
def test_running_statistics_of_batch_norm_do_not_see_a_step_that_is_not_finite(micro_batch: int) -> None:
    conv = ["model.image.name=efficientnet_lite0", "model.image.arguments={}", "model.image.patch_dropout=0.0"]
    config = recipe("scaling.num_workers=1", f"train.micro_batch_size={micro_batch}", *conv)
    _, state = take_step(config, micro_batches(config))
    before = {name: buffer.clone() for name, buffer in state.model.named_buffers()}
    spoil = state.model.image.trunk.conv_stem.register_forward_hook(lambda module, inputs, output: output * math.nan)
    assert Stepper(state, state.model, config, CPU, StepTimer(CPU))(micro_batches(config)).skipped
    spoil.remove()
    assert all(torch.equal(buffer, before[name]) for name, buffer in state.model.named_buffers())


def test_running_statistics_of_batch_norm_see_each_micro_batch_once() -> None:
    conv = ["model.image.name=efficientnet_lite0", "model.image.arguments={}", "model.image.patch_dropout=0.0"]
    config = recipe("scaling.num_workers=1", "train.micro_batch_size=16", *conv)
    _, state = take_step(config, micro_batches(config))
    expected = state_of(config)
    stepper = Stepper(expected, expected.model, config, CPU, StepTimer(CPU))
    for i, batch in enumerate(micro_batches(config)):
        stepper._embed(stepper._load(batch), i, expected.model)
    theirs = dict(expected.model.named_buffers())
    means = [name for name in theirs if name.endswith("running_mean")]
    assert means
    for name in means:
        torch.testing.assert_close(dict(state.model.named_buffers())[name], theirs[name])
