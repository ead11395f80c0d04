"""Read-outs of a model whose embeddings are fixed, against slow references and known pictures."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from clippy import inference
from clippy.inference import (
    class_scores,
    classify,
    embed_classes,
    enlarge,
    group,
    patch_colours,
    position_grid,
    random_partition,
    segment,
)

PATCH = 4
# Corners of a tetrahedron around grey: no mixture of two of them resembles a third.
COLOURS = {
    "white": (1.0, 1.0, 1.0),
    "red": (1.0, -1.0, -1.0),
    "green": (-1.0, 1.0, -1.0),
    "blue": (-1.0, -1.0, 1.0),
}


class ColourModel:
    """Embeds a patch as its mean colour minus grey and a caption as the colours it names; no lengths are one."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def encode_patches(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        means_B3hw = F.avg_pool2d(images.float(), PATCH) - 127.5
        return means_B3hw.flatten(2).mT, (means_B3hw.shape[-2], means_B3hw.shape[-1])

    def encode_image(self, images: Tensor) -> Tensor:
        return images.float().amax(dim=(2, 3))

    def encode_captions(self, captions: list[str]) -> Tensor:
        self.calls.append(len(captions))
        base = torch.tensor([0.1, 0.2, 0.3])
        vectors = [
            base + sum(torch.tensor(colour) * len(caption) for name, colour in COLOURS.items() if name in caption)
            for caption in captions
        ]
        return torch.stack(vectors)


