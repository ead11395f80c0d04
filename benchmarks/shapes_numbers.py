"""What ``shapes_claims.py`` measures of a trained model: the benchmark's own numbers, and controls of the read-out.

Shapes: B pictures, H W pixels, N patches, h w patch grid, C classes, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from shapes_data import patch_labels, read_test
from torch import Tensor

from clippy import inference, metrics
from clippy.maskclip import MaskCLIP
from clippy.model import CLIPpy
from pipelines.evaluate import measure_here
from pipelines.evaluation.protocol import choose_protocol
from pipelines.scenes import CLASSES
from pipelines.sections import EvalConfig
from pipelines.shapes import TEMPLATES
from pipelines.storage import locate

Numbers = dict[str, float]
KINDS = {kind: [c["id"] for c in CLASSES if c["kind"] == kind] for kind in ("thing", "stuff")}
PROBE_PATCHES = 32_768
CHUNK = 100
"""Pictures that are read out at once."""


def measure(checkpoint: Path, benchmark: Path, size: int) -> tuple[Numbers, dict[str, Numbers]]:
    """A checkpoint's numbers on pictures of ``size``, and those of trivial answers to the same questions.

    accuracy                          one of 12 objects, pooled
    miou, things, stuff               words to pixels, over all classes, things, stuff
    jaccard, jaccard_camouflage       groups without words, and where no colour gives the object away
    maskclip_*                        miou, things, stuff with the last attention layer switched off
    probe_*                           the same with a linear probe on frozen patch tokens: what they know, words aside
    pooled_*, patches_*               the two birds, by the pooled embedding and by a vote of patches: accuracy on their
                                      ``own`` and the ``other`` ground, in the ``worst`` of four groups, and the ``gap``
    """
    numbers, trivial = benchmark_numbers(checkpoint, benchmark, size)
    model = CLIPpy.from_pretrained(checkpoint)
    images, masks_BHW = read_test(benchmark, "multi")
    classes_CD = inference.embed_classes(model, [c["name"] for c in CLASSES], TEMPLATES)
    read_outs = {"maskclip": read_out(MaskCLIP(model), classes_CD), "probe": probe(model, size)}
    for name, name_pixels in read_outs.items():
        numbers |= {f"{name}_{number}": value for number, value in segmented(name_pixels, images, masks_BHW).items()}
    return numbers, trivial


THEIRS = {
    "classification": {"top-1": "accuracy"},
    "segmentation": {"mIoU": "miou", "mIoU_things": "things", "mIoU_stuff": "stuff"},
    "grouping": {"Jaccard": "jaccard"},
    "grouping_in_camouflage": {"Jaccard": "jaccard_camouflage"},
    "groups": {"own_background": "own", "other_background": "other", "worst": "worst"},
}
"""The benchmark's tables and numbers, and what they are called here."""


def benchmark_numbers(checkpoint: Path, benchmark: Path, size: int) -> tuple[Numbers, dict[str, Numbers]]:
    """What ``clippy evaluate`` measures, pictures shown at ``size``; trivial answers by their own names."""
    protocol = choose_protocol(None, "shapes", overrides=[f"size={size}"])
    config = EvalConfig(benchmark="shapes", url=str(benchmark), protocol=protocol)
    rows: dict[str, Numbers] = {"model": {}}
    for name, value in measure_here(locate(str(checkpoint)), config).items():
        table, answer, number = name.split("/")
        if number not in THEIRS[table]:
            continue
        mine = THEIRS[table][number]
        if table == "groups" and answer in ("pooled", "patches"):
            rows["model"][f"{answer}_{mine}"] = value
        elif table != "groups":
            rows.setdefault(answer, {})[mine] = value
    numbers = rows.pop("model")
    gaps = {f"{way}_gap": numbers[f"{way}_own"] - numbers[f"{way}_other"] for way in ("pooled", "patches")}
    return numbers | gaps, rows


def segmented(name_pixels: Callable[[Tensor], Tensor], images: Tensor, masks_BHW: np.ndarray) -> Numbers:
    """Mean IoU over all classes, things and stuff of what says class ids (B, H, W) of pictures."""
    confusion = np.zeros((len(CLASSES), len(CLASSES)), np.int64)
    for start in range(0, len(images), CHUNK):
        part = slice(start, start + CHUNK)
        confusion += metrics.confusion_matrix(name_pixels(images[part]).numpy(), masks_BHW[part], len(CLASSES))
    things, stuff = (metrics.mean_iou(confusion, KINDS[kind]) for kind in ("thing", "stuff"))
    return {"miou": metrics.mean_iou(confusion), "things": things, "stuff": stuff}


def read_out(encoder: inference.Encoder, classes_CD: Tensor) -> Callable[[Tensor], Tensor]:
    """Names pixels by words."""
    return lambda images: inference.segment(encoder, images, classes_CD, (images.shape[-2], images.shape[-1]))


def probe(model: CLIPpy, size: int) -> Callable[[Tensor], Tensor]:
    """Names pixels by logistic regression on patch tokens of training scenes, up-sampled as words' scores are."""
    patches = (size // model.patch_size) ** 2
    images, labels_BN = patch_labels(max(1, PROBE_PATCHES // patches), size, model.patch_size)
    features = torch.cat([inference.embed_patches(model, part)[0] for part in images.split(CHUNK)])
    weights_CD, bias_C = fit_probe(features.flatten(0, 1), labels_BN.flatten(), len(CLASSES))

    def name_pixels(images: Tensor) -> Tensor:
        tokens_BND, grid = inference.embed_patches(model, images)
        scores_BChw = (tokens_BND @ weights_CD.T + bias_C).mT.unflatten(-1, grid)
        height_width = (images.shape[-2], images.shape[-1])
        return F.interpolate(scores_BChw, size=height_width, mode="bilinear", align_corners=False).argmax(dim=1)

    return name_pixels


def fit_probe(features: Tensor, labels: Tensor, classes: int, decay: float = 1e-4) -> tuple[Tensor, Tensor]:
    """Weights (C, D) and bias (C) of multinomial logistic regression, always the same for the same input.

    features: (rows, D); labels: int64 (rows). Found by L-BFGS on standardised features.
    """
    features = features.detach().clone()  # out of inference mode, so that autograd takes it
    mean, std = features.mean(dim=0), features.std(dim=0).clamp(min=1e-6)
    standard = (features - mean) / std
    weights = torch.zeros(classes, features.shape[1], requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    solver = torch.optim.LBFGS([weights, bias], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        loss = F.cross_entropy(standard @ weights.T + bias, labels) + decay * weights.square().sum()
        loss.backward()
        return loss

    solver.step(closure)
    scaled = (weights / std).detach()
    return scaled, (bias - scaled @ mean).detach()
