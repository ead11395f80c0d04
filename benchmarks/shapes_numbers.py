"""What ``shapes_claims.py`` measures of a trained model: the benchmark's own numbers, and controls of the read-out.

Shapes: B pictures, H W pixels, N patches, h w patch grid, C classes, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from shapes_data import patch_labels, read_test
from torch import Tensor

from clippy import inference, metrics
from clippy.maskclip import MaskCLIP
from clippy.model import CLIPpy
from pipelines.evaluate import measure_here
from pipelines.recipe import EvalConfig
from pipelines.scenes import BIRDS, CLASSES
from pipelines.shapes import TEMPLATES
from pipelines.storage import locate

Numbers = dict[str, float]
KINDS = {kind: [c["id"] for c in CLASSES if c["kind"] == kind] for kind in ("thing", "stuff")}
PROBE_PATCHES = 32_768
CHUNK = 100
"""Pictures that are read out at once."""


def measure(checkpoint: Path, benchmark: Path, image_size: int) -> tuple[Numbers, dict[str, Numbers]]:
    """A checkpoint's numbers, and those of trivial answers to the same questions.

    accuracy                          one of 12 objects, pooled
    miou, things, stuff               words to pixels, over all classes, things, stuff
    jaccard, jaccard_camouflage       groups without words, and where no colour gives the object away
    maskclip_*                        miou, things, stuff with the last attention layer switched off
    probe_*                           the same with a linear probe on frozen patch tokens: what they know, words aside
    pooled_*, patch_*                 the two birds: accuracy on their ``own`` and the ``other`` ground, ``worst`` of
                                      four groups, and ``gap``, the mean over birds of own minus other
    """
    numbers, trivial = benchmark_numbers(checkpoint, benchmark)
    model = CLIPpy.from_pretrained(checkpoint)
    test = read_test(benchmark, "multi")
    classes_CD = inference.embed_classes(model, [c["name"] for c in CLASSES], TEMPLATES)
    numbers |= {f"maskclip_{name}": value for name, value in segmented(_read_out(MaskCLIP(model), classes_CD), test)}
    numbers |= {f"probe_{name}": value for name, value in segmented(_probe(model, image_size), test)}
    return numbers | bird_numbers(model, classes_CD, benchmark), trivial


def benchmark_numbers(checkpoint: Path, benchmark: Path) -> tuple[Numbers, dict[str, Numbers]]:
    """What ``clippy evaluate`` measures, under the names used here; trivial answers by their own names."""
    found = measure_here(locate(str(checkpoint)), EvalConfig(benchmark="shapes", url=str(benchmark)))
    theirs = {
        "segmentation": {"all": "miou", "things": "things", "stuff": "stuff"},
        "grouping": {"plain": "jaccard", "camouflage": "jaccard_camouflage"},
    }
    rows: dict[str, Numbers] = {}
    for name, value in found.items():
        table, answer, *column = name.split("/")
        if table == "accuracy":
            rows.setdefault(answer, {})["accuracy"] = value
        elif table in theirs:
            rows.setdefault(answer, {})[theirs[table][column[0]]] = value
    return rows.pop("model"), rows


def segmented(name_pixels: Callable[[Tensor], Tensor], test: dict[str, Any]) -> list[tuple[str, float]]:
    """Mean IoU over all classes, things and stuff of what says class ids (B, H, W) of pictures."""
    confusion = np.zeros((len(CLASSES), len(CLASSES)), np.int64)
    for start in range(0, len(test["images"]), CHUNK):
        part = slice(start, start + CHUNK)
        predicted = name_pixels(test["images"][part]).numpy()
        confusion += metrics.confusion_matrix(predicted, test["masks"][part], len(CLASSES))
    things, stuff = (metrics.mean_iou(confusion, KINDS[kind]) for kind in ("thing", "stuff"))
    return [("miou", metrics.mean_iou(confusion)), ("things", things), ("stuff", stuff)]


def _read_out(encoder: inference.Encoder, classes_CD: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda images: inference.segment(encoder, images, classes_CD, (images.shape[-2], images.shape[-1]))


def _probe(model: CLIPpy, image_size: int) -> Callable[[Tensor], Tensor]:
    """Names pixels by logistic regression on patch tokens of training scenes, up-sampled as words' scores are."""
    patches = (image_size // model.patch_size) ** 2
    images, labels_BN = patch_labels(max(1, PROBE_PATCHES // patches), image_size, model.patch_size)
    features = torch.cat([inference.embed_patches(model, part)[0] for part in images.split(CHUNK)])
    weights_CD, bias_C = fit_probe(features.flatten(0, 1), labels_BN.flatten(), len(CLASSES))

    def name_pixels(images: Tensor) -> Tensor:
        tokens_BND, grid = inference.embed_patches(model, images)
        scores_BChw = (tokens_BND @ weights_CD.T + bias_C).mT.unflatten(-1, grid)
        size = (images.shape[-2], images.shape[-1])
        return F.interpolate(scores_BChw, size=size, mode="bilinear", align_corners=False).argmax(dim=1)

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


def bird_numbers(model: CLIPpy, classes_CD: Tensor, benchmark: Path) -> Numbers:
    """Two birds told apart on their own and on the other ground, by the pooled embedding and by a vote of patches."""
    test = read_test(benchmark, "spurious")
    birds = np.array(BIRDS)
    pooled, voted = [], []
    for images in test["images"].split(CHUNK):
        pooled.append(inference.classify(model, images, classes_CD[list(BIRDS)]).argmax(dim=1))
        tokens_BND, _ = inference.embed_patches(model, images)
        words_CD = classes_CD[[*BIRDS, *KINDS["stuff"]]]
        voted.append(vote(tokens_BND @ words_CD.T))
    answers = {"pooled": torch.cat(pooled), "patch": torch.cat(voted)}
    return {
        f"{read_out}_{name}": value
        for read_out, chosen in answers.items()
        for name, value in by_ground(birds[chosen.numpy()], test["label"], test["group"]).items()
    }


def vote(scores_BNC: Tensor) -> Tensor:
    """0 or 1 (B): which of the first two words wins more patches, those won by other words left out.

    Where both win equally many, such as none, the higher score of any patch decides.
    """
    winners_BN = scores_BNC.argmax(dim=-1)
    votes_B2 = torch.stack([(winners_BN == word).sum(dim=1) for word in (0, 1)], dim=1)
    peak_B2 = scores_BNC[..., :2].amax(dim=1)
    tied_B = votes_B2[:, 0] == votes_B2[:, 1]
    return torch.where(tied_B, peak_B2.argmax(dim=1), votes_B2.argmax(dim=1))


def by_ground(predicted: np.ndarray, truth: np.ndarray, groups: np.ndarray) -> Numbers:
    """Accuracy on the bird's ``own`` ground, on the ``other``, in the ``worst`` group, and the ``gap`` of a bird.

    groups: 2 * bird + place, as the benchmark numbers them. The gap is the paper's, the drop within one kind of bird
    when the ground is swapped, here the mean of both kinds.
    """
    correct, total = metrics.group_counts(predicted, truth, groups, 4)
    first_at_home, first_away, second_away, second_at_home = (correct / total).tolist()
    return {
        "own": (first_at_home + second_at_home) / 2,
        "other": (first_away + second_away) / 2,
        "worst": min(first_at_home, first_away, second_away, second_at_home),
        "gap": ((first_at_home - first_away) + (second_at_home - second_away)) / 2,
    }
