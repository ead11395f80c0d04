"""Read-outs of a frozen model: MaskCLIP, DINO's masks, refinement and windows, each against an obvious one."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from clippy import CLIPpy
from clippy.architecture import ImageConfig, ModelConfig, TextConfig
from clippy.baselines import HuggingFaceCLIP, OpenCLIP
from clippy.inference import class_scores, embed_classes, segment
from clippy.last_attention import attention_masks, class_attention, last_attention
from clippy.maskclip import MaskCLIP, key_smoothing, prompt_denoising, read_keys
from clippy.refine import refine
from clippy.tokens import build_tokenizer
from clippy.windows import windowed_scores
from tests.clippy.test_baselines import clip_folder, open_clip_folder, prepared

__all__ = ["clip_folder", "open_clip_folder"]
TEXT = TextConfig(tokenizer="bytes", arguments={"d_model": 24, "d_kv": 12, "num_heads": 2, "d_ff": 32, "num_layers": 1})


@pytest.fixture(scope="module")
def model() -> CLIPpy:
    torch.manual_seed(0)
    arguments = {"patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2}
    image = ImageConfig(name="vit_tiny_patch16_224", image_size=32, arguments=arguments)
    return CLIPpy(ModelConfig(image=image, text=TEXT), build_tokenizer(TEXT)).eval()


def pixels(height: int = 32, width: int = 48) -> Tensor:
    return torch.randint(256, (2, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def before_last_block(model: CLIPpy, images: Tensor) -> Tensor:
    trunk = model.image.trunk
    tokens = trunk._pos_embed(trunk.patch_embed((images - model.image.mean) / model.image.std))
    for block in list(trunk.blocks)[:-1]:
        tokens = block(tokens)
    return tokens


@torch.no_grad()
def test_maskclip_equals_a_last_layer_in_which_each_token_sees_itself_alone(model: CLIPpy) -> None:
    trunk, tokens = model.image.trunk, before_last_block(model, pixels())
    only_itself = torch.full((tokens.shape[1], tokens.shape[1]), -torch.inf).fill_diagonal_(0)
    expected = trunk.norm(trunk.blocks[-1](tokens, attn_mask=only_itself))[:, 1:]
    patches, grid = MaskCLIP(model).encode_patches(pixels())
    keys = read_keys(model, pixels())
    torch.testing.assert_close(patches, expected, rtol=1e-4, atol=1e-5)
    assert grid == (4, 6)
    last = trunk.blocks[-1]
    torch.testing.assert_close(keys, last.attn.qkv(last.norm1(tokens))[:, 1:, 24:48], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(model.encode_patches(pixels())[0], patches)  # the model itself is as before


@torch.no_grad()
def test_maskclip_of_transformers_clip_is_its_values_through_the_rest_of_the_layer(clip_folder: Path) -> None:
    clip = HuggingFaceCLIP(str(clip_folder))
    vision = clip.model.vision_model
    vision = getattr(vision, "vision_model", vision)
    out = vision(pixel_values=prepared(clip, pixels(32, 32)), output_hidden_states=True)
    layer, hidden = vision.encoder.layers[-1], out.hidden_states[-2]
    hidden = hidden + layer.self_attn.out_proj(layer.self_attn.v_proj(layer.layer_norm1(hidden)))
    hidden = hidden + layer.mlp(layer.layer_norm2(hidden))
    expected = clip.model.visual_projection(vision.post_layernorm(hidden[:, 1:]))
    torch.testing.assert_close(MaskCLIP(clip).encode_patches(pixels(32, 32))[0], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_maskclip_of_open_clip_equals_a_last_layer_in_which_each_token_sees_itself_alone(
    open_clip_folder: Path,
) -> None:
    clip = OpenCLIP(f"local-dir:{open_clip_folder}")
    visual = clip.model.visual
    tokens = visual._embeds(prepared(clip, pixels(32, 32)))
    first, last = visual.transformer.resblocks
    tokens = first(tokens)
    only_itself = torch.full((tokens.shape[1], tokens.shape[1]), -torch.inf).fill_diagonal_(0)
    expected = visual.ln_post(last(tokens, attn_mask=only_itself))[:, 1:] @ visual.proj
    torch.testing.assert_close(MaskCLIP(clip).encode_patches(pixels(32, 32))[0], expected, rtol=1e-4, atol=1e-5)
    keys = F.linear(last.ln_1(tokens), last.attn.in_proj_weight[32:64], last.attn.in_proj_bias[32:64])
    torch.testing.assert_close(read_keys(clip, pixels(32, 32)), keys[:, 1:], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_maskclip_segments_through_the_same_code(model: CLIPpy) -> None:
    classes = embed_classes(model, ["dax", "wug"], ["a {}."])
    masked = MaskCLIP(model)
    expected = F.normalize(masked.encode_patches(pixels())[0], dim=-1) @ classes.T
    scores = class_scores(masked, pixels(), classes, (4, 6))
    torch.testing.assert_close(scores, expected.mT.unflatten(-1, (4, 6)), rtol=1e-4, atol=1e-5)
    assert segment(masked, pixels(), classes, (30, 50)).shape == (2, 30, 50)


def test_prompt_denoising_by_hand() -> None:
    logits = torch.tensor([[[[9.0, 0.0]], [[0.0, 0.4]], [[0.0, 0.5]]]])  # class 0 is sure once, the others never
    cleaned = prompt_denoising(logits, 0.5)
    assert (cleaned[:, 1:] == -torch.inf).all()
    assert torch.equal(cleaned[:, 0], logits[:, 0])
    nowhere = torch.zeros(1, 3, 2, 2)
    assert torch.equal(prompt_denoising(nowhere, 0.5), nowhere)


def test_key_smoothing_equals_the_double_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, keys = torch.randn(2, 3, 2, 4, generator=generator) * 4, torch.randn(2, 8, 5, generator=generator)
    for threshold in (1.0, 0.7):
        smoothed = key_smoothing(logits, keys, threshold)
        for image in range(2):
            p = logits[image].softmax(dim=0).flatten(1).T
            for i in range(8):
                wanted = p[i]
                if p[i].max() < threshold:
                    wanted = sum(F.cosine_similarity(keys[image, i], keys[image, j], dim=0) * p[j] for j in range(8))
                torch.testing.assert_close(smoothed[image].flatten(1)[:, i], wanted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_class_attention_equals_the_definition(model: CLIPpy) -> None:
    tokens, attn = before_last_block(model, pixels()), model.image.trunk.blocks[-1].attn
    query, key, _ = attn.qkv(model.image.trunk.blocks[-1].norm1(tokens)).chunk(3, dim=-1)
    attention = class_attention(model, pixels())
    assert attention.shape == (2, 2, 4, 6)
    for head in range(2):
        part = slice(12 * head, 12 * (head + 1))
        shares = (query[:, 0, part][:, None] @ key[:, :, part].mT / 12**0.5).softmax(dim=-1)[:, 0, 1:]
        expected = (shares / shares.sum(dim=-1, keepdim=True)).unflatten(-1, (4, 6))
        torch.testing.assert_close(attention[:, head], expected, rtol=1e-4, atol=1e-6)


@settings(max_examples=40)
@given(st.lists(st.integers(1, 60), min_size=6, max_size=6), st.floats(0.05, 0.95))
def test_attention_masks_hold_the_mass_with_as_few_patches_as_can(weights: list[int], mass: float) -> None:
    attention = torch.tensor(weights, dtype=torch.float64).div(sum(weights)).reshape(1, 2, 3)
    mask = attention_masks(attention, mass)
    assert attention[mask].sum() > mass - 1e-6
    smaller = [
        sum(subset)
        for size in range(int(mask.sum()))
        for subset in itertools.combinations(attention.flatten().tolist(), size)
    ]
    assert max(smaller, default=0.0) <= mass + 1e-6


def test_convolutional_towers_have_no_attention_to_read() -> None:
    image = ImageConfig(name="resnet18", image_size=64, pooling="mean")
    cnn = CLIPpy(ModelConfig(image=image, text=TEXT), build_tokenizer(TEXT))
    with pytest.raises(ValueError, match="no Vision Transformer"):
        last_attention(cnn)


def test_refinement_moves_a_blurred_edge_to_where_the_colours_change() -> None:
    images = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    images[..., 13:] = 200
    blurred = torch.linspace(1, 0, 32).clamp(0.05, 0.95).expand(1, 1, 32, 32)
    scores = torch.cat([blurred, 1 - blurred], dim=1)  # the classes change at column 16
    refined = refine(scores, images)
    truth = (torch.arange(32) >= 13).long().expand(1, 32, 32)
    assert (scores.argmax(dim=1) != truth).float().mean() > 0.08
    assert (refined.argmax(dim=1) != truth).float().mean() < 0.01
    torch.testing.assert_close(refined.sum(dim=1), torch.ones(1, 32, 32))
    with pytest.raises(ValueError, match="do not cover"):
        refine(scores[..., :8], images)


def test_refinement_of_one_distance_equals_a_loop_over_pixels() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (1, 3, 4, 5), dtype=torch.uint8, generator=generator)
    scores = torch.rand(1, 2, 4, 5, generator=generator)
    refined = refine(scores, images, iterations=1, dilations=(1,))
    for y, x in itertools.product(range(4), range(5)):
        around = [
            (min(max(y + dy, 0), 3), min(max(x + dx, 0), 4))
            for dy, dx in itertools.product((-1, 0, 1), repeat=2)
            if dy or dx
        ]
        here, there = images[0, :, y, x].float(), torch.stack([images[0, :, v, u].float() for v, u in around])
        deviation = torch.cat([there, here[None]]).std(dim=0)
        weights = (-((there - here).abs() / (0.1 * deviation + 1e-8)).mean(dim=1)).softmax(dim=0)
        wanted = sum(w * scores[0, :, v, u] for w, (v, u) in zip(weights, around, strict=True))
        torch.testing.assert_close(refined[0, :, y, x], wanted)


@settings(max_examples=10, deadline=None)
@given(st.integers(32, 61), st.integers(32, 61), st.integers(9, 32))
def test_windows_cover_each_pixel_and_average_what_overlaps(height: int, width: int, stride: int) -> None:
    class Stripes(torch.nn.Module):
        """Answers with the colour of each pixel, so that every window says the same of a pixel."""

        def encode_patches(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
            return images.float().flatten(2).mT, (images.shape[-2], images.shape[-1])

    images, classes = pixels(height, width), torch.eye(3)
    whole = class_scores(Stripes(), images, classes, (height, width))
    torch.testing.assert_close(windowed_scores(Stripes(), images, classes, 32, stride), whole)
    with pytest.raises(ValueError, match="smaller than the window"):
        windowed_scores(Stripes(), images, classes, 64, stride)
    with pytest.raises(ValueError, match="stride must be"):
        windowed_scores(Stripes(), images, classes, 32, 33)
