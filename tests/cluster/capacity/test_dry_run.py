"""What a plan counts is what the model does: parameters, FLOPs and memory, for every recipe that ships."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from clippy.architecture import ModelConfig, TextConfig
from clippy.describe import count_parameters
from clippy.loss import contrastive_loss
from clippy.model import CLIPpy
from clippy.tokens import build_tokenizer
from cluster.capacity.dry_run import (
    DryRun,
    Watch,
    build_fake,
    caption_lengths,
    dry_run,
    without_weights,
)
from cluster.capacity.step import loss_run
from pipelines.recipe import load_recipe, recipe_names
from tests.cluster.capacity.settings import TINY

LENGTHS = [9, 5]
DEEP = (*TINY, "model.text.arguments={d_model: 64, d_kv: 32, num_heads: 2, d_ff: 128, num_layers: 3}")
_aten = torch.ops.aten
TORCH_LACKS = {  # torch counts fused attention on a GPU alone
    _aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda g, q, k, v, *_, **__: sdpa_backward_flop_count(
        g, q, k, v
    ),
}


def count_torch(config: ModelConfig, *, backward: bool) -> tuple[int, int]:
    """FLOPs of the forward and, if it is wanted, of the backward pass by torch's own counter."""
    model, fake = build_fake(config)
    with fake:
        size = config.image.image_size
        images = torch.empty(len(LENGTHS), 3, size, size, dtype=torch.uint8)
        ids = torch.empty(len(LENGTHS), config.text.max_tokens, dtype=torch.int64)
        with FlopCounterMode(display=False, custom_mapping=TORCH_LACKS) as forward:
            outputs = [output for output in model(images, ids, LENGTHS) if output.requires_grad]
        with FlopCounterMode(display=False, custom_mapping=TORCH_LACKS) as back:
            if backward:
                torch.autograd.backward(outputs, outputs)
    return forward.get_total_flops(), back.get_total_flops()


