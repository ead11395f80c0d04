"""The optimizers do what their papers say, on the groups that the recipe asks for, and go on from a saved state."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save

from clippy.config import ConfigError
from clippy.model import CLIPpy
from clippy.tokens import build_tokenizer
from pipelines.optim import (
    build_optimizer,
    learning_rate,
    parameter_groups,
    set_learning_rate,
)
from pipelines.recipe import load_recipe
from pipelines.sections import OptimConfig

OPTIMIZERS = ["adamw", "lamb"]


def config(**fields: object) -> OptimConfig:
    return OptimConfig.model_validate({"global_batch_size": 1, "learning_rate": 1.0, **fields})


def model(*overrides: str) -> CLIPpy:
    """Small, with every kind of parameter: norms, biases, position embeddings, learned pooling, a projection."""
    small = (
        "model.image.arguments={patch_size: 16, embed_dim: 24, depth: 1, num_heads: 2}",
        "model.text.arguments={d_model: 16, d_kv: 8, num_heads: 2, d_ff: 32, num_layers: 1}",
        "model.text.tokenizer=bytes",
        "model.image.pooling=attention",
    )
    chosen = load_recipe("shapes", [*small, *overrides]).model
    torch.manual_seed(0)
    return CLIPpy(chosen, build_tokenizer(chosen.text))


def test_learning_rate_warms_up_and_falls_to_zero() -> None:
    rates = [learning_rate(step, config(warmup_steps=4), 12) for step in range(13)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0
    assert rates[8] == pytest.approx(0.5)
    assert rates[12] == pytest.approx(0)
    assert all(a >= b for a, b in itertools.pairwise(rates[4:]))


@given(
    warmup=st.integers(0, 20), rest=st.integers(1, 50), final=st.floats(0, 1), peak=st.floats(1e-6, 1), data=st.data()
)
def test_learning_rate_ends_where_it_should_and_never_leaves_its_bounds(
    warmup: int, rest: int, final: float, peak: float, data: st.DataObject
) -> None:
    optim = config(learning_rate=peak, warmup_steps=warmup, final_learning_rate_factor=final)
    steps = warmup + rest
    assert learning_rate(steps, optim, steps) == pytest.approx(final * peak, abs=1e-12)
    assert learning_rate(warmup, optim, steps) == pytest.approx(peak)
    lowest = final * peak if warmup == 0 else min(final * peak, peak / warmup)
    rate = learning_rate(data.draw(st.integers(0, steps)), optim, steps)
    assert lowest * (1 - 1e-9) <= rate <= peak * (1 + 1e-9)


def test_a_final_factor_of_one_is_a_constant_rate() -> None:
    optim = config(warmup_steps=3, final_learning_rate_factor=1.0)
    assert {learning_rate(step, optim, 50) for step in range(3, 51)} == {1.0}


@given(samples=st.integers(1, 10**9), batch=st.integers(1, 10**5))
def test_a_warm_up_in_samples_is_the_fewest_steps_that_see_them(samples: int, batch: int) -> None:
    steps = config(warmup_samples=samples, global_batch_size=batch).warmup
    assert (steps - 1) * batch < samples <= steps * batch


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optim.warmup_samples=256"], "give warmup_steps or warmup_samples, not both (got 50 and 256)"),
        (
            ["optim.warmup_steps=0", "optim.warmup_samples=64000"],
            "optim.warmup_samples: 64000 are 500 steps, which must be below train.steps 500",
        ),
        (["optim.name=sgd"], "optim.name"),
        (["optim.text_learning_rate_factor=0"], "optim.text_learning_rate_factor"),
    ],
)
def test_mistakes_name_the_field(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_recipe("shapes", overrides)
    assert message in str(error.value)


def test_matrices_alone_are_decayed() -> None:
    whole = model()
    groups = parameter_groups(whole, config(weight_decay=0.3))
    for group in groups:
        assert {p.ndim >= 2 for p in group["params"]} == {group["weight_decay"] == 0.3}
    assert sorted(group["weight_decay"] for group in groups) == [0.0, 0.3]
    assert sum(len(group["params"]) for group in groups) == len(list(whole.parameters()))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_tower_has_its_rate_and_the_rest_the_schedule_s(name: str) -> None:
    whole = model()
    optimizer = build_optimizer(
        whole, config(name=name, image_learning_rate_factor=0.1, text_learning_rate_factor=10.0)
    )
    set_learning_rate(optimizer, 0.02)
    rates = {p: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for parameter_name, parameter in whole.named_parameters():
        factor = {"image": 0.1, "text": 10.0, "pooling": 1.0, "log_logit_scale": 1.0}[parameter_name.split(".")[0]]
        assert rates[parameter] == pytest.approx(0.02 * factor), parameter_name


@pytest.mark.parametrize("tower", ["image", "text"])
def test_a_frozen_tower_is_in_no_group(tower: str) -> None:
    frozen = model(f"model.{tower}.frozen=true")
    grouped = {p for group in parameter_groups(frozen, config()) for p in group["params"]}
    assert grouped == {p for p in frozen.parameters() if p.requires_grad}
    assert len(grouped) < len(list(frozen.parameters()))


def adamw_by_hand(weights: torch.Tensor, gradients: list[torch.Tensor], optim: OptimConfig) -> torch.Tensor:
    """Loshchilov and Hutter's."""
    (b1, b2), m, v = optim.betas, 0.0, 0.0
    for t, g in enumerate(gradients, start=1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        direction = (m / (1 - b1**t)) / ((v / (1 - b2**t)).sqrt() + optim.eps)
        decay = optim.weight_decay if weights.ndim >= 2 else 0.0
        weights = weights - optim.learning_rate * (direction + decay * weights)
    return weights


def lamb_by_hand(weights: torch.Tensor, gradients: list[torch.Tensor], optim: OptimConfig) -> torch.Tensor:
    """Algorithm 2 of You et al.; as in their code, vectors are neither decayed nor scaled."""
    (b1, b2), m, v = optim.betas, 0.0, 0.0
    for t, g in enumerate(gradients, start=1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        update = (m / (1 - b1**t)) / ((v / (1 - b2**t)).sqrt() + optim.eps)
        if weights.ndim >= 2:
            update = update + optim.weight_decay * weights
            ratio = (weights.norm() / update.norm()).item()
            update = update * (ratio if 0 < ratio < math.inf else 1.0)  # 1 for weights or updates of norm zero
        weights = weights - optim.learning_rate * update
    return weights


class Weights(torch.nn.Module):
    """Some tensors of different shapes, one of them all zero, one a number."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        shapes = [(5, 7), (33,), (2, 3, 4), ()]
        tensors = [torch.randn(shape, generator=generator) for shape in shapes] + [torch.zeros(4, 4)]
        self.tensors = torch.nn.ParameterList(tensors)


def random_gradients(weights: torch.nn.Module, steps: int) -> list[list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(2)
    return [[torch.randn(p.shape, generator=generator) for p in weights.parameters()] for _ in range(steps)]


def advance(
    weights: torch.nn.Module, optimizer: torch.optim.Optimizer, gradients: list[list[torch.Tensor]], rate: float = 0.1
) -> None:
    for of_step in gradients:
        for parameter, gradient in zip(weights.parameters(), of_step, strict=True):
            parameter.grad = gradient.clone()
        set_learning_rate(optimizer, rate)
        optimizer.step()


@pytest.mark.parametrize("weight_decay", [0.0, 0.2])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_updates_are_the_papers(name: str, weight_decay: float) -> None:
    by_hand = {"adamw": adamw_by_hand, "lamb": lamb_by_hand}[name]
    optim = config(name=name, learning_rate=0.1, weight_decay=weight_decay)
    weights = Weights()
    gradients = random_gradients(weights, 6)
    of_tensors = zip(*gradients, strict=True)
    expected = [
        by_hand(p.detach().double(), [g.double() for g in of_tensor], optim)
        for p, of_tensor in zip(weights.parameters(), of_tensors, strict=True)
    ]
    advance(weights, build_optimizer(weights, optim), gradients)
    for parameter, wanted in zip(weights.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.detach().double(), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_goes_on_to_the_bit_from_the_tensors_of_each_parameter(name: str) -> None:
    optim = config(name=name)
    whole, stopped = Weights(), Weights()
    gradients = random_gradients(whole, 8)
    advance(whole, build_optimizer(whole, optim), gradients)

    first = build_optimizer(stopped, optim)
    advance(stopped, first, gradients[:5])
    names = [parameter_name for parameter_name, _ in stopped.named_parameters()]
    file = save({f"{n}/{key}": t for n in names for key, t in first.state[stopped.get_parameter(n)].items()})
    second = build_optimizer(stopped, optim)
    for key, tensor in load(file).items():
        parameter_name, _, key_of_state = key.rpartition("/")
        second.state[stopped.get_parameter(parameter_name)][key_of_state] = tensor
    advance(stopped, second, gradients[5:])
    for ours, theirs in zip(stopped.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_adamw_is_the_same_on_any_number_of_threads() -> None:
    results = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            weights = torch.nn.Linear(701, 307)
            with torch.no_grad():
                weights.weight.copy_(torch.linspace(-1, 1, 701 * 307).view(307, 701))
                weights.bias.zero_()
            advance(weights, build_optimizer(weights, config()), random_gradients(weights, 3))
            results.append(weights.weight.detach())
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
