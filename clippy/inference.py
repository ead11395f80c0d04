"""Use a trained model: name a picture, name each of its pixels, or group its patches without words.

Works with any object that has the three methods of `Encoder`. Everything runs in inference mode, with the
model in evaluation mode for the duration of the call.

Shapes in names: B images, N patches (h * w of them), D embedding width, C classes, K components,
H and W in pixels, h and w in patches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clippy.words import fill

CAPTIONS_PER_CALL = 256
MAX_SCORES = 2**25
"""Most up-sampled scores `segment` holds at once (128 MiB of float32), unless one image needs more."""


class Encoder(Protocol):
    """What inference asks of a model; none of the embeddings needs to have unit length."""

    def encode_patches(self, images: Tensor, /) -> tuple[Tensor, tuple[int, int]]:
        """Map uint8 (B, 3, H, W) to patch embeddings (B, N, D) and their grid (h, w)."""

    def encode_image(self, images: Tensor, /) -> Tensor:
        """Map uint8 (B, 3, H, W) to pooled embeddings (B, D)."""

    def encode_captions(self, captions: list[str], /) -> Tensor:
        """Map B captions to embeddings (B, D)."""


@contextmanager
def evaluation(model: Encoder) -> Iterator[None]:
    """Switch to evaluation and inference mode, then put back the mode of every module as it was."""
    # Module.train() would also wake modules the caller had frozen in evaluation mode, hence one by one.
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    were_training = [module.training for module in modules]
    try:
        if isinstance(model, nn.Module):
            model.eval()
        with torch.inference_mode():
            yield
    finally:
        for module, was_training in zip(modules, were_training, strict=True):
            module.training = was_training


def embed_classes(model: Encoder, names: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Embed each class name as the mean of its prompts: normalise each, average, normalise again.

    templates: texts for `clippy.words.fill`, with "{}" where the name goes. Returns (C, D) float32 of unit length.
    Raises ValueError for no names, no templates, or a template without "{}".
    Source: CLIP's prompt ensemble, as the CLIPpy paper uses it.
    """
    _require_sequence(names, "names")
    _require_sequence(templates, "templates")
    captions = [fill(template, name) for name in names for template in templates]
    with evaluation(model):
        parts = [
            _unit(model.encode_captions(captions[start : start + CAPTIONS_PER_CALL]))
            for start in range(0, len(captions), CAPTIONS_PER_CALL)
        ]
        prompts_CPD = torch.cat(parts).unflatten(0, (len(names), len(templates)))
        return _unit(prompts_CPD.mean(dim=1))


