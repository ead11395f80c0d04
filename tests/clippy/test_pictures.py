"""A model on pictures of any size: against slow references, and where the right answer is known by eye."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from clippy import CLIPpy, images, inference
from clippy.draw import palette
from clippy.pictures import Vocabulary, classify_picture, embed_words, group_picture, segment_picture
from clippy.readout import GroupOptions, SegmentOptions
from clippy.scoring import check_options, input_size
from clippy.segmentation import LEGEND_ENTRIES, Segmentation
from clippy.tokens import build_tokenizer
from clippy.upsampling import best_and_total, best_probability, label_pixels, two_best
from clippy.words import check_words
from tests.clippy.test_model import build, config

WORDS = ["dax", "wug", "grass", "sand", "a longer name of a thing"]
RED, BLUE, GREEN = (230, 20, 20), (20, 20, 230), (20, 230, 20)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A picture with structure at the size of patches."""
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return images.resize(coarse, height, width)


def slow_scores(model: CLIPpy, picture: np.ndarray, target: tuple[int, int], embeddings_CD: Tensor) -> Tensor:
    """(C, H, W): features up-sampled to all pixels, then the product with every class."""
    pixels = torch.tensor(images.resize(picture, *target)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        patches_BND, grid = model.encode_patches(pixels)
        features_BDhw = F.normalize(patches_BND.float(), dim=-1).mT.unflatten(-1, grid)
        features_BDHW = F.interpolate(features_BDhw, picture.shape[:2], mode="bilinear", align_corners=False)
        return torch.einsum("dhw,cd->chw", features_BDHW[0], embeddings_CD)


def assert_best(ids_HW: Tensor, scores_CHW: Tensor, rounding: float = 2e-6) -> None:
    """Every id has the highest score, and is the argmax where the best two differ by more than rounding."""
    best_2HW = scores_CHW.topk(2, dim=0).values
    clear_HW = best_2HW[0] - best_2HW[1] > rounding
    assert clear_HW.float().mean() > 0.5
    assert torch.equal(ids_HW.long()[clear_HW], scores_CHW.argmax(0)[clear_HW])
    chosen_HW = scores_CHW.gather(0, ids_HW.long()[None])[0]
    torch.testing.assert_close(chosen_HW, best_2HW[0], atol=rounding, rtol=0)


class ColourCLIPpy(CLIPpy):
    """Embeds a patch as its mean colour minus grey, and a caption as the colour that it names."""

    def encode_patches(self, images_B3HW: Tensor) -> tuple[Tensor, tuple[int, int]]:
        means_B3hw = F.avg_pool2d(images_B3HW.float(), self.image.patch_size) - 127.5
        return means_B3hw.flatten(2).mT, (means_B3hw.shape[-2], means_B3hw.shape[-1])

    def encode_captions(self, captions: list[str]) -> Tensor:  # type: ignore[override]
        colours = {"red": RED, "blue": BLUE, "green": GREEN}
        named = [next(colour for name, colour in colours.items() if name in caption) for caption in captions]
        return torch.tensor(named).float() - 127.5


def colour_model() -> ColourCLIPpy:
    of = config()
    return ColourCLIPpy(of, build_tokenizer(of.text)).eval()


def two_halves(width: int, height: int, edge: int) -> np.ndarray:
    """Red up to column ``edge``, blue beyond it."""
    picture = np.empty((height, width, 3), dtype=np.uint8)
    picture[:, :edge], picture[:, edge:] = RED, BLUE
    return picture


any_grid_size_and_classes = given(
    grid=st.tuples(*[st.integers(1, 6)] * 2),
    size=st.tuples(*[st.integers(1, 40)] * 2),
    num_classes=st.integers(2, 30),
    max_scores=st.sampled_from([1, 50, 1000, 2**25]),
    seed=st.integers(0, 2**16),
)


def random_scores(grid: tuple[int, int], size: tuple[int, int], num_classes: int, seed: int) -> tuple[Tensor, ...]:
    """Unit patches (h, w, 4), unit classes (C, 4), and their products up-sampled, (C, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    patches_hwD = F.normalize(torch.randn(*grid, 4, generator=generator), dim=-1)
    classes_CD = F.normalize(torch.randn(num_classes, 4, generator=generator), dim=-1)
    scores_Chw = torch.einsum("hwd,cd->chw", patches_hwD, classes_CD)
    return patches_hwD, classes_CD, F.interpolate(scores_Chw[None], size, mode="bilinear", align_corners=False)[0]


@settings(max_examples=40, deadline=None)
@any_grid_size_and_classes
def test_label_pixels_equals_upsampled_argmax(
    grid: tuple[int, int], size: tuple[int, int], num_classes: int, max_scores: int, seed: int
) -> None:
    patches_hwD, classes_CD, scores_CHW = random_scores(grid, size, num_classes, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inference, "MAX_SCORES", max_scores)
        ids_HW = label_pixels(patches_hwD, classes_CD, size)
    assert ids_HW.dtype == torch.int32
    best_HW = scores_CHW.amax(0)
    torch.testing.assert_close(scores_CHW.gather(0, ids_HW.long()[None])[0], best_HW, atol=2e-5, rtol=0)


@settings(max_examples=30, deadline=None)
@any_grid_size_and_classes
def test_two_best_and_total_equal_those_of_all_scores(
    grid: tuple[int, int], size: tuple[int, int], num_classes: int, max_scores: int, seed: int
) -> None:
    patches_hwD, classes_CD, scores_CHW = random_scores(grid, size, num_classes, seed)
    scale = torch.tensor(30.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inference, "MAX_SCORES", max_scores)
        labels_2HW, lead_HW = two_best(patches_hwD, classes_CD, size)
        best_HW, total_HW = best_and_total(patches_hwD, classes_CD, size, scale)
    near = {"atol": 2e-5, "rtol": 0.0}
    wanted_2HW = scores_CHW.topk(2, dim=0).values
    torch.testing.assert_close(scores_CHW.gather(0, labels_2HW.long()), wanted_2HW, **near)
    torch.testing.assert_close(lead_HW, wanted_2HW[0] - wanted_2HW[1], **near)
    assert (labels_2HW[0] != labels_2HW[1]).all()
    torch.testing.assert_close(best_HW, scale * wanted_2HW[0], atol=1e-3, rtol=0)
    torch.testing.assert_close(total_HW, (scale * scores_CHW).logsumexp(dim=0), atol=1e-3, rtol=0)


def test_label_pixels_gives_ties_to_the_lower_class() -> None:
    signs = torch.randint(2, (12, 4), generator=torch.Generator().manual_seed(0)) * 2 - 1
    patches_ND = signs / 2  # unit vectors whose products, and means by eighths, are exact
    ids_HW = label_pixels(patches_ND.unflatten(0, (3, 4)), patches_ND[:6].repeat(2, 1), (12, 16))
    scores_CHW = F.interpolate((patches_ND[:6] @ patches_ND.T).unflatten(1, (3, 4))[None], (12, 16), mode="bilinear")[0]
    assert torch.equal(ids_HW.long(), scores_CHW.argmax(dim=0))


@pytest.mark.parametrize("max_scores", [10, 10_000])
def test_patches_that_are_no_numbers_spoil_their_own_pixels_alone(
    max_scores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "MAX_SCORES", max_scores)
    patches_hwD, classes_CD = torch.eye(4).unflatten(0, (2, 2)), torch.eye(4)
    patches_hwD[0, 0] = torch.nan
    ids_HW = label_pixels(patches_hwD, classes_CD, (8, 8))
    assert ids_HW[-1, 0] == 2
    assert ids_HW[-1, -1] == 3
    assert ((ids_HW >= 0) & (ids_HW < 4)).all()


def test_never_more_scores_are_held_than_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = func(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, tuple | list) else [result]:
                if isinstance(tensor, Tensor) and not func.is_view:
                    self.numel = max(self.numel, tensor.numel())
            return result

    generator = torch.Generator().manual_seed(0)
    patches_hwD, classes_CD = torch.randn(5, 6, 3, generator=generator), torch.randn(4000, 3, generator=generator)
    whole = label_pixels(patches_hwD, classes_CD, (60, 40))
    whole_lead = two_best(patches_hwD, classes_CD, (60, 40))[1]
    probability = best_probability(patches_hwD, classes_CD, (60, 40), torch.tensor(9.0))
    monkeypatch.setattr(inference, "MAX_SCORES", 20_000)
    with Largest() as largest:
        chunked = label_pixels(patches_hwD, classes_CD, (60, 40))
    assert torch.equal(chunked, whole)
    assert 10_000 < largest.numel <= 20_000
    with Largest() as largest:
        chunked_lead = two_best(patches_hwD, classes_CD, (60, 40))[1]
    torch.testing.assert_close(chunked_lead, whole_lead)
    assert 10_000 < largest.numel <= 20_000
    monkeypatch.setattr(inference, "MAX_SCORES", 200_000)
    with Largest() as largest:
        chunked = best_probability(patches_hwD, classes_CD, (60, 40), torch.tensor(9.0))
    torch.testing.assert_close(chunked, probability, atol=1e-4, rtol=0)
    assert 100_000 < largest.numel <= 200_000


@pytest.mark.parametrize(("height", "width"), [(150, 333), (97, 41)])
def test_segment_picture_equals_product_of_upsampled_features(height: int, width: int) -> None:
    model, picture = build(config()), noise(height, width)
    found = segment_picture(model, picture, WORDS[:3], WORDS[3:])
    embeddings_CD = inference.embed_classes(model, WORDS, ["a photo of a {}."])
    scores_CHW = slow_scores(model, picture, input_size(height, width, 32, 8), embeddings_CD)
    best_2HW, order_2HW = scores_CHW.topk(2, dim=0)
    clear = (best_2HW[0] - best_2HW[1] > 2e-6).numpy()
    expected = np.array([1, 2, 3, 0, 0])[order_2HW[0].numpy()]
    assert found.ids.shape == (height, width)
    assert clear.mean() > 0.9
    assert np.array_equal(found.ids[clear], expected[clear])
    assert found.names == ("background", *WORDS[:3])


def test_size_is_the_short_side_that_the_model_sees() -> None:
    model, picture = build(config()), noise(60, 90)
    embeddings_CD = embed_words(model, WORDS).embeddings_CD
    ids = torch.tensor(segment_picture(model, picture, WORDS, options=SegmentOptions(size=64)).ids) - 1
    assert_best(ids, slow_scores(model, picture, (64, 96), embeddings_CD))


def test_input_size_keeps_proportions_in_whole_patches() -> None:
    assert input_size(480, 640, 224, 16) == (224, 304)
    assert input_size(640, 480, 224, 16) == (304, 224)
    assert input_size(333, 150, 32, 8) == (72, 32)
    assert input_size(1, 1, 32, 8) == (32, 32)
    assert input_size(10, 10_000, 32, 8) == (32, 256)
    assert input_size(100, 100, 30, 8) == (32, 32)


@pytest.mark.parametrize(("width", "height", "edge"), [(333, 150, 100), (150, 333, 99), (1200, 40, 700), (20, 11, 9)])
def test_a_mask_lies_on_its_picture(width: int, height: int, edge: int) -> None:
    model, picture = colour_model(), two_halves(width, height, edge)
    found = segment_picture(model, picture, ["red", "blue"])
    patch = width / (input_size(height, width, 32, 8)[1] // 8)  # of the model, in pixels of the picture
    assert found.ids.shape == (height, width)
    assert (found.ids == found.ids[:1]).all()
    edges = np.flatnonzero(np.diff(found.ids[0])) + 1
    assert len(edges) == 1
    assert abs(edges[0] - edge) <= patch
    assert (found.ids[0, 0], found.ids[0, -1]) == (1, 2)
    turned = segment_picture(model, np.ascontiguousarray(picture.transpose(1, 0, 2)), ["red", "blue"])
    assert np.array_equal(turned.ids, found.ids.T)


def test_stored_orientation_is_applied() -> None:
    picture, content = Image.fromarray(two_halves(120, 60, 60)), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise: the left becomes the top
    picture.save(content, "JPEG", quality=95, exif=exif)
    for source in (content.getvalue(), Image.open(content)):
        found = segment_picture(colour_model(), source, ["red", "blue"])
        assert found.ids.shape == (120, 60)
        assert (found.ids[:50] == 1).all()
        assert (found.ids[70:] == 2).all()


def test_background_words_become_id_0_and_leave_the_other_ids_alone() -> None:
    picture = two_halves(90, 60, 45)
    without = segment_picture(colour_model(), picture, ["blue", "green", "red"])
    with_it = segment_picture(colour_model(), picture, ["blue", "green"], background=["red"])
    assert (without.ids[0, 0], without.ids[0, -1]) == (3, 1)
    assert (with_it.ids[0, 0], with_it.ids[0, -1]) == (0, 1)
    assert [(share.id, share.name) for share in with_it.shares()] in (
        [(0, "background"), (1, "blue")],
        [(1, "blue"), (0, "background")],
    )
    assert sum(share.share for share in with_it.shares()) == pytest.approx(1)


def test_path_bytes_array_and_pillow_give_the_same(tmp_path: Path) -> None:
    model, picture = build(config()), noise(50, 70)
    path = tmp_path / "a.png"
    Image.fromarray(picture).save(path)
    sources = [picture, path, str(path), path.read_bytes(), Image.open(path)]
    segmented = [segment_picture(model, source, WORDS).ids for source in sources]
    named = [classify_picture(model, source, WORDS) for source in sources]
    assert all(np.array_equal(ids, segmented[0]) for ids in segmented)
    assert all(guesses == named[0] for guesses in named)
    with pytest.raises(ValueError, match=r"uint8 \(height, width, 3\)"):
        segment_picture(model, picture.astype(np.float32), WORDS)
    with pytest.raises(images.ImageError):
        segment_picture(model, b"no picture", WORDS)


def test_classify_picture_is_softmax_of_scaled_cosines() -> None:
    model, content = build(config()), io.BytesIO()
    Image.fromarray(noise(80, 50)).save(content, "PNG")
    guesses = classify_picture(model, content.getvalue(), WORDS, ["{}", "a {}."])
    square = torch.tensor(images.decode_image(content.getvalue(), 32)).permute(2, 0, 1)[None]
    cosines = inference.classify(model, square, inference.embed_classes(model, WORDS, ["{}", "a {}."]))[0]
    weights = (cosines.double() * model.logit_scale.item()).exp()
    assert sorted(guess.label for guess in guesses) == sorted(WORDS)
    assert [guess.probability for guess in guesses] == sorted((g.probability for g in guesses), reverse=True)
    for guess in guesses:
        index = WORDS.index(guess.label)
        assert guess.cosine == pytest.approx(cosines[index].item())
        assert guess.probability == pytest.approx((weights[index] / weights.sum()).item(), rel=1e-4)


def test_group_picture_finds_what_is_apart_and_counts_the_largest_first() -> None:
    picture = two_halves(90, 60, 30)
    picture[40:, 60:] = GREEN
    found = group_picture(colour_model(), picture, GroupOptions(groups=8))
    assert found.ids.shape == (60, 90)
    corners = [found.ids[5, 5], found.ids[5, 85], found.ids[55, 85]]
    assert len(set(corners)) == 3
    assert found.ids[5, 85] == 1  # blue covers most
    assert [share.id for share in found.shares()] == list(range(1, len(found.shares()) + 1))
    assert found.names == ("background", *(f"group {i}" for i in range(1, 9)))
    plain = group_picture(colour_model(), np.full((20, 30, 3), 90, dtype=np.uint8), GroupOptions(groups=2))
    assert [share.name for share in plain.shares()] == ["group 1"]


def test_group_picture_of_many_groups_equals_slow_reference() -> None:
    model, picture = build(config()), noise(64, 96)
    found = group_picture(model, picture, GroupOptions(groups=6))
    pixels = torch.tensor(images.resize(picture, 32, 48)).permute(2, 0, 1)[None]
    unit_BND, grid = inference.embed_patches(model, pixels)
    moved = unit_BND[0].double() - unit_BND[0].double().mean(0)
    centres = torch.linalg.svd(moved, full_matrices=False)[2][:3].float()
    scores_Chw = (unit_BND[0] @ torch.cat([centres, -centres]).T).T.unflatten(-1, grid)
    ids = F.interpolate(scores_Chw[None], (64, 96), mode="bilinear", align_corners=False)[0].argmax(0).numpy()
    pairs = np.unique(np.stack([found.ids.ravel(), ids.ravel()]), axis=1, return_counts=True)
    agreeing = sum(max(pairs[1][pairs[0][0] == own]) for own in np.unique(found.ids))
    assert agreeing / ids.size > 0.999  # the same groups under other numbers


def test_ten_thousand_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    model, picture = build(config()), noise(60, 100)
    labels = [f"thing {i}" for i in range(10_000)]
    monkeypatch.setattr(inference, "MAX_SCORES", 2**20)
    words = embed_words(model, labels, templates=["{}"])
    found = segment_picture(model, picture, words)
    assert_best(torch.tensor(found.ids) - 1, slow_scores(model, picture, (32, 56), words.embeddings_CD), 1e-6)
    mask = found.mask()
    assert mask.mode == "I;16"
    assert np.array_equal(np.asarray(mask), found.ids)
    assert len(classify_picture(model, picture, words)) == 10_000


def test_mask_is_a_palette_png_of_the_ids() -> None:
    ids = np.arange(256, dtype=np.int32).reshape(8, 32)
    names = ("background", *(f"label {i}" for i in range(255)))
    content = io.BytesIO()
    Segmentation(noise(8, 32), ids, names).mask().save(content, "PNG")
    mask = Image.open(content)
    assert mask.mode == "P"
    assert np.array_equal(np.asarray(mask), ids)
    colours = np.asarray(mask.convert("RGB")).reshape(-1, 3)
    assert np.array_equal(colours, np.concatenate([[[0, 0, 0]], palette(255)]))


def test_drawing_explains_what_is_there_in_the_colours_of_the_mask() -> None:
    ids = np.zeros((40, 60), dtype=np.int32)
    ids[:, 30:] = 2
    drawing = Segmentation(noise(40, 60), ids, ("background", "dax", "wug")).drawing()
    colours = set(map(tuple, np.asarray(drawing).reshape(-1, 3).tolist()))
    assert {(0, 0, 0), tuple(palette(2)[1].tolist())} <= colours
    assert tuple(palette(2)[0].tolist()) not in colours


@pytest.mark.parametrize(("height", "width"), [(3000, 2000), (900, 20), (10, 900), (1, 1)])
def test_drawing_has_a_size_to_look_at(height: int, width: int) -> None:
    ids = np.ones((height, width), dtype=np.int32)
    drawing = Segmentation(np.zeros((height, width, 3), dtype=np.uint8), ids, ("background", "dax")).drawing()
    assert drawing.width >= 2 * 100
    assert max(drawing.size) < 1700


def test_drawing_of_many_labels_names_the_largest() -> None:
    sizes = np.repeat(np.arange(400), np.arange(400) // 4 + 1)
    ids = sizes[: 140 * 140].reshape(140, 140).astype(np.int32)
    found = Segmentation(noise(140, 140), ids, tuple(f"label {i}" for i in range(400)))
    shares = found.shares()
    colours = set(map(tuple, np.asarray(found.drawing()).reshape(-1, 3).tolist()))
    assert len(shares) > LEGEND_ENTRIES
    assert set(map(tuple, palette(LEGEND_ENTRIES).tolist())) <= colours
    assert shares == sorted(shares, key=lambda share: -share.share)


def test_a_tower_of_one_size_sees_a_square() -> None:
    arguments = {"embed_dim": 12, "depths": (1, 1), "num_heads": (1, 2)}
    of = config("swin_tiny_patch4_window7_224", arguments=arguments)
    model = build(of.model_copy(update={"image": of.image.model_copy(update={"image_size": 224})}))
    picture = noise(60, 150)
    embeddings_CD = embed_words(model, WORDS).embeddings_CD
    ids = torch.tensor(segment_picture(model, picture, WORDS).ids) - 1
    assert_best(ids, slow_scores(model, picture, (224, 224), embeddings_CD))
    with pytest.raises(ValueError, match="224 pixels alone"):
        check_options(model, SegmentOptions(size=96))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), "--labels: must hold at least one text"),
        (("dax",), "--labels: must be a list of texts"),
        ((["dax", " "],), "--labels: number 2 of 2 is blank"),
        ((["dax", "wug", "dax"],), "--labels: 'dax' comes more than once"),
        ((["dax"], ["wug", "wug"]), "--background: 'wug' comes more than once"),
        ((["dax"], [""]), "--background: number 1 of 1 is blank"),
        ((["dax"], ["dax"]), "--background: 'dax' is also among --labels"),
        ((["dax"], [], []), "--templates: must hold at least one text"),
        ((["dax"], [], ["a photo"]), "--templates: 'a photo' has no {}"),
        (([str(i) for i in range(65_536)],), "--labels: at most 65535 words"),
    ],
)
def test_words_that_name_nothing(arguments: tuple[list[str], ...], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("{}", r"\{\}")):
        check_words(*arguments, prefix="--")


def test_what_is_out_of_range() -> None:
    model, picture = build(config()), noise(20, 30)
    for groups in (0, 3, 66):
        with pytest.raises(ValueError, match="even number from 2 to 64"):
            group_picture(model, picture, GroupOptions(groups=groups))
    for size in (7, 4096):
        with pytest.raises(ValueError, match="size: must be from 8, one patch of this model, to 2048"):
            segment_picture(model, picture, WORDS, options=SegmentOptions(size=size))
    broken = Vocabulary(("dax",), (), torch.ones(1, 24))
    with torch.no_grad():
        model.image.trunk.cls_token.fill_(torch.nan)
    with pytest.raises(ValueError, match="no finite numbers"):
        segment_picture(model, picture, broken)
