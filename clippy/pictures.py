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
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from clippy import images, inference
from clippy.draw import Pixels, palette, panel
from clippy.model import CLIPpy
from clippy.upsampling import label_pixels
from clippy.words import TEMPLATES, check_words

Picture = str | Path | bytes | Pixels | Image.Image
"""A file's path or bytes, uint8 (H, W, 3), or a picture of Pillow's; stored orientation is applied."""

BACKGROUND = "background"
MAX_PROPORTION = 8
"""A panorama longer than so many times its short side is squeezed to that for the model; the result is not."""
MAX_SIZE, MAX_GROUPS = 2048, 64
PALETTE_IDS = 256
"""Ids of a mask with a palette; with more labels it is a 16-bit grey picture."""
DRAWN_PIXELS, DRAWN_PROPORTION = 768, 0.5
"""Longest side of a drawing's tiles, and their width over height at least, which a legend needs."""
LEGEND_ENTRIES = 32
"""Names that a drawing explains, the largest first; the rest are drawn as one."""
_GROUND_COLOUR, _REST_COLOUR = (0, 0, 0), (255, 255, 255)


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


@dataclass(frozen=True)
class Share:
    """How much of a picture an id covers, from 0 to 1."""

    id: int
    name: str
    share: float


@dataclass(frozen=True)
class Segmentation:
    """A picture (H, W, 3) uint8, the id of each of its pixels (H, W) int32, and the name of each id.

    Id 0 is the background, the ids of labels or groups are 1 and up, in every picture and with or without background.
    """

    pixels: Pixels
    ids: NDArray[np.int32]
    names: tuple[str, ...]

    def shares(self) -> list[Share]:
        """What is there, the largest first."""
        parts = np.array_split(self.ids, max(1, self.ids.size >> 22))  # bincount would make int64 of the whole
        counts = np.sum([np.bincount(part.ravel(), minlength=len(self.names)) for part in parts], axis=0)
        order = np.argsort(-counts, kind="stable")
        return [Share(int(i), self.names[i], float(counts[i] / self.ids.size)) for i in order if counts[i]]

    def mask(self) -> Image.Image:
        """The ids at the picture's own size, with a palette: black is 0; 16-bit grey with more than 255 labels."""
        if len(self.names) > PALETTE_IDS:
            return Image.fromarray(self.ids.astype(np.uint16))
        mask = Image.fromarray(self.ids.astype(np.uint8))
        mask.putpalette(_colours(len(self.names)).tobytes())
        return mask

    def drawing(self) -> Image.Image:
        """The picture beside the same with each pixel tinted by its label, and a legend; made smaller where large.

        Colours are those of the mask, where that has a palette and up to LEGEND_ENTRIES labels are there.
        """
        shares = self.shares()
        named, others = shares[:LEGEND_ENTRIES], shares[LEGEND_ENTRIES:]
        named = sorted(named, key=lambda share: share.id)
        names = [share.name for share in named]
        if len(self.names) <= PALETTE_IDS:
            colours = _colours(len(self.names))[[share.id for share in named]]
        else:
            colours = _colours(len(named) + 1)[1:]
        if others:
            names.append(f"{len(others)} others")
            colours = np.concatenate([colours, np.array([_REST_COLOUR], dtype=np.uint8)])
        entry = np.full(len(self.names), len(named), dtype=np.int32)
        entry[[share.id for share in named]] = range(len(named))
        pixels, ids = self._reduced()
        return panel(*_widened(pixels, entry[ids]), None, names, colours)

    def _reduced(self) -> tuple[Pixels, NDArray[np.int32]]:
        """Picture and ids at a size to look at."""
        height, width = self.ids.shape
        scale = min(1, DRAWN_PIXELS / max(height, width))
        if scale == 1:
            return self.pixels, self.ids
        rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
        row_indices = (np.arange(rows) + 0.5) * height / rows
        column_indices = (np.arange(columns) + 0.5) * width / columns
        ids = self.ids[row_indices.astype(int)[:, None], column_indices.astype(int)]
        return images.resize(self.pixels, rows, columns), ids


def embed_words(
    model: CLIPpy, labels: Sequence[str], background: Sequence[str] = (), templates: Sequence[str] = TEMPLATES
) -> Vocabulary:
    """Embed words once for many pictures. Raises ValueError as `clippy.words.check_words` does."""
    check_words(labels, background, templates)
    embeddings_CD = inference.embed_classes(model, [*labels, *background], templates)
    return Vocabulary(tuple(labels), tuple(background), embeddings_CD)


def classify_picture(
    model: CLIPpy, picture: Picture, labels: Sequence[str] | Vocabulary, templates: Sequence[str] = TEMPLATES
) -> list[Guess]:
    """Name a whole picture, its centre cropped as the paper does: all labels, the best first.

    The probability is the softmax over the labels of cosine times the model's inverse temperature. ``templates`` go
    with labels that are not embedded yet. Raises ValueError for labels that name nothing, ImageError for no picture.
    """
    words = labels if isinstance(labels, Vocabulary) else embed_words(model, labels, templates=templates)
    size = model.config.image.image_size
    data = Path(picture).read_bytes() if isinstance(picture, str | Path) else picture
    square = images.decode_image(data, size) if isinstance(data, bytes) else images.resize_and_crop(_pixels(data), size)
    cosine_C = inference.classify(model, _batch(model, square), words.embeddings_CD)[0, : len(words.labels)]
    with torch.inference_mode():
        probability_C = (cosine_C * model.logit_scale).softmax(dim=0)
    order = cosine_C.argsort(descending=True, stable=True).tolist()
    cosines, probabilities = cosine_C.tolist(), probability_C.tolist()
    return [Guess(words.labels[i], probabilities[i], cosines[i]) for i in order]