def shallow(name: str) -> ModelConfig:
    """The recipe's towers at full width with two layers each: the others are like the second."""
    config = without_weights(load_recipe(name).model)
    image, text = config.image, config.text
    if image.name.startswith(("vit", "deit")):
        architecture = image.name.replace("deit", "vit").partition(".")[0]
        image = image.model_copy(update={"name": architecture, "arguments": {**image.arguments, "depth": 2}})
    arguments = {**text.arguments, "num_layers": 2, "vocab_size": 512}
    image = image.model_copy(update={"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)})
    return ModelConfig(image=image, text=text.model_copy(update={"arguments": arguments}), width=config.width)


ARCHITECTURES = {shallow(name).model_dump_json(): name for name in reversed(recipe_names())}
"""Recipes that ship, one of each kind: most differ in where their weights are from, or in data alone."""


@pytest.mark.parametrize("name", sorted(ARCHITECTURES.values()))
def test_counts_of_every_recipe_are_those_of_the_model_that_is_built(name: str) -> None:
    config = shallow(name)
    run, grouped = dry_run(config, LENGTHS), config.image.name.startswith("efficientnet")
    forward, backward = count_torch(config, backward=not grouped)
    assert run.forward.flops == forward
    assert grouped or run.backward.flops == backward  # torch takes convolutions in groups for whole ones
    with torch.device("meta"):
        model = CLIPpy(config, build_tokenizer(TextConfig(tokenizer="bytes")))
    assert run.parameters == count_parameters(model)
    assert run.trained == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_the_backward_pass_of_a_convolution_in_groups_is_twice_its_forward_pass() -> None:
    layer, pixels = (
        torch.nn.Conv2d(8, 8, 3, padding=1, groups=4, bias=False),
        torch.randn(2, 8, 5, 5, requires_grad=True),
    )
    with Watch() as watch:
        out = layer(pixels)
        forward = watch.take().flops
        out.sum().backward()
        assert forward == 2 * 2 * 25 * 8 * (8 // 4) * 9
        assert watch.take().flops == 2 * forward


def test_the_published_model_has_as_many_parameters_as_its_checkpoint() -> None:
    run = dry_run(load_recipe("released-clippy").model, LENGTHS)
    assert run.parameters == 196_017_025  # the 252 tensors of clippy_5k.pt, one of them twice
    assert run.width == 768


def test_flops_of_a_vision_transformer_worked_out_by_hand() -> None:
    """Each token in each block: 24 D^2 in four products, 4 N D in attention; the patches once."""
    model = load_recipe("shapes", ["model.text.tokenizer=bytes"]).model
    run = dry_run(model, [8] * 4)
    width, blocks, patches = 96, 4, 64
    tokens = patches + 1
    image = blocks * tokens * (24 * width**2 + 4 * tokens * width) + 2 * patches * 3 * 8 * 8 * width
    inner, hidden, columns = 96, 192, 8
    text = columns * (8 * width * inner + 4 * width * hidden + 4 * columns * inner)
    assert run.forward.flops == 4 * (image + text)


def test_a_frozen_tower_has_no_backward_pass() -> None:
    model = load_recipe("shapes", [*TINY, "model.image.frozen=true"]).model
    trained, frozen = dry_run(load_recipe("shapes", TINY).model, LENGTHS), dry_run(model, LENGTHS)
    assert frozen.parameters == trained.parameters
    assert frozen.trained < trained.trained
    assert frozen.backward.flops < trained.backward.flops - frozen.forward.flops / 2


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("rows", [2, 48])
def test_memory_and_work_are_those_of_real_tensors(checkpointing: bool, rows: int) -> None:
    """The same watch over a step that computes; its text tower is run with all of its three layers."""
    config = load_recipe("shapes", DEEP).model
    lengths = caption_lengths(rows, 12, 0.3, config.text.max_tokens)
    run = dry_run(config, lengths, checkpointing=checkpointing)
    model = CLIPpy(config, build_tokenizer(config.text)).train()
    if checkpointing:
        model.checkpoint_activations()
    ids = torch.ones(rows, config.text.max_tokens, dtype=torch.int64)
    for row, length in enumerate(lengths):
        ids[row, length:] = 0
    with Watch() as watch:
        outputs = model(torch.zeros(rows, 3, 64, 64, dtype=torch.uint8), ids, lengths)
        forward = watch.take()
        torch.autograd.backward(list(outputs), [torch.ones_like(output) for output in outputs])
        backward = watch.take()
    assert (run.forward.flops, run.backward.flops) == (forward.flops, backward.flops)
    assert run.forward.moved_bytes == pytest.approx(forward.moved_bytes, rel=0.02)
    assert run.working_bytes == pytest.approx(watch.peak_bytes, rel=0.08)


def test_checkpointing_and_fewer_rows_hold_less_and_bfloat16_too() -> None:
    model = load_recipe("shapes", DEEP).model
    lengths = caption_lengths(24, 12, 0.3, 32)
    whole, again = dry_run(model, lengths), dry_run(model, lengths, checkpointing=True)
    assert again.saved_bytes < 0.7 * whole.saved_bytes
    assert again.backward.flops > 1.3 * whole.backward.flops
    assert dry_run(model, lengths[::2]).saved_bytes == pytest.approx(whole.saved_bytes / 2, rel=0.1)
    assert dry_run(model, lengths, precision="bfloat16").saved_bytes < 0.9 * whole.saved_bytes


def test_the_loss_is_counted_as_the_loss_computes_it() -> None:
    """Two directions, each three products of own rows, everyone's and the width."""
    run = loss_run(rows=16, workers=4, width=32)
    assert run.work.flops == 2 * 3 * 2 * 16 * 64 * 32
    image, text = (torch.nn.functional.normalize(torch.randn(16, 32), dim=1).requires_grad_() for _ in range(2))
    scale = torch.tensor(14.0, requires_grad=True)
    with Watch() as watch:
        contrastive_loss(image, text, scale, gather=lambda own: (own.repeat(4, *[1] * (own.ndim - 1)), 0)).backward()
    assert run.peak_bytes == watch.peak_bytes


def test_captions_are_as_long_as_they_are_said_to_be() -> None:
    lengths = caption_lengths(1001, 28, 0.55, 77)
    assert sorted(lengths)[500] == 28
    assert max(lengths) == 77
    assert min(lengths) >= 2
    assert caption_lengths(3, 12, 0.0, 77) == [12, 12, 12]


def test_a_deeper_text_tower_is_reckoned_from_two_shallow_ones() -> None:
    def run(layers: int) -> DryRun:
        arguments = f"model.text.arguments={{d_model: 64, d_kv: 32, num_heads: 2, d_ff: 128, num_layers: {layers}}}"
        return dry_run(load_recipe("shapes", [*TINY, arguments]).model, [20] * 8)

    one, five = run(1), run(5)
    layer = 4 * 64 * 64 + 2 * 64 * 128 + 2 * 64  # q, k, v, o; the two of the feed-forward; two norms
    assert five.parameters - one.parameters == 4 * layer
