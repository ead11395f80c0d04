"""On every benchmark, in its layout on disk: a perfect predictor, a constant one, and one that swaps two classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clippy.vocabulary import class_list
from pipelines.evaluation.benchmarks import open_parts
from pipelines.evaluation.dataset import VOID
from pipelines.evaluation.names import BENCHMARKS
from pipelines.evaluation.protocol import PROTOCOLS
from pipelines.evaluation.question import Findings
from pipelines.evaluation.units import Measurer, Task, Unit
from pipelines.storage import locate
from tests.pipelines.evaluation import layouts
from tests.pipelines.evaluation.colour_model import Colour, ColourModelSource, distinct_colour

BLOCK = 8
"""JPEG's blocks: colours do not leak out of them."""


def findings(name: str, root: Path, colours: dict[str, Colour], side: int) -> dict[str, Findings]:
    """All questions of the benchmark to a model that sees these colours in these words."""
    protocol = PROTOCOLS["paper"].model_copy(update={"grouping": "k-means"})
    parts = open_parts(name, locate(str(root)), protocol)
    source: Any = ColourModelSource(tuple(colours.items()), side)
    rows = Measurer(Task(source, protocol, parts, 4)).measure(Unit(0, 0, len(parts[0].dataset)))
    return {question.table: question.sum_up(row[question.table] for row in rows) for question in parts[0].questions}


def masks_of(num_classes: int, background: int | None) -> list[np.ndarray]:
    """Three blocks a picture and one of void; all classes but the last two occur, the background in each picture."""
    classes = [i for i in range(num_classes - 2) if i != background]
    masks = []
    for start in range(0, len(classes), 2):
        pair = [*classes[start : start + 2], classes[0]][:2]
        third = pair[0] if background is None else background
        blocks = np.array([[pair[0], pair[1]], [third, VOID]])
        masks.append(np.kron(blocks, np.ones((BLOCK, BLOCK), dtype=np.int64)))
    return masks


def painted(mask: np.ndarray) -> np.ndarray:
    colours = np.array([distinct_colour(i) for i in range(int(mask.max()) + 1)] + [(1, 1, 1)], dtype=np.uint8)
    return colours[mask]


@pytest.mark.parametrize("name", [name for name, asked in BENCHMARKS.items() if asked.kind == "segmentation"])
def test_segmentation(name: str, tmp_path: Path) -> None:
    classes = class_list(name)
    masks = masks_of(len(classes), classes.background)
    root = layouts.write_classes(name, tmp_path, [painted(mask) for mask in masks], masks)
    words = {word: distinct_colour(i) for i, word in enumerate(classes.names)}

    perfect = findings(name, root, words, 2 * BLOCK)["segmentation"]
    assert perfect.first["model"] == dict.fromkeys(perfect.first["model"], 1.0)
    assert {perfect.tables["hierarchy"]["model"][name] for name in ("precision", "recall", "F", "information")} == {1}
    absent = classes.names[-1]
    assert np.isnan(perfect.per_class[absent]["iou"])
    assert perfect.per_class[absent]["count"] == 0

    # A model that sees one class in every colour is the commonest class, if that class is it.
    pixels = [perfect.per_class[word]["count"] for word in classes.names]
    commonest = int(np.argmax(pixels))
    constant = findings(name, root, {classes.names[commonest]: distinct_colour(0)}, 2 * BLOCK)["segmentation"]
    present = sum(count > 0 for count in pixels)
    assert constant.first["model"]["mIoU"] == pytest.approx(max(pixels) / sum(pixels) / present)
    assert constant.first["model"] == constant.first["commonest class"]

    one, other = [i for i in range(len(classes)) if i != classes.background][:2]
    swapped = words | {classes.names[one]: distinct_colour(other), classes.names[other]: distinct_colour(one)}
    confused = findings(name, root, swapped, 2 * BLOCK)["segmentation"]
    wrong = [(truth, named) for truth, named, _ in confused.confusion if truth != named]
    assert wrong == [(one, other), (other, one)]
    assert confused.first["model"]["mIoU"] == pytest.approx((present - 2) / present)


def test_imagenet(tmp_path: Path) -> None:
    classes = class_list("imagenet")
    assert classes.folders is not None
    shown = (0, 1, 500, 999)
    files = {f"{classes.folders[i]}/{i}.JPEG": layouts.picture(BLOCK, BLOCK, distinct_colour(i)) for i in shown}
    root = layouts.imagenet(tmp_path, files)
    words = {classes.names[i]: distinct_colour(i) for i in shown}
    found = findings("imagenet", root, words, BLOCK)["classification"]
    assert found.first["model"] == {"top-1": 1.0, "top-5": 1.0}
    assert found.confusion == [[i, i, 1] for i in shown]
    assert found.first["commonest class"] == {"top-1": 0.25}
    swapped = words | {classes.names[0]: distinct_colour(1), classes.names[1]: distinct_colour(0)}
    confused = findings("imagenet", root, swapped, BLOCK)["classification"]
    assert confused.confusion == [[0, 1, 1], [1, 0, 1], [500, 500, 1], [999, 999, 1]]


def test_imagenet_v2_folders_are_numbers_and_not_texts(tmp_path: Path) -> None:
    classes = class_list("imagenet")
    files = {f"{i}/{i}.jpeg": layouts.picture(BLOCK, BLOCK, distinct_colour(i)) for i in (2, 10, 100)}
    root = layouts.imagenet_v2(tmp_path, files)
    words = {classes.names[i]: distinct_colour(i) for i in (2, 10, 100)}
    found = findings("imagenet-v2", root, words, BLOCK)["classification"]
    assert found.confusion == [[2, 2, 1], [10, 10, 1], [100, 100, 1]]


def test_waterbirds(tmp_path: Path) -> None:
    land, water = distinct_colour(0), distinct_colour(1)
    rows = [
        (f"{y}{place}.jpg", layouts.picture(BLOCK, BLOCK, (land, water)[y]), y, 2, place)
        for y in (0, 1)
        for place in (0, 1)
    ]
    root = layouts.waterbirds(tmp_path, rows)
    found = findings("waterbirds", root, {"landbird": land, "waterbird": water}, BLOCK)["groups"].first
    for answer in ("pooled", "patches"):
        assert found[answer]["worst"] == 1
        assert (found[answer]["gap landbird"], found[answer]["gap waterbird"]) == (0, 0)
    constant = findings("waterbirds", root, {"landbird": land, "waterbird": land}, BLOCK)["groups"].first["patches"]
    assert (constant["own background"], constant["worst"]) == (0.5, 0)
