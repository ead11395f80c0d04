"""From a picture to patches on a grid, and from patches and words to the two factors of their scores.

What `clippy.pictures`, `clippy.search` and the evaluation have in common, so that a number in a table and a drawn
picture come from the same read-out.

Shapes in names: B batch, D embedding width, K words, h and w in patches.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from clippy import images, inference
from clippy.draw import Pixels
from clippy.last_attention import last_attention, require_class_attention
from clippy.load import AnyModel
from clippy.maskclip import MaskCLIP, key_smoothing, prompt_denoising
from clippy.readout import GroupOptions, SegmentOptions, View
from clippy.windows import windowed_patches

MAX_PROPORTION = 8
"""A panorama longer than so many times its short side is squeezed to that for the model; the result is not."""


def check_options(model: AnyModel, options: SegmentOptions | GroupOptions, prefix: str = "") -> None:
    """Refuse options that this model cannot follow; ``prefix`` as ``clippy.readout`` has it. Raises ValueError."""
    options.check_model(model.image_size, model.patch_size, model.takes_one_size, prefix)
    needed = {"maskclip": last_attention, "attention": require_class_attention}
    if options.readout in needed:
        try:
            needed[options.readout](model)
        except ValueError as error:
            raise ValueError(f"{prefix}readout {options.readout}: {error}") from None


def encoder_of(model: AnyModel, options: SegmentOptions) -> inference.Encoder:
    """What embeds patches in the way that the options ask for."""
    return MaskCLIP(model) if options.readout == "maskclip" else model


def input_size(height: int, width: int, short_side: int, patch_size: int) -> tuple[int, int]:
    """Height and width that the model sees: the short side as told, the other in proportion, both whole patches."""
    longest = short_side * MAX_PROPORTION
    sides = [min(side * short_side / min(height, width), longest) for side in (height, width)]
    rows, columns = (max(1, round(side / patch_size)) * patch_size for side in sides)
    return rows, columns


def shown_pixels(model: AnyModel, pixels: Pixels, view: View) -> Pixels:
    """The whole picture, uint8 (H, W, 3), of the size that the model sees."""
    if model.takes_one_size and view.window is None:
        return images.resize(pixels, model.image_size, model.image_size)
    short_side = view.size or model.image_size
    return images.resize(pixels, *input_size(pixels.shape[0], pixels.shape[1], short_side, model.patch_size))


def embed_patches(
    encoder: inference.Encoder, images_B3HW: Tensor, patch_size: int, view: View, name: str = "the model"
) -> Tensor:
    """(B, h, w, D) float32 vectors of the patches that cover pictures: of unit length, or means of such from windows.

    Raises ValueError, which calls the model by its ``name``, where they are no finite numbers.
    """
    if view.window is None:
        patches_BND, grid = inference.embed_patches(encoder, images_B3HW)
    else:
        stride = view.stride or max(1, view.window // 2 // patch_size) * patch_size
        patches_BND, grid = windowed_patches(encoder, images_B3HW, view.window, stride, patch_size)
    if not patches_BND.isfinite().all():
        raise ValueError(f"{name}: patches are no finite numbers; its weights are damaged, use another checkpoint")
    return patches_BND.unflatten(1, grid)


@torch.inference_mode()
def score_factors(
    patches_hwD: Tensor,
    words_KD: Tensor,
    kept_K: Tensor,
    scale: Tensor,
    options: SegmentOptions,
    read_keys: Callable[[], Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """Patches (h, w, D') and words (K', D') whose products are the scores of a picture, and which words those are.

    ``kept_K`` are the numbers of the words in question; prompt denoising leaves fewer of them. With key smoothing, for
    which ``read_keys()`` gives the last layer's keys (1, N, D''), patches are shares of votes. ``scale`` is the inverse
    temperature.
    """
    words_KD = words_KD.to(patches_hwD.device)
    if options.prompt_denoising is None and options.key_smoothing is None:
        return patches_hwD, words_KD[kept_K], kept_K
    logits_1Khw = scale * torch.einsum("hwd,kd->khw", patches_hwD, words_KD[kept_K])[None]
    if options.prompt_denoising is not None:
        present_K = prompt_denoising(logits_1Khw, options.prompt_denoising)[0, :, 0, 0].isfinite()
        kept_K, logits_1Khw = kept_K[present_K], logits_1Khw[:, present_K]
    if options.key_smoothing is None:
        return patches_hwD, words_KD[kept_K], kept_K
    votes_1Khw = key_smoothing(logits_1Khw, read_keys(), options.key_smoothing)
    votes_hwK = F.normalize(votes_1Khw[0], p=1, dim=0).permute(1, 2, 0)  # sure patches have one vote, others many
    return votes_hwK, torch.eye(len(kept_K), device=votes_hwK.device), kept_K
