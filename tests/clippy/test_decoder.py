"""The decoder: nothing at first, a loss worked out by hand, files, and the one model that it goes with."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from clippy import CLIPpy, inference
from clippy.decoder import (
    DECODER_CONFIG_FILE,
    DECODER_WEIGHTS_FILE,
    TEMPERATURE,
    DecodedModel,
    Decoder,
    DecoderConfig,
    decoder_loss,
    model_checksum,
)
from tests.clippy.test_model import build, config, images


def decoder_for(model: CLIPpy, **changes: object) -> Decoder:
    values = {"checksum": model_checksum(model), "width": 24, "patch_size": 8, "hidden_width": 16, **changes}
    torch.manual_seed(1)
    return Decoder(DecoderConfig(model="runs/a", seen=("dax", "wug"), **values)).eval()  # type: ignore[arg-type]


def moved(decoder: Decoder) -> Decoder:
    """The same after a training that did something."""
    torch.nn.init.normal_(decoder.leave.weight, generator=torch.Generator().manual_seed(2))
    return decoder


@pytest.fixture(scope="module")
def model() -> CLIPpy:
    return build(config())


def test_it_starts_as_the_identity(model: CLIPpy) -> None:
    words = inference.embed_classes(model, ["dax", "wug", "fep"], ["a {}."])
    decoded, pictures = DecodedModel(model, decoder_for(model)), images(size=48)
    assert torch.equal(inference.embed_patches(decoded, pictures)[0], inference.embed_patches(model, pictures)[0])
    for size in ((48, 48), (31, 50)):
        scores = [inference.class_scores(encoder, pictures, words, size) for encoder in (decoded, model)]
        assert torch.equal(*scores)
    assert torch.equal(inference.classify(decoded, pictures, words), inference.classify(model, pictures, words))


def test_a_place_is_moved_by_what_lies_around_it_and_by_nothing_farther_away(model: CLIPpy) -> None:
    decoder = moved(decoder_for(model, num_blocks=1))  # two 3 x 3 convolutions reach two places far
    patches = torch.randn(1, 9 * 7, 24, generator=torch.Generator().manual_seed(0))
    other = patches.clone()
    other[0, 4 * 7 + 3] *= -1
    changed = (decoder(patches, (9, 7)) != decoder(other, (9, 7))).any(dim=-1).view(9, 7)
    expected = torch.zeros(9, 7, dtype=torch.bool)
    expected[2:7, 1:6] = True
    assert torch.equal(changed, expected)
    # Lengths of patches, which cosines do not see, stay without effect on directions.
    torch.testing.assert_close(decoder(3 * patches, (9, 7)), 3 * decoder(patches, (9, 7)), rtol=1e-3, atol=1e-3)


def test_loss_by_hand() -> None:
    # A patch halfway between two words, and one at the third; a pixel each, and one of the first that is void.
    words = torch.eye(3)
    patches = torch.tensor([[[5.0, 5.0, 0.0], [0.0, 0.0, 0.1]]])
    targets = torch.tensor([[[1, 2]]])
    half = 0.5**0.5 / TEMPERATURE
    first = math.log(2 * math.exp(half) + 1) - half
    second = math.log(math.exp(1 / TEMPERATURE) + 2) - 1 / TEMPERATURE
    loss = decoder_loss(patches, (1, 2), words, torch.arange(3), targets)
    assert loss.item() == pytest.approx((first + second) / 2, rel=1e-5)
    void = decoder_loss(patches, (1, 2), words, torch.arange(3), torch.tensor([[[-1, 2]]]))
    assert void.item() == pytest.approx(second, abs=1e-6)
    # Both words of the first patch stand for one class: it is as probable as these together.
    shared = decoder_loss(patches, (1, 2), words, torch.tensor([0, 0, 1]), torch.tensor([[[0, -1]]]))
    assert shared.item() == pytest.approx(math.log(2 * math.exp(half) + 1) - math.log(2 * math.exp(half)), rel=1e-3)


def test_loss_up_samples_scores_bilinearly() -> None:
    generator = torch.Generator().manual_seed(0)
    patches, words = torch.randn(2, 6, 4, generator=generator), F.normalize(torch.randn(3, 4, generator=generator))
    targets = torch.randint(-1, 3, (2, 7, 9), generator=generator)
    scores = (F.normalize(patches, dim=-1) @ words.T).mT.unflatten(-1, (2, 3)) / 0.07
    pixels = F.interpolate(scores, (7, 9), mode="bilinear", align_corners=False)
    expected = F.cross_entropy(pixels, targets, ignore_index=-1)
    torch.testing.assert_close(decoder_loss(patches, (2, 3), words, torch.arange(3), targets), expected)


def test_pictures_of_void_alone_give_no_gradient() -> None:
    patches = torch.randn(1, 4, 3, requires_grad=True)
    loss = decoder_loss(patches, (2, 2), torch.eye(3), torch.arange(3), torch.full((1, 4, 4), -1))
    loss.backward()
    assert loss.item() == 0
    assert patches.grad is not None
    assert not patches.grad.any()


def test_files_bring_it_back_to_the_bit(model: CLIPpy, tmp_path: Path) -> None:
    decoder = moved(decoder_for(model, training={"benchmark": "voc", "steps": 3, "learning_rate": 0.1}))
    decoder.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [DECODER_CONFIG_FILE, DECODER_WEIGHTS_FILE]
    again = Decoder.from_pretrained(tmp_path)
    assert again.config == decoder.config
    patches = torch.randn(1, 16, 24)
    assert torch.equal(again(patches, (4, 4)), decoder(patches, (4, 4)))


def test_broken_files_are_named(model: CLIPpy, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no decoder, decoder\.json is missing; make one with: clippy decoder train"):
        Decoder.from_pretrained(tmp_path)
    decoder_for(model).save_pretrained(tmp_path)
    text = (tmp_path / DECODER_CONFIG_FILE).read_text()
    (tmp_path / DECODER_CONFIG_FILE).write_text(json.dumps({**json.loads(text), "hidden_width": 17}))
    with pytest.raises(ValueError, match=r"decoder\.safetensors: does not fit its decoder\.json"):
        Decoder.from_pretrained(tmp_path)
    (tmp_path / DECODER_CONFIG_FILE).write_text('{"model_type": "clippy"}')
    with pytest.raises(ValueError, match=r"decoder\.json: not the configuration of a decoder"):
        Decoder.from_pretrained(tmp_path)
    (tmp_path / DECODER_CONFIG_FILE).write_text(text)
    (tmp_path / DECODER_WEIGHTS_FILE).write_bytes(b"\x80\x04no tensors")
    with pytest.raises(ValueError, match=r"decoder\.safetensors: does not fit"):
        Decoder.from_pretrained(tmp_path)


def test_it_goes_with_the_model_that_it_was_made_for_alone(model: CLIPpy) -> None:
    decoder = decoder_for(model)
    other = build(config())
    DecodedModel(other, decoder)  # the same weights, wherever they lie
    with torch.no_grad():
        next(other.text.parameters()).view(-1)[0] += 1
    message = "made for runs/a, and runs/b has other weights; name that model, or train one with: clippy decoder train"
    with pytest.raises(ValueError, match=message):
        DecodedModel(other, decoder, "runs/b")
    coarse = config(arguments={"patch_size": 16, "embed_dim": 24, "depth": 1, "num_heads": 2})
    with pytest.raises(ValueError, match="patches have 8 pixels, and those of this model 16"):
        DecodedModel(build(coarse), decoder)


def test_gradients_reach_every_weight_of_the_decoder_and_none_of_the_model(model: CLIPpy) -> None:
    decoder = moved(decoder_for(model))
    words = inference.embed_classes(model, ["dax", "wug"], ["{}"]).clone()
    with torch.no_grad():
        patches, grid = model.encode_patches(images())
    targets = torch.randint(2, (3, 32, 32), generator=torch.Generator().manual_seed(3))
    decoder_loss(decoder(patches, grid), grid, words, torch.arange(2), targets).backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in decoder.parameters())
    assert all(weight.grad is None for weight in model.parameters())