def embed_patches(model: Encoder, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Embed each patch of each image: (B, N, D) float32 of unit length, and the grid (h, w) they fill.

    images: uint8 (B, 3, H, W). Raises ValueError if the model's patches do not fill its grid.
    """
    with evaluation(model):
        patches_BND, grid = model.encode_patches(images)
        _require_grid(patches_BND, grid)
        return _unit(patches_BND), grid


def classify(model: Encoder, images: Tensor, class_embeddings: Tensor) -> Tensor:
    """Compare each whole image with each class: cosine similarity, without the learnt temperature.

    images: uint8 (B, 3, H, W). class_embeddings: (C, D). Returns (B, C) float32 in -1..1.
    """
    with evaluation(model):
        image_BD = _unit(model.encode_image(images))
        return image_BD @ _unit(class_embeddings).to(image_BD.device).T


def class_scores(model: Encoder, images: Tensor, class_embeddings: Tensor, size: tuple[int, int]) -> Tensor:
    """Compare each pixel with each class (top-down grouping).

    images: uint8 (B, 3, H, W). class_embeddings: (C, D). size: (H, W) of the result in pixels.
    Returns (B, C, H, W) float32: cosine per patch, then bilinear. The class embeddings are fixed, so
    up-sampling C scores equals up-sampling D features and costs far less.
    Source: top-down grouping, CLIPpy paper (arXiv 2210.09996).
    """
    with evaluation(model):
        return _upsample(_patch_scores(model, images, class_embeddings), size)


def segment(model: Encoder, images: Tensor, class_embeddings: Tensor, size: tuple[int, int]) -> Tensor:
    """Name each pixel: the class of the highest score of `class_scores`, without threshold.

    Arguments as `class_scores`. Returns (B, H, W) int64 class ids. Only as many images are up-sampled
    at once as fit in MAX_SCORES.
    """
    with evaluation(model):
        scores_BChw = _patch_scores(model, images, class_embeddings)
        num_scores = scores_BChw.shape[1] * size[0] * size[1]
        chunks = scores_BChw.split(max(1, MAX_SCORES // num_scores))
        return torch.cat([_upsample(chunk, size).argmax(dim=1) for chunk in chunks])


@torch.inference_mode()
def group(
    features_BND: Tensor,
    grid: tuple[int, int],
    num_components: int = 8,
    centred: bool = False,
    both_signs: bool = False,
) -> Tensor:
    """Group the patches of each image by their principal components, without words (bottom-up grouping).

    features_BND: patch embeddings; grid: (h, w). The centres are the first `num_components` right singular
    vectors of the unit-length features, turned so that the mean projection is not negative; each patch
    joins the centre of highest cosine. centred=True subtracts the mean patch before the SVD only.
    both_signs=True also offers the negated centres, with ids num_components..2*num_components-1.
    Returns (B, h, w) int64. Features of a lower rank than `num_components` use fewer ids.
    Raises ValueError if the grid does not hold N patches or num_components < 1.
    Source: bottom-up grouping, CLIPpy paper, which leaves centring and sign open: those are ours.
    """
    _require_grid(features_BND, grid)
    if num_components < 1:
        raise ValueError(f"num_components must be at least 1 (got {num_components})")
    unit_BND = _unit(features_BND)
    centres_BKD, used_BK = _principal_directions(unit_BND, num_components, centred)
    cosine_BNK = unit_BND @ centres_BKD.mT
    affinity_BNK = cosine_BNK.abs() if both_signs else cosine_BNK
    nearest_BN1 = affinity_BNK.masked_fill(~used_BK[:, None], -torch.inf).argmax(dim=-1, keepdim=True)
    if both_signs:
        negative_BN1 = cosine_BNK.gather(-1, nearest_BN1) < 0
        nearest_BN1 = nearest_BN1 + num_components * negative_BN1
    return nearest_BN1.reshape(-1, *grid)


@torch.inference_mode()
def group_centres(
    features_ND: Tensor, num_components: int = 8, centred: bool = False, both_signs: bool = False
) -> Tensor:
    """Find the centres that `group` compares the patches of one image with, as classes without words.

    Arguments as `group`. Returns (K, D) float32 of unit length: only the centres that carry anything, so K is
    at most `num_components`, or twice that with both_signs=True, where the negated centres follow the others.
    """
    centres_BKD, used_BK = _principal_directions(_unit(features_ND)[None], num_components, centred)
    centres_KD = centres_BKD[0, used_BK[0]]
    return torch.cat([centres_KD, -centres_KD]) if both_signs else centres_KD


def position_grid(h: int, w: int, rows: int, columns: int) -> Tensor:
    """Group by place alone: rows x columns near-equal blocks, a floor for `group`.

    Returns (h, w) int64, ids in reading order. Raises ValueError unless 1 <= rows <= h and
    1 <= columns <= w.
    """
    if not (1 <= rows <= h and 1 <= columns <= w):
        raise ValueError(f"cannot cut a {h} x {w} grid into {rows} rows and {columns} columns")
    row_h = torch.arange(h) * rows // h
    column_w = torch.arange(w) * columns // w
    return row_h[:, None] * columns + column_w[None]


def random_partition(shape: Sequence[int], num_groups: int, generator: torch.Generator) -> Tensor:
    """Give each place an independent uniform group, the chance floor for `group`.

    Returns int64 ids in 0..num_groups-1 of the given shape.
    """
    return torch.randint(num_groups, tuple(shape), generator=generator, device=generator.device)


def patch_colours(images: Tensor, patch: int) -> Tensor:
    """Cut images into patches of raw pixels: features that need no training, a floor for `group`.

    images: uint8 (B, 3, H, W); patch: side in pixels. Returns (B, N, 3 * patch * patch) float32 in 0..1,
    patches in reading order. Raises ValueError if a side is not a multiple of `patch`.
    """
    if images.ndim != 4 or images.shape[-2] % patch or images.shape[-1] % patch:
        raise ValueError(f"images of shape {tuple(images.shape)} cannot be cut into patches of {patch}")
    return F.unfold(images.float() / 255, kernel_size=patch, stride=patch).mT


def enlarge(ids_hw: Tensor, size: Sequence[int]) -> Tensor:
    """Give every pixel the id of the patch that it lies in: nearest up-sampling to `size`, (H, W)."""
    row_H, column_W = (torch.arange(n) * patches // n for n, patches in zip(size, ids_hw.shape, strict=True))
    return ids_hw[row_H[:, None], column_W]


def _unit(embeddings: Tensor) -> Tensor:
    """Scale the last dimension to unit length in float32; a zero vector stays zero."""
    return F.normalize(embeddings.float(), dim=-1)


def _patch_scores(model: Encoder, images: Tensor, class_embeddings: Tensor) -> Tensor:
    """Cosine of each patch with each class, (B, C, h, w)."""
    unit_BND, grid = embed_patches(model, images)
    scores_BNC = unit_BND @ _unit(class_embeddings).to(unit_BND.device).T
    return scores_BNC.mT.unflatten(-1, grid)


def _upsample(scores_BChw: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(scores_BChw, size=size, mode="bilinear", align_corners=False)


def _principal_directions(unit_BND: Tensor, num_components: int, centred: bool) -> tuple[Tensor, Tensor]:
    """Right singular vectors (B, K, D) with a fixed sign, and which of them carry anything (B, K bool)."""
    num_patches, width = unit_BND.shape[1:]
    mean_B1D = unit_BND.mean(dim=1, keepdim=True)
    centred_BND = unit_BND - mean_B1D if centred else unit_BND
    strength_BK, centres_BKD = _right_singular(centred_BND, num_components)
    # N unit rows have Frobenius norm sqrt(N): anything this far below it is rounding, its direction noise.
    rounding = torch.finfo(unit_BND.dtype).eps * max(num_patches, width)
    used_BK = strength_BK > rounding * num_patches**0.5
    used_BK[:, 0] = True
    # With a mean projection of zero the sign would hang on rounding: the largest coordinate decides then.
    projection_BK = (mean_B1D @ centres_BKD.mT).squeeze(1)
    largest_BK = centres_BKD.gather(-1, centres_BKD.abs().argmax(dim=-1, keepdim=True)).squeeze(-1)
    decisive_BK = torch.where(projection_BK.abs() > rounding, projection_BK, largest_BK)
    signs_BK = torch.where(decisive_BK < 0, -1.0, 1.0)
    return centres_BKD * signs_BK[..., None], used_BK


def _right_singular(matrix_BND: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The largest singular values (B, K) and their right vectors (B, K, D) of unit length, at most so many.

    By the eigenvectors of the smaller of the two matrices of inner products, in float64: several times as fast as a
    singular value decomposition, and squaring loses nothing that float32 has. Vectors of vanishing values mean nothing.
    """
    matrix = matrix_BND.double()
    wide = matrix.shape[-2] <= matrix.shape[-1]
    squares, vectors = torch.linalg.eigh(matrix @ matrix.mT if wide else matrix.mT @ matrix)
    squares, vectors = squares.flip(-1)[:, :most].clamp(min=0), vectors.flip(-1)[..., :most].mT
    vectors = F.normalize(vectors @ matrix, dim=-1) if wide else vectors
    return squares.sqrt().to(matrix_BND), vectors.to(matrix_BND)


def _require_grid(patches_BND: Tensor, grid: tuple[int, int]) -> None:
    if patches_BND.ndim != 3 or patches_BND.shape[1] != grid[0] * grid[1]:
        raise ValueError(f"patches of shape {tuple(patches_BND.shape)} do not fill a grid of {grid}")


def _require_sequence(values: Sequence[str], name: str) -> None:
    # A lone string is a sequence of letters: it would be read as one class per letter.
    if isinstance(values, str) or not values:
        raise ValueError(f"{name} must be a list of at least one text (got {values!r})")