def segment_picture(
    model: CLIPpy,
    picture: Picture,
    labels: Sequence[str] | Vocabulary,
    background: Sequence[str] = (),
    templates: Sequence[str] = TEMPLATES,
    size: int | None = None,
) -> Segmentation:
    """Name each pixel with the best of some free words (top-down grouping).

    ``background`` are further words whose pixels become id 0, the paper's extended vocabulary. ``size`` is the short
    side that the model sees, in pixels; None is the one that it was trained on. ``background`` and ``templates`` go
    with labels that are not embedded yet. Raises ValueError for words that name nothing or a size out of range,
    ImageError for no picture.
    """
    words = labels if isinstance(labels, Vocabulary) else embed_words(model, labels, background, templates)
    pixels = _pixels(picture)
    patches_hwD = _embed(model, pixels, size)
    classes_HW = label_pixels(patches_hwD, words.embeddings_CD, pixels.shape[:2]).cpu().numpy()
    classes_HW += 1
    classes_HW[classes_HW > len(words.labels)] = 0
    return Segmentation(pixels, classes_HW, (BACKGROUND, *words.labels))


def group_picture(model: CLIPpy, picture: Picture, groups: int = 8, size: int | None = None) -> Segmentation:
    """Group the pixels of a picture without words (bottom-up grouping), the largest group first.

    ``groups``: even, 2 to MAX_GROUPS; half as many principal components of the centred patches, and both signs of
    each, as the evaluation groups. A plain picture has fewer. ``size`` as `segment_picture`. Raises ValueError for
    groups or a size out of range, ImageError for no picture.
    """
    check_groups(groups)
    pixels = _pixels(picture)
    patches_hwD = _embed(model, pixels, size)
    centres_KD = inference.group_centres(patches_hwD.flatten(0, 1), groups // 2, centred=True, both_signs=True)
    found_HW = label_pixels(patches_hwD, centres_KD, pixels.shape[:2]).cpu().numpy()
    names = tuple(f"group {i}" for i in range(1, groups + 1))
    largest_first = [share.id for share in Segmentation(pixels, found_HW, names).shares()]
    rank = np.zeros(groups, dtype=np.int32)
    rank[largest_first] = np.arange(1, len(largest_first) + 1)
    return Segmentation(pixels, rank[found_HW], (BACKGROUND, *names))


def check_groups(groups: int, name: str = "groups") -> None:
    """Refuse a number of groups that cannot be made. Raises ValueError that begins with ``name``."""
    if not 2 <= groups <= MAX_GROUPS or groups % 2:
        raise ValueError(
            f"{name}: must be an even number from 2 to {MAX_GROUPS}, two for each principal component (got {groups})"
        )


def check_size(model: CLIPpy, size: int | None, name: str = "size") -> None:
    """Refuse a size that the model cannot look at. Raises ValueError that begins with ``name``."""
    own, patch = model.config.image.image_size, model.image.patch_size
    if size is None:
        return
    if not patch <= size <= MAX_SIZE:
        raise ValueError(f"{name}: must be from {patch}, one patch of this model, to {MAX_SIZE} pixels (got {size})")
    if _takes_one_size(model) and size != own:
        raise ValueError(f"{name}: {model.config.image.name} takes pictures of {own} pixels alone (got {size})")


def input_size(height: int, width: int, short_side: int, patch_size: int) -> tuple[int, int]:
    """Height and width that the model sees: the short side as told, the other in proportion, both whole patches."""
    longest = short_side * MAX_PROPORTION
    sides = [min(side * short_side / min(height, width), longest) for side in (height, width)]
    rows, columns = (max(1, round(side / patch_size)) * patch_size for side in sides)
    return rows, columns


def _embed(model: CLIPpy, pixels: Pixels, size: int | None) -> Tensor:
    """(h, w, D) float32 unit vectors of the patches that cover a whole picture."""
    check_size(model, size)
    own = model.config.image.image_size
    if _takes_one_size(model):
        target = (own, own)
    else:
        target = input_size(pixels.shape[0], pixels.shape[1], size or own, model.image.patch_size)
    patches_BND, grid = inference.embed_patches(model, _batch(model, images.resize(pixels, *target)))
    if not patches_BND.isfinite().all():
        raise ValueError("the model's patches are no finite numbers; its weights are damaged, use another checkpoint")
    return patches_BND[0].unflatten(0, grid)


def _takes_one_size(model: CLIPpy) -> bool:
    """Whether the tower, such as a Swin, refuses any size but its own: it then sees every picture as a square."""
    return bool(getattr(getattr(model.image.trunk, "patch_embed", None), "strict_img_size", False))


def _batch(model: CLIPpy, pixels: Pixels) -> Tensor:
    """A picture as uint8 (1, 3, H, W) where the model is."""
    return torch.tensor(pixels).permute(2, 0, 1)[None].to(model.log_logit_scale.device)


def _pixels(picture: Picture) -> Pixels:
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


def _colours(num_ids: int) -> Pixels:
    """(num_ids, 3) uint8: black for the background, then the palette."""
    return np.concatenate([np.array([_GROUND_COLOUR], dtype=np.uint8), palette(num_ids - 1)])


def _widened(pixels: Pixels, entries: NDArray[Any]) -> tuple[Pixels, NDArray[Any]]:
    """White margins beside a narrow picture, so that the legend has room."""
    missing = max(0, round(pixels.shape[0] * DRAWN_PROPORTION) - pixels.shape[1])
    columns = (missing // 2, missing - missing // 2)
    padded = np.pad(pixels, ((0, 0), columns, (0, 0)), constant_values=255)
    return padded, np.pad(entries, ((0, 0), columns), constant_values=-1)