class TrainableModel(nn.Module):
    """Records the mode it is called in, and has one part that its owner froze in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.drop, self.frozen = nn.Dropout(0.5), nn.Dropout(0.5)
        self.fails = False

    def encode_image(self, images: Tensor) -> Tensor:
        if self.fails:
            raise RuntimeError("no picture")
        assert not self.drop.training
        assert torch.is_inference_mode_enabled()
        return self.drop(images.float().mean(dim=(2, 3)))

    def encode_patches(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        return images.float().flatten(2).mT, (images.shape[2], images.shape[3])

    def encode_captions(self, captions: list[str]) -> Tensor:
        return torch.ones(len(captions), 3)


def quadrants(side: int = 16) -> tuple[Tensor, Tensor]:
    """A picture of four quadrants: white, red / green, blue; and its class ids (side, side)."""
    ids = torch.tensor([[0, 1], [2, 3]]).repeat_interleave(side // 2, 0).repeat_interleave(side // 2, 1)
    colours = ((torch.tensor(list(COLOURS.values())) + 1) * 127.5).to(torch.uint8)
    return colours[ids].permute(2, 0, 1)[None].contiguous(), ids


def test_embed_classes_is_mean_of_unit_prompts() -> None:
    model, templates = ColourModel(), ["a {}", "a long photo of a {} thing"]
    classes_CD = embed_classes(model, list(COLOURS), templates)
    for name, embedding in zip(COLOURS, classes_CD, strict=True):
        prompts = [model.encode_captions([template.format(name)])[0] for template in templates]
        mean = sum(prompt / prompt.norm() for prompt in prompts) / 2
        torch.testing.assert_close(embedding, mean / mean.norm())


def test_embed_classes_in_parts_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = embed_classes(ColourModel(), list(COLOURS), ["a {}", "the {}"])
    monkeypatch.setattr(inference, "CAPTIONS_PER_CALL", 4)
    model = ColourModel()
    torch.testing.assert_close(embed_classes(model, list(COLOURS), ["a {}", "the {}"]), whole)
    assert model.calls == [4, 4]


@pytest.mark.parametrize(
    ("names", "templates", "message"),
    [
        ([], ["a {}"], "names"),
        ("red", ["a {}"], "names"),
        (["red"], [], "templates"),
        (["red"], ["a {}", "a photo"], "a photo"),
    ],
)
def test_embed_classes_refuses(names: list[str], templates: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        embed_classes(ColourModel(), names, templates)


def test_classify_is_cosine() -> None:
    images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    images[0, 0], images[1, 0], images[1, 1] = 7, 30, 40
    logits_BC = classify(ColourModel(), images, torch.eye(3) * 5)
    torch.testing.assert_close(logits_BC, torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0]]))


@given(seed=st.integers(0, 2**16), height=st.integers(1, 30), width=st.integers(1, 30))
@settings(max_examples=20, deadline=None)
def test_class_scores_equal_product_of_upsampled_features(seed: int, height: int, width: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (2, 3, 12, 8), generator=generator, dtype=torch.uint8)
    classes_CD = F.normalize(torch.randn(5, 3, generator=generator), dim=-1)
    patches_BND, grid = ColourModel().encode_patches(images)
    features_BDhw = F.normalize(patches_BND, dim=-1).mT.unflatten(-1, grid)
    features_BDHW = F.interpolate(features_BDhw, (height, width), mode="bilinear", align_corners=False)
    expected = torch.einsum("bdhw,cd->bchw", features_BDHW, classes_CD)
    scores_BCHW = class_scores(ColourModel(), images, classes_CD, (height, width))
    torch.testing.assert_close(scores_BCHW, expected, atol=1e-5, rtol=1e-5)


def test_segment_finds_the_quadrants(monkeypatch: pytest.MonkeyPatch) -> None:
    picture, ids = quadrants()
    images = torch.cat([picture, picture.flip(-1), picture])
    model = ColourModel()
    classes_CD = embed_classes(model, list(COLOURS), ["a {}"])
    found_BHW = segment(model, images, classes_CD, (16, 16))
    assert found_BHW.dtype == torch.int64
    assert torch.equal(found_BHW, torch.stack([ids, ids.flip(-1), ids]))
    monkeypatch.setattr(inference, "MAX_SCORES", 1)
    assert torch.equal(segment(model, images, classes_CD, (16, 16)), found_BHW)
    assert torch.equal(class_scores(model, images, classes_CD, (16, 16)).argmax(1), found_BHW)


def test_mode_of_every_module_is_restored() -> None:
    model = TrainableModel().train()
    model.frozen.eval()
    images = torch.full((1, 3, 2, 2), 9, dtype=torch.uint8)
    classify(model, images, torch.eye(3))
    assert (model.training, model.drop.training, model.frozen.training) == (True, True, False)
    model.fails = True
    with pytest.raises(RuntimeError, match="no picture"):
        classify(model, images, torch.eye(3))
    assert (model.training, model.drop.training, model.frozen.training) == (True, True, False)
    model.eval()
    segment(model, images, torch.eye(3), (2, 2))
    assert not model.training


def test_patches_must_fill_the_grid() -> None:
    with pytest.raises(ValueError, match="do not fill"):
        group(torch.ones(1, 5, 3), (2, 2))
    with pytest.raises(ValueError, match="num_components"):
        group(torch.ones(1, 4, 3), (2, 2), num_components=0)


def test_group_separates_orthogonal_patches() -> None:
    """Orthogonal directions of unequal counts are the singular vectors, in the order of the counts."""
    kinds = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2])
    features_BND = (torch.eye(5)[kinds] * torch.arange(1.0, 10.0)[:, None])[None]
    found = group(features_BND, (3, 3))
    assert found.dtype == torch.int64
    assert torch.equal(found, kinds.reshape(1, 3, 3))


def test_group_both_signs_by_hand() -> None:
    """Three patches along one axis and one against it: the mean decides which of them is plus."""
    features_BND = torch.tensor([[[2.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [3.0, 0.0]]])
    assert group(features_BND, (2, 2), both_signs=True).tolist() == [[[0, 0], [8, 0]]]
    assert group(-features_BND, (2, 2), num_components=1, both_signs=True).tolist() == [[[0, 0], [1, 0]]]
    assert group(features_BND, (2, 2)).tolist() == [[[0, 0], [0, 0]]]


@given(
    seed=st.integers(0, 2**16),
    num_patches=st.integers(1, 12),
    width=st.integers(1, 12),
    both_signs=st.booleans(),
    centred=st.booleans(),
)
@settings(max_examples=50, deadline=None)
def test_group_equals_slow_reference(seed: int, num_patches: int, width: int, both_signs: bool, centred: bool) -> None:
    features_ND = torch.randn(num_patches, width, generator=torch.Generator().manual_seed(seed))
    unit_ND = F.normalize(features_ND.double(), dim=-1)
    moved_ND = unit_ND - unit_ND.mean(0) if centred else unit_ND
    _, strengths, vectors = torch.linalg.svd(moved_ND, full_matrices=False)
    centres = {}
    for index, (strength, vector) in enumerate(zip(strengths[:8], vectors[:8], strict=True)):
        if index == 0 or strength > 1e-4:
            # A sign or an order that hangs on rounding is arbitrary: nothing to compare.
            assume(abs((unit_ND @ vector).mean()) > 1e-3)
            centres[index] = vector if (unit_ND @ vector).mean() >= 0 else -vector
    if both_signs:
        centres |= {8 + index: -vector for index, vector in centres.items()}
    assume(bool((strengths.diff().abs() > 1e-3).all()))
    cosines_KN = torch.stack([unit_ND @ vector for vector in centres.values()])
    found_N = group(features_ND[None], (num_patches, 1), centred=centred, both_signs=both_signs).flatten()
    chosen_N = cosines_KN.gather(0, torch.tensor([[list(centres).index(int(i)) for i in found_N]]))[0]
    torch.testing.assert_close(chosen_N, cosines_KN.amax(0), atol=1e-5, rtol=0)


@pytest.mark.parametrize("centred", [False, True])
def test_group_takes_what_has_no_spread(centred: bool) -> None:
    for features_BND in (torch.ones(2, 4, 6), torch.zeros(2, 4, 6)):
        found = group(features_BND, (2, 2), centred=centred)
        assert torch.equal(found, torch.zeros(2, 2, 2, dtype=torch.int64))


def test_group_is_deterministic_and_per_image() -> None:
    features_BND = torch.randn(3, 20, 10, generator=torch.Generator().manual_seed(0))
    found = group(features_BND, (4, 5))
    assert torch.equal(found, group(features_BND, (4, 5)))
    assert torch.equal(found[1:2], group(features_BND[1:2] * 3, (4, 5)))


def test_position_grid() -> None:
    assert position_grid(4, 4, 2, 2).tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    assert position_grid(3, 5, 2, 3).unique().tolist() == list(range(6))
    with pytest.raises(ValueError, match="cannot cut"):
        position_grid(2, 8, 3, 1)


def test_random_partition_is_seeded_and_uniform() -> None:
    first = random_partition((2, 100, 100), 8, torch.Generator().manual_seed(1))
    assert torch.equal(first, random_partition((2, 100, 100), 8, torch.Generator().manual_seed(1)))
    shares = first.flatten().bincount(minlength=8) / first.numel()
    torch.testing.assert_close(shares, torch.full((8,), 1 / 8), atol=0.01, rtol=0)


def test_patch_colours_equal_slices() -> None:
    images = torch.randint(256, (2, 3, 8, 12), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    features_BND = patch_colours(images, PATCH)
    assert features_BND.shape == (2, 6, 48)
    for index in range(6):
        top, left = PATCH * (index // 3), PATCH * (index % 3)
        patch = images[:, :, top : top + PATCH, left : left + PATCH]
        torch.testing.assert_close(features_BND[:, index], patch.flatten(1).float() / 255)
    with pytest.raises(ValueError, match="patches of 5"):
        patch_colours(images, 5)


def test_patch_colours_group_a_coloured_picture() -> None:
    picture = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    picture[:, 0], picture[:, 0, 8:, 8:], picture[:, 2, 8:, 8:] = 200, 0, 90
    assert group(patch_colours(picture, 8), (2, 2)).tolist() == [[[0, 0], [0, 1]]]


def test_group_gives_the_same_sign_where_the_mean_does_not_decide() -> None:
    """Of two patches the second component is their difference, on which they cancel out."""
    features_BND = torch.tensor([[[3.0, 1.0, 0.0], [1.0, 0.0, 0.0]]])
    alone, batched = group(features_BND, (1, 2)), group(features_BND.repeat(4, 1, 1) * 7, (1, 2))
    assert torch.equal(batched, alone.repeat(4, 1, 1))


def test_ids_of_patches_are_enlarged_to_near_equal_blocks() -> None:
    assert enlarge(torch.tensor([[7, 8]]), (2, 5)).tolist() == [[7, 7, 7, 8, 8]] * 2
