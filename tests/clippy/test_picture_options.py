"""A picture read out in other ways: thresholds, refinement, windows, MaskCLIP, attention, each against its formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clippy import CLIPpy, images, inference
from clippy.last_attention import attention_masks, class_attention
from clippy.maskclip import MaskCLIP, key_smoothing, prompt_denoising, read_keys
from clippy.pictures import embed_words, group_picture, segment_picture
from clippy.readout import GroupOptions, SegmentOptions
from clippy.refine import label_refined, refine
from clippy.segmentation import Segmentation
from clippy.upsampling import best_probability
from clippy.windows import windowed_patches
from tests.clippy.test_model import build, config
from tests.clippy.test_pictures import WORDS, assert_best, colour_model, noise, slow_scores, two_halves

PICTURE = noise(60, 90)  # that the model sees as 32 x 48


@pytest.fixture(scope="module")
def model() -> CLIPpy:
    return build(config())


def seen(height: int = 32, width: int = 48) -> Tensor:
    return torch.tensor(images.resize(PICTURE, height, width)).permute(2, 0, 1)[None]


def probabilities(model: CLIPpy) -> Tensor:
    """(C, H, W) by the definition."""
    scores_CHW = slow_scores(model, PICTURE, (32, 48), embed_words(model, WORDS).embeddings_CD)
    return (scores_CHW * model.logit_scale.detach()).softmax(dim=0)


@pytest.mark.parametrize("max_scores", [2**25, 60 * 90])
def test_pixels_below_the_threshold_are_background_and_no_others(
    model: CLIPpy, max_scores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "MAX_SCORES", max_scores)
    best_HW = probabilities(model).amax(dim=0).numpy()
    threshold = float(np.median(best_HW))
    whole = segment_picture(model, PICTURE, WORDS[:3], WORDS[3:])
    found = segment_picture(
        model, PICTURE, WORDS[:3], WORDS[3:], options=SegmentOptions(background_threshold=threshold)
    )
    sure, unsure = best_HW > threshold + 1e-4, best_HW < threshold - 1e-4
    assert sure.mean() > 0.4
    assert unsure.mean() > 0.4
    assert np.array_equal(found.ids[sure], whole.ids[sure])
    assert not found.ids[unsure].any()


def test_refinement_puts_the_edge_where_the_colours_change() -> None:
    picture = two_halves(160, 120, 71)  # no multiple of the patches, which are 30 pixels wide
    mixed = {option: segment_picture(colour_model(), picture, ["red", "blue"], options=option) for option in _REFINING}
    truth = np.where(np.arange(160) < 71, 1, 2)
    wrong = [np.mean(found.ids != truth) for found in mixed.values()]
    assert wrong[0] > 0.02
    assert wrong[1] < 0.005
    groups = group_picture(colour_model(), picture, GroupOptions(groups=2, refine=True))
    assert np.mean(groups.ids != np.where(np.arange(160) < 71, 2, 1)) < 0.005


_REFINING = (SegmentOptions(), SegmentOptions(refine=True))


def test_refined_probability_is_what_the_threshold_meets(model: CLIPpy) -> None:
    best_HW, ids_HW = refine(probabilities(model)[None], torch.tensor(PICTURE).permute(2, 0, 1)[None])[0].max(dim=0)
    threshold = best_HW.median().item()
    options = SegmentOptions(refine=True, background_threshold=threshold)
    found = segment_picture(model, PICTURE, WORDS, options=options).ids
    clear = ((best_HW - threshold).abs() > 1e-4).numpy()
    expected = torch.where(best_HW < threshold, 0, ids_HW + 1).numpy()
    assert clear.mean() > 0.9
    assert np.mean(found[clear] == expected[clear]) > 0.999  # but for ties of two words


@pytest.mark.parametrize("scale", [None, torch.tensor(3.0)])
def test_refining_some_classes_at_a_time_changes_nothing(scale: Tensor | None, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    patches_hwD = F.normalize(torch.randn(4, 6, 8, generator=generator), dim=-1)
    classes_CD = F.normalize(torch.randn(9, 8, generator=generator), dim=-1)
    ids_HW, best_HW = label_refined(patches_hwD, classes_CD, PICTURE, scale)
    scores_CHW = F.interpolate((patches_hwD @ classes_CD.T).permute(2, 0, 1)[None], (60, 90), mode="bilinear")
    if scale is not None:
        scores_CHW = (scale * scores_CHW).softmax(dim=1)
    expected_CHW = refine(scores_CHW, torch.tensor(PICTURE).permute(2, 0, 1)[None])[0]
    torch.testing.assert_close(best_HW, expected_CHW.amax(dim=0))
    assert_best(ids_HW, expected_CHW)
    monkeypatch.setattr(inference, "MAX_SCORES", 2 * 60 * 90)
    in_parts, best_in_parts = label_refined(patches_hwD, classes_CD, PICTURE, scale)
    assert torch.equal(in_parts, ids_HW)
    torch.testing.assert_close(best_in_parts, best_HW)


def test_words_left_out_as_improbable_keep_their_share_of_probability() -> None:
    generator = torch.Generator().manual_seed(0)
    patches_hwD = F.normalize(torch.randn(4, 6, 8, generator=generator), dim=-1)
    classes_CD, scale = F.normalize(torch.randn(9, 8, generator=generator), dim=-1), torch.tensor(9.0)
    kept_K = torch.tensor([1, 4, 7])
    scores_CHW = F.interpolate((patches_hwD @ classes_CD.T).permute(2, 0, 1)[None], (60, 90), mode="bilinear")
    of_all_CHW = (scale * scores_CHW).softmax(dim=1)
    plain_HW = best_probability(patches_hwD, classes_CD[kept_K], (60, 90), scale, classes_CD)
    torch.testing.assert_close(plain_HW, of_all_CHW[0, kept_K].amax(dim=0))
    ids_HW, best_HW = label_refined(patches_hwD, classes_CD[kept_K], PICTURE, scale, classes_CD)
    refined_KHW = refine(of_all_CHW, torch.tensor(PICTURE).permute(2, 0, 1)[None])[0, kept_K]
    torch.testing.assert_close(best_HW, refined_KHW.amax(dim=0))
    assert_best(ids_HW, refined_KHW)


def test_windows_average_the_scores_of_what_each_sees(model: CLIPpy) -> None:
    classes_CD = embed_words(model, WORDS).embeddings_CD
    total, count = torch.zeros(5, 8, 12), torch.zeros(8, 12)
    for top in range(0, 5, 2):  # in patches: windows of 4 on a grid of 8 x 12
        for left in range(0, 9, 2):
            part = seen(64, 96)[..., top * 8 : top * 8 + 32, left * 8 : left * 8 + 32]
            unit_ND = inference.embed_patches(model, part)[0][0]
            total[:, top : top + 4, left : left + 4] += (classes_CD @ unit_ND.T).unflatten(1, (4, 4))
            count[top : top + 4, left : left + 4] += 1
    patches, grid = windowed_patches(model, seen(64, 96), 32, 16, 8)
    torch.testing.assert_close((classes_CD @ patches[0].T).unflatten(1, grid), total / count)
    found = segment_picture(model, PICTURE, WORDS, options=SegmentOptions(size=64, window=32))
    scores_CHW = F.interpolate((total / count)[None], (60, 90), mode="bilinear", align_corners=False)[0]
    assert_best(torch.tensor(found.ids) - 1, scores_CHW)
    with pytest.raises(ValueError, match="whole patches of 8 pixels, so that they meet"):
        windowed_patches(model, seen(64, 96), 32, 12, 8)


def test_windows_keep_a_mask_on_its_picture() -> None:
    picture = two_halves(200, 90, 120)
    for options in (SegmentOptions(window=32, stride=8), SegmentOptions(size=64, window=16)):
        ids = segment_picture(colour_model(), picture, ["red", "blue"], options=options).ids
        edges = np.flatnonzero(np.diff(ids[0])) + 1
        assert (ids == ids[:1]).all()
        assert abs(edges - 120).max() < 24
    grouped = group_picture(colour_model(), picture, GroupOptions(groups=2, size=64, window=32))
    assert (grouped.ids[0, 0], grouped.ids[0, -1]) == (1, 2)


def test_a_tower_of_one_size_sees_windows_of_its_size() -> None:
    arguments = {"embed_dim": 12, "depths": (1, 1), "num_heads": (1, 2)}
    of = config("swin_tiny_patch4_window7_224", arguments=arguments)
    swin = build(of.model_copy(update={"image": of.image.model_copy(update={"image_size": 224})}))
    found = segment_picture(swin, noise(60, 150), WORDS, options=SegmentOptions(size=224, window=224, stride=112))
    assert found.ids.shape == (60, 150)


def test_maskclip_is_the_read_out_of_its_patches(model: CLIPpy) -> None:
    classes_CD = embed_words(model, WORDS).embeddings_CD
    scores_CHW = inference.class_scores(MaskCLIP(model), seen(), classes_CD, (60, 90))[0]
    found = segment_picture(model, PICTURE, WORDS, options=SegmentOptions(readout="maskclip"))
    assert_best(torch.tensor(found.ids) - 1, scores_CHW)
    assert not np.array_equal(found.ids, segment_picture(model, PICTURE, WORDS).ids)


def test_prompt_denoising_leaves_words_out(model: CLIPpy) -> None:
    patches, grid = inference.embed_patches(model, seen())
    logits_Chw = (embed_words(model, WORDS).embeddings_CD @ patches[0].T).unflatten(1, grid) * model.logit_scale.item()
    peaks = logits_Chw.softmax(dim=0).amax(dim=(1, 2)).sort().values
    threshold = ((peaks[2] + peaks[3]) / 2).item()
    kept = [
        word
        for word, row in zip(WORDS, prompt_denoising(logits_Chw[None], threshold)[0], strict=True)
        if row.isfinite().all()
    ]
    assert len(kept) == 2
    found = segment_picture(model, PICTURE, WORDS, options=SegmentOptions(prompt_denoising=threshold))
    expected = segment_picture(model, PICTURE, kept)
    assert {share.name for share in found.shares()} <= set(kept)
    assert np.array_equal(_named(found), _named(expected))
    unsure = SegmentOptions(prompt_denoising=peaks[-1].item(), background_threshold=0.99)
    assert peaks[-1] < 0.99
    assert not segment_picture(model, PICTURE, WORDS, options=unsure).ids.any()  # of one word alone it would be sure


def _named(found: Segmentation) -> np.ndarray:
    return np.array(found.names)[found.ids]


def test_key_smoothing_is_the_vote_of_patches_with_like_keys(model: CLIPpy) -> None:
    classes_CD = embed_words(model, WORDS).embeddings_CD
    patches, grid = inference.embed_patches(MaskCLIP(model), seen())
    logits = (classes_CD @ patches[0].T).unflatten(1, grid)[None] * model.logit_scale.detach()
    with torch.inference_mode():
        votes = F.normalize(key_smoothing(logits, read_keys(model, seen()), 1.0), p=1, dim=1)
    scores_CHW = F.interpolate(votes, (60, 90), mode="bilinear", align_corners=False)[0]
    found = segment_picture(model, PICTURE, WORDS, options=SegmentOptions(readout="maskclip", key_smoothing=1.0))
    assert_best(torch.tensor(found.ids) - 1, scores_CHW)


def test_attention_gives_each_patch_to_the_head_that_looks_at_it_most(model: CLIPpy) -> None:
    with torch.inference_mode():
        attention = class_attention(model, seen())[0]
    masks = attention_masks(attention)
    expected = np.zeros((4, 6), dtype=int)
    for row, column in np.ndindex(4, 6):
        looking = {attention[head, row, column].item(): head + 1 for head in range(2) if masks[head, row, column]}
        expected[row, column] = looking[max(looking)] if looking else 0
    found = group_picture(model, PICTURE, GroupOptions(readout="attention"))
    assert found.names == ("background", "head 1", "head 2")
    assert set(np.unique(expected)) == {0, 1, 2}
    assert np.array_equal(found.ids, np.repeat(np.repeat(expected, 15, axis=0), 15, axis=1))


def test_towers_without_what_is_read_are_refused() -> None:
    cnn = build(config("resnet18", pooling="mean"))
    with pytest.raises(ValueError, match="readout maskclip: CLIPpy: its image tower is no Vision Transformer"):
        segment_picture(cnn, PICTURE, WORDS, options=SegmentOptions(readout="maskclip"))
    with pytest.raises(ValueError, match="readout attention: CLIPpy: its image tower is no Vision Transformer"):
        group_picture(cnn, PICTURE, GroupOptions(readout="attention"))
    arguments = {"patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2, "class_token": False}
    without = build(config(arguments=arguments))
    with pytest.raises(ValueError, match="has no class token whose attention could be read"):
        group_picture(without, PICTURE, GroupOptions(readout="attention"))
    segment_picture(without, PICTURE, WORDS, options=SegmentOptions(readout="maskclip"))
