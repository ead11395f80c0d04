"""Use a trained model on a picture of any size: name it, name each of its pixels, or group them without words.

    from clippy import CLIPpy, pictures
    model = CLIPpy.from_pretrained("folder")
    pictures.segment_picture(model, "dog.jpg", ["dog", "grass"]).drawing().show()

A picture keeps its proportions: its short side becomes the size that the model was trained on, the patches are scored,
and the scores are up-sampled to the pixels of the picture.

Shapes in names: D embedding width, C classes, H and W in pixels, h and w in patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from clippy import images, inference
from clippy.draw import Pixels
from clippy.last_attention import attention_masks, class_attention
from clippy.load import AnyModel
from clippy.maskclip import read_keys
from clippy.model import CLIPpy
from clippy.readout import GroupOptions, SegmentOptions, View
from clippy.refine import label_refined
from clippy.scoring import check_options, embed_patches, encoder_of, score_factors, shown_pixels
from clippy.segmentation import BACKGROUND, Segmentation
from clippy.upsampling import best_probability, label_pixels
from clippy.words import TEMPLATES, check_words

Picture = str | Path | bytes | Pixels | Image.Image
"""A file's path or bytes, uint8 (H, W, 3), or a picture of Pillow's; stored orientation is applied."""


@dataclass(frozen=True)
class Vocabulary:
    """Labels and background words with their embeddings, to be used on many pictures."""

    labels: tuple[str, ...]
    background: tuple[str, ...]
    embeddings_CD: Tensor
    """Of the labels, then of the background words; float32 of unit length."""


@dataclass(frozen=True)
class Guess:
    """What a label got: its share of the softmax over all labels, and its cosine with the picture."""

    label: str
    probability: float
    cosine: float


def embed_words(
    model: AnyModel, labels: Sequence[str], background: Sequence[str] = (), templates: Sequence[str] = TEMPLATES
) -> Vocabulary:
    """Embed words once for many pictures. Raises ValueError as `clippy.words.check_words` does."""
    check_words(labels, background, templates)
    embeddings_CD = inference.embed_classes(model, [*labels, *background], templates)
    return Vocabulary(tuple(labels), tuple(background), embeddings_CD)


def classify_picture(
    model: AnyModel, picture: Picture, labels: Sequence[str] | Vocabulary, templates: Sequence[str] = TEMPLATES
) -> list[Guess]:
    """Name a whole picture, its centre cropped as the paper does: all labels, the best first.

    The probability is the softmax over the labels of cosine times the model's inverse temperature. ``templates`` go
    with labels that are not embedded yet. Raises ValueError for labels that name nothing, ImageError for no picture.
    """
    words = labels if isinstance(labels, Vocabulary) else embed_words(model, labels, templates=templates)
    size = model.image_size
    data = Path(picture).read_bytes() if isinstance(picture, str | Path) else picture
    square = (
        images.decode_image(data, size) if isinstance(data, bytes) else images.resize_and_crop(read_pixels(data), size)
    )
    cosine_C = inference.classify(model, _batch(model, square), words.embeddings_CD)[0, : len(words.labels)]
    with torch.inference_mode():
        probability_C = (cosine_C * model.logit_scale).softmax(dim=0)
    order = cosine_C.argsort(descending=True, stable=True).tolist()
    cosines, probabilities = cosine_C.tolist(), probability_C.tolist()
    return [Guess(words.labels[i], probabilities[i], cosines[i]) for i in order]


def segment_picture(
    model: AnyModel,
    picture: Picture,
    labels: Sequence[str] | Vocabulary,
    background: Sequence[str] = (),
    templates: Sequence[str] = TEMPLATES,
    options: SegmentOptions | None = None,
) -> Segmentation:
    """Name each pixel with the best of some free words (top-down grouping).

    Id 0 is the background: pixels of ``background``, further words (the paper's extended vocabulary), and pixels below
    ``options.background_threshold``. ``background`` and ``templates`` go with labels that are not embedded yet. Raises
    ValueError for words that name nothing or options that do not fit, ImageError for no picture.
    """
    options = options or SegmentOptions()
    words = labels if isinstance(labels, Vocabulary) else embed_words(model, labels, background, templates)
    options.check_words(len(words.embeddings_CD))
    check_options(model, options)
    pixels = read_pixels(picture)
    images_13HW = show(model, pixels, options)
    patches_hwD = embed_patches(encoder_of(model, options), images_13HW, model.patch_size, options)[0]
    all_K = torch.arange(len(words.embeddings_CD), dtype=torch.int32, device=patches_hwD.device)
    all_KD = None if options.prompt_denoising is None else words.embeddings_CD  # what it leaves out is improbable
    with inference.evaluation(model):
        patches_hwD, classes_KD, kept_K = score_factors(
            patches_hwD, words.embeddings_CD, all_K, model.logit_scale, options, lambda: read_keys(model, images_13HW)
        )
    if options.refine:
        found_HW, probability_HW = label_refined(patches_hwD, classes_KD, pixels, model.logit_scale, all_KD)
    else:
        found_HW = label_pixels(patches_hwD, classes_KD, pixels.shape[:2])
        if options.background_threshold is not None:
            probability_HW = best_probability(patches_hwD, classes_KD, pixels.shape[:2], model.logit_scale, all_KD)
    ids_HW = (kept_K[found_HW] + 1).cpu().numpy()
    ids_HW[ids_HW > len(words.labels)] = 0
    if options.background_threshold is not None:
        ids_HW[(probability_HW < options.background_threshold).cpu().numpy()] = 0
    return Segmentation(pixels, ids_HW, (BACKGROUND, *words.labels))


def group_picture(model: AnyModel, picture: Picture, options: GroupOptions | None = None) -> Segmentation:
    """Group the pixels of a picture without words (bottom-up grouping), the largest group first.

    Half as many principal components of the centred patches as ``options.groups``, and both signs of each, as the
    evaluation groups. A plain picture has fewer. With ``attention`` a patch belongs to the head of the last layer that
    looks at it most, among those in whose mask it is (DINO's masks overlap); 0 is what no head looks at. Raises
    ValueError for options that do not fit, ImageError for no picture.
    """
    options = options or GroupOptions()
    options.check()
    check_options(model, options)
    pixels = read_pixels(picture)
    if options.readout == "attention":
        return _group_by_attention(model, pixels, options)
    patches_hwD = embed_patches(model, show(model, pixels, options), model.patch_size, options)[0]
    centres_KD = inference.group_centres(patches_hwD.flatten(0, 1), options.groups // 2, centred=True, both_signs=True)
    if options.refine:
        found_HW = label_refined(patches_hwD, centres_KD, pixels)[0].cpu().numpy()
    else:
        found_HW = label_pixels(patches_hwD, centres_KD, pixels.shape[:2]).cpu().numpy()
    names = tuple(f"group {i}" for i in range(1, options.groups + 1))
    largest_first = [share.id for share in Segmentation(pixels, found_HW, names).shares()]
    rank = np.zeros(options.groups, dtype=np.int32)
    rank[largest_first] = np.arange(1, len(largest_first) + 1)
    return Segmentation(pixels, rank[found_HW], (BACKGROUND, *names))


def _group_by_attention(model: AnyModel, pixels: Pixels, options: GroupOptions) -> Segmentation:
    assert isinstance(model, CLIPpy)  # as check_options made sure
    with inference.evaluation(model):
        attention_Ahw = class_attention(model, show(model, pixels, options))[0]
        masks_Ahw = attention_masks(attention_Ahw)
        heads_hw = attention_Ahw.masked_fill(~masks_Ahw, 0).argmax(dim=0) + 1
        heads_hw[~masks_Ahw.any(dim=0)] = 0
        heads_HW = F.interpolate(heads_hw[None, None].float(), pixels.shape[:2], mode="nearest-exact")[0, 0].int()
    names = (f"head {i}" for i in range(1, len(attention_Ahw) + 1))
    return Segmentation(pixels, heads_HW.cpu().numpy(), (BACKGROUND, *names))


def show(model: AnyModel, pixels: Pixels, view: View) -> Tensor:
    """The picture as uint8 (1, 3, H, W) of the size that the model sees, where the model is."""
    return _batch(model, shown_pixels(model, pixels, view))


def _batch(model: AnyModel, pixels: Pixels) -> Tensor:
    """A picture as uint8 (1, 3, H, W) where the model is."""
    return torch.tensor(pixels).permute(2, 0, 1)[None].to(model.logit_scale.device)


def read_pixels(picture: Picture) -> Pixels:
    """Any picture as uint8 (H, W, 3). Raises ImageError for bytes that are none, ValueError for another array."""
    if isinstance(picture, str | Path):
        picture = Path(picture).read_bytes()
    if isinstance(picture, bytes):
        return images.decode_rgb(picture)
    if isinstance(picture, Image.Image):
        return images.to_rgb(picture)
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or not picture.size:
        raise ValueError(f"picture must be uint8 (height, width, 3) (got {picture.dtype} {picture.shape})")
    return picture
