"""What is measured on the shapes benchmark: one model, some rows of one split, counts that can be added up.

Every measure comes with trivial answers to the same question, because a number alone says little on small scenes.
Shapes: B pictures, H W pixels, N patches, h w patch grid, C classes.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from clippy import inference, metrics
from clippy.draw import palette, panel
from clippy.model import CLIPpy
from pipelines.columns import DataError
from pipelines.scenes import BIRDS
from pipelines.storage import Location

SPLITS = ("single", "multi", "camouflage", "spurious")
GROUP_SPLITS = {"plain": "multi", "camouflage": "camouflage"}
COMPONENTS = 4
"""Principal components of the grouping, both signs of each: the paper's eight groups."""
GROUPS = 2 * COMPONENTS


@dataclass(frozen=True)
class Labels:
    """The benchmark's classes and prompts."""

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    """'thing' or 'stuff', one for each name."""
    templates: tuple[str, ...]

    def ids(self, kind: str) -> list[int]:
        """Class ids of one kind."""
        return [i for i, own in enumerate(self.kinds) if own == kind]


def load_labels(data: Location) -> Labels:
    """The class list beside the splits. Raises DataError if there is none."""
    file = data / "evaluation" / "classes.json"
    try:
        content = json.loads(file.read_text())
        classes = content["classes"]
        return Labels(tuple(c["name"] for c in classes), tuple(c["kind"] for c in classes), tuple(content["templates"]))
    except FileNotFoundError:
        raise DataError(
            f"{data.url}: no shapes benchmark, evaluation/classes.json is missing; run: clippy data shapes {data.url}"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file.url}: not the class list of the shapes benchmark ({error})") from None


@dataclass(frozen=True)
class Pictures:
    """Some decoded rows of a split."""

    images_B3HW: torch.Tensor
    masks_BHW: np.ndarray
    instances_BHW: np.ndarray
    labels_B: np.ndarray
    backgrounds_B: np.ndarray
    groups_B: np.ndarray | None


def decode_rows(rows: dict[str, list[Any]]) -> Pictures:
    """Columns of an evaluation split as arrays; pictures and masks keep their native size."""
    images = np.stack([_pixels(data, "RGB") for data in rows["image"]])
    return Pictures(
        images_B3HW=torch.from_numpy(images).permute(0, 3, 1, 2),
        masks_BHW=np.stack([_pixels(data, "L") for data in rows["mask"]]),
        instances_BHW=np.stack([_pixels(data, "L") for data in rows["instances"]]),
        labels_B=np.array(rows["label"]),
        backgrounds_B=np.array(rows["background"]),
        groups_B=np.array(rows["group"]) if "group" in rows else None,
    )


def _pixels(data: bytes, mode: str) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(data)).convert(mode))


