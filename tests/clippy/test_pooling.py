"""Poolings: what each reads, their limits, and the exact local read-out of a projected mean."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clippy import CLIPpy
from clippy.architecture import ImageConfig, ImagePooling, ModelConfig, TextConfig
from clippy.pooling import GeneralizedMean, LogSumExp, build_pooling, pool
from clippy.tokens import build_tokenizer

OVER_SPACE: tuple[ImagePooling, ...] = ("max", "mean", "top_k", "generalized_mean", "log_sum_exp", "attention")
TEXT = TextConfig(tokenizer="bytes", arguments={"d_model": 24, "d_kv": 12, "num_heads": 2, "d_ff": 32, "num_layers": 1})


def patches(seed: int = 0, count: int = 6) -> torch.Tensor:
    return torch.randn(2, count, 8, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=20)
@given(st.permutations(range(6)), st.sampled_from(OVER_SPACE))
def test_pooling_over_space_ignores_the_order_of_patches(order: list[int], mode: ImagePooling) -> None:
    torch.manual_seed(0)
    pooling = build_pooling(mode, 8, top_k=3).eval()
    torch.testing.assert_close(pooling(patches()[:, order], None), pooling(patches(), None), rtol=1e-4, atol=1e-5)


def test_the_class_token_counts_where_it_is_named_and_nowhere_else() -> None:
    high = torch.full((2, 8), 9.0)
    assert torch.equal(pool(patches(), high, "cls"), high)
    assert torch.equal(pool(patches(), high, "max_with_cls"), high)
    assert torch.equal(pool(patches(), -high, "max_with_cls"), patches().amax(dim=1))
    for mode in OVER_SPACE:
        torch.manual_seed(0)
        pooling = build_pooling(mode, 8, top_k=3).eval()
        assert torch.equal(pooling(patches(), high), pooling(patches(), None))
    with pytest.raises(ValueError, match=r"model\.image\.pooling: 'max_with_cls' needs a tower with a class token"):
        pool(patches(), None, "max_with_cls")


def test_top_k_lies_between_mean_and_max() -> None:
    assert torch.equal(pool(patches(), None, "top_k", 1), patches().amax(dim=1))
    torch.testing.assert_close(pool(patches(), None, "top_k", 100), patches().mean(dim=1))
    by_hand = patches().sort(dim=1, descending=True).values[:, :2].mean(dim=1)
    torch.testing.assert_close(pool(patches(), None, "top_k", 2), by_hand)


def test_random_pooling_gives_each_image_any_of_its_patches_and_their_mean_after_training() -> None:
    torch.manual_seed(0)
    pooling = build_pooling("random", 8, top_k=3)
    drawn = torch.stack([pooling(patches(), None) for _ in range(60)])
    for image in range(2):
        seen = {tuple(row.tolist()) for row in drawn[:, image]}
        assert seen == {tuple(row.tolist()) for row in patches()[image]}
    assert torch.equal(pooling.eval()(patches(), None), patches().mean(dim=1))


def test_soft_maxima_go_from_the_mean_to_the_maximum() -> None:
    positive = patches().abs() + 0.1
    torch.testing.assert_close(GeneralizedMean(1.0)(positive, None), positive.mean(dim=1))
    torch.testing.assert_close(GeneralizedMean(400.0)(positive, None), positive.amax(dim=1), rtol=0.02, atol=0)
    torch.testing.assert_close(LogSumExp(1e-3)(patches(), None), patches().mean(dim=1), rtol=0, atol=2e-3)
    torch.testing.assert_close(LogSumExp(500.0)(patches(), None), patches().amax(dim=1), rtol=0, atol=5e-3)


@pytest.mark.parametrize("mode", OVER_SPACE)
def test_gradients_are_finite_in_half_precision_and_learned_poolings_learn(mode: ImagePooling) -> None:
    torch.manual_seed(0)
    pooling = build_pooling(mode, 8, top_k=3)
    tokens = (patches() * 40).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pooling(tokens, None).float().square().sum().backward()
    gradients = [tokens.grad, *(parameter.grad for parameter in pooling.parameters())]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert len(gradients) > 1 or mode in ("max", "mean", "top_k")


@pytest.mark.parametrize("mode", ["generalized_mean", "log_sum_exp", "attention", "top_k", "max_with_cls", "random"])
def test_a_model_with_each_pooling_saves_and_loads(mode: ImagePooling, tmp_path: Path) -> None:
    arguments = {"patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2}
    image = ImageConfig(name="vit_tiny_patch16_224", image_size=32, pooling=mode, arguments=arguments)
    model = CLIPpy(ModelConfig(image=image, text=TEXT), build_tokenizer(TEXT)).eval()
    model.save_pretrained(tmp_path)
    pixels = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(CLIPpy.from_pretrained(tmp_path).encode_image(pixels), model.encode_image(pixels))


def test_a_mean_pooled_network_reads_out_each_place_exactly() -> None:
    """ALIGN's read-out: the pooled embedding is the mean of what the places say, in the space of the text."""
    image = ImageConfig(name="resnet18", image_size=64, pooling="mean")
    model = CLIPpy(ModelConfig(image=image, text=TEXT, width=24), build_tokenizer(TEXT)).eval()
    pixels = torch.randint(256, (2, 3, 64, 96), dtype=torch.uint8)
    with torch.no_grad():
        places, grid = model.encode_patches(pixels)
        pooled_first = model.image.projection(model.image.trunk(_normalised(model, pixels)).flatten(2).mean(dim=2))
        torch.testing.assert_close(places.mean(dim=1), pooled_first, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(model.encode_image(pixels), pooled_first, rtol=1e-4, atol=1e-5)
    assert (places.shape, grid) == ((2, 6, 24), (2, 3))


def _normalised(model: CLIPpy, pixels: torch.Tensor) -> torch.Tensor:
    return (pixels - model.image.mean) / model.image.std