class ShapesMeter:
    """Counts of one model on rows of the benchmark; all results are plain lists and numbers."""

    def __init__(self, model: CLIPpy, labels: Labels) -> None:
        self._model, self._labels = model, labels
        self._classes_CD = inference.embed_classes(model, labels.names, labels.templates)
        self._colours = palette(len(labels.names))

    def measure(self, split: str, first_row: int, pictures: Pictures, num_panels: int) -> dict[str, Any]:
        """What this split is for: classes, pixels, groups of patches, or classes by background; and panels."""
        results: dict[str, Any] = {}
        if split == "single":
            results |= self._classify(pictures)
        if split == "spurious":
            results |= self._classify_birds(pictures)
        if split == "multi":
            results |= self._segment(pictures)
        if split in GROUP_SPLITS.values():
            results["jaccard"] = self._group(first_row, pictures)
            results["panels"] = self._panels(split, pictures, num_panels)
        return results

    def _classify(self, pictures: Pictures) -> dict[str, Any]:
        things = self._labels.ids("thing")
        scores_BC = inference.classify(self._model, pictures.images_B3HW, self._classes_CD[things])
        predicted = np.array(things)[scores_BC.argmax(dim=1).cpu().numpy()]
        correct, total = metrics.accuracy_counts(predicted, pictures.labels_B)
        return {"correct": correct, "total": total, "labels": pictures.labels_B.tolist()}

    def _classify_birds(self, pictures: Pictures) -> dict[str, Any]:
        assert pictures.groups_B is not None
        scores_B2 = inference.classify(self._model, pictures.images_B3HW, self._classes_CD[list(BIRDS)])
        predicted = np.array(BIRDS)[scores_B2.argmax(dim=1).cpu().numpy()]
        correct, total = metrics.group_counts(predicted, pictures.labels_B, pictures.groups_B, 4)
        return {"group_correct": correct.tolist(), "group_total": total.tolist()}

    def _segment(self, pictures: Pictures) -> dict[str, Any]:
        masks, size = pictures.masks_BHW, pictures.masks_BHW.shape[1:]
        predicted = inference.segment(self._model, pictures.images_B3HW, self._classes_CD, (size[0], size[1]))
        ground = np.broadcast_to(pictures.backgrounds_B[:, None, None], masks.shape)
        thing = np.broadcast_to(pictures.labels_B[:, None, None], masks.shape)
        answers = {
            "model": predicted.cpu().numpy(),
            "all background": ground,
            "one object": thing,
            "patch-majority oracle": np.stack([self._oracle(mask) for mask in masks]),
        }
        classes = len(self._labels.names)
        confusions = {name: metrics.confusion_matrix(a, masks, classes).tolist() for name, a in answers.items()}
        return {"confusions": confusions}

    def _oracle(self, mask_HW: np.ndarray) -> np.ndarray:
        grid = self._grid(mask_HW.shape)
        return _enlarge(inference.patch_majority(torch.from_numpy(mask_HW), *grid), mask_HW.shape)

    def _grid(self, size: tuple[int, ...]) -> tuple[int, int]:
        patch = self._patch()
        return size[0] // patch, size[1] // patch

    def _patch(self) -> int:
        return self._model.image.patch_size

    def _group(self, first_row: int, pictures: Pictures) -> dict[str, list[tuple[float, int]]]:
        """Sum of best Jaccards and number of segments, one pair a picture, for the model and each floor."""
        images, size = pictures.images_B3HW, pictures.masks_BHW.shape[1:]
        grid = self._grid(size)
        shape = (len(images), *grid)
        random = torch.stack(
            [
                # Seeded by the row, so that the floor does not depend on which worker measures it.
                inference.random_partition(grid, GROUPS, torch.Generator().manual_seed(first_row + i))
                for i in range(len(images))
            ]
        )
        answers = {
            "model": self._grouping(images),
            "random partition": random,
            "position grid": inference.position_grid(*grid, rows=4, columns=2).expand(shape),
            "whole image": torch.zeros(shape, dtype=torch.int64),
            "raw-colour PCA": inference.group(
                inference.patch_colours(images, self._patch()), grid, COMPONENTS, centred=True, both_signs=True
            ),
        }
        return {name: self._jaccard(groups, pictures) for name, groups in answers.items()}

    def _grouping(self, images_B3HW: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            patches_BND, grid = self._model.encode_patches(images_B3HW)
        return inference.group(patches_BND, grid, COMPONENTS, centred=True, both_signs=True)

    def _jaccard(self, groups_Bhw: torch.Tensor, pictures: Pictures) -> list[tuple[float, int]]:
        return [
            metrics.best_jaccard(segments, _enlarge(groups, segments.shape), GROUPS)
            for segments, groups in zip(pictures.instances_BHW, groups_Bhw, strict=True)
        ]

    def _panels(self, split: str, pictures: Pictures, num_panels: int) -> list[str]:
        """PNG pictures in base64: named pixels beside the truth, or groups beside the objects."""
        images_B3HW, size = pictures.images_B3HW[:num_panels], pictures.masks_BHW.shape[1:]
        if not len(images_B3HW):
            return []
        if split == "multi":
            names, colours = list(self._labels.names), self._colours
            predicted = inference.segment(self._model, images_B3HW, self._classes_CD, (size[0], size[1])).numpy()
            truth = pictures.masks_BHW
        else:
            names, colours = [f"group {i + 1}" for i in range(GROUPS)], palette(GROUPS)
            predicted = np.stack([_enlarge(groups, size) for groups in self._grouping(images_B3HW)])
            truth = pictures.instances_BHW
        images = images_B3HW.permute(0, 2, 3, 1).numpy()
        drawn = (
            panel(image, p, t, names, colours)
            for image, p, t in zip(images, predicted, truth[:num_panels], strict=True)
        )
        return [_png(picture) for picture in drawn]


def _enlarge(grid_hw: torch.Tensor, size: Sequence[int]) -> np.ndarray:
    """Nearest up-sampling of ids on the patch grid to pixels."""
    h, w = grid_hw.shape
    return grid_hw.repeat_interleave(size[0] // h, 0).repeat_interleave(size[1] // w, 1).cpu().numpy()


def _png(picture: Image.Image) -> str:
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return base64.b64encode(stream.getvalue()).decode()
