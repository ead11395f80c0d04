"""Named regions: numbers worked out by hand, and COCO instances as they lie on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clippy.config import ConfigError
from clippy.vocabulary import ClassList, class_list
from pipelines.evaluation.benchmarks import open_parts
from pipelines.evaluation.dataset import Example, Region
from pipelines.evaluation.protocol import PROTOCOLS, choose_protocol
from pipelines.evaluation.questions.regions import Regions
from pipelines.storage import locate
from tests.pipelines.evaluation import layouts
from tests.pipelines.evaluation.colour_model import distinct_colour
from tests.pipelines.evaluation.test_open_vocabulary import drawing, findings, rows
from tests.pipelines.evaluation.test_predictors import BLOCK
from tests.pipelines.evaluation.test_predictors import findings as benchmark_findings
from tests.pipelines.evaluation.test_questions import GREEN, RED, painted

CLASSES = ClassList("pets", "a test", ("dog", "cat"), ("thing",) * 2)
SHOWN = (0, 1, 22, 23)
"""Classes of COCO whose names are no part of others' (a carrot is no car)."""
COLUMNS = painted([[RED, RED, RED, GREEN]] * 4)


def region(label: int, box: tuple[float, float, float, float], left: int, right: int) -> Region:
    """A box, and a mask of some columns."""
    mask = np.zeros((4, 4), dtype=np.bool_)
    mask[:, left:right] = True
    return Region(label, box, mask)


def test_regions_by_hand() -> None:
    regions = (
        region(0, (0, 0, 2, 4), 0, 2),
        region(1, (2.5, 0, 4, 4), 3, 4),  # half a column of dog and one of cat
        region(1, (1, 0, 4, 4), 3, 4),  # two columns of dog and one of cat, of which the mask has the cat alone
    )
    found = findings(Regions(CLASSES, ("{}",)), [Example("a", COLUMNS, regions=regions), Example("none", COLUMNS)])
    by_boxes = {"top-1": 2 / 3, "top-5": 1, "mean class top-1": 0.75, "top-1 small": 2 / 3}
    assert found.first["model on boxes"] == pytest.approx(by_boxes)
    assert found.first["model on masks"] == dict.fromkeys(by_boxes, 1)
    assert found.first["whole picture"]["top-1"] == pytest.approx(1 / 3)  # three columns of four are dog
    assert found.first["commonest class"] == pytest.approx(by_boxes | {"mean class top-1": 0.5})
    assert found.first["chance"] == {"top-1": 0.5, "top-5": 1, "mean class top-1": 0.5}
    assert found.per_class == {"dog": {"accuracy": 1, "count": 1}, "cat": {"accuracy": 0.5, "count": 2}}
    assert found.confusion == [[0, 0, 1], [1, 0, 1], [1, 1, 1]]


def test_a_drawing_says_how_many_were_named_right() -> None:
    regions = (region(0, (0, 0, 2, 4), 0, 2), region(1, (1, 0, 4, 4), 3, 4))
    shown, caption = drawing(Regions(CLASSES, ("{}",)), Example("a", COLUMNS, regions=regions))
    assert caption == "a: 1 of 2 boxes named right"
    row = np.asarray(shown)[8 + 22 + 128].astype(int)
    said, truth = ([row[tile * 264 + 8 + 64 * column + 32] for column in range(4)] for tile in (1, 2))
    # The palette's red is the dog, its green the cat; what no region has keeps its colour, the model's red.
    assert [colour[0] > colour[1] for colour in said] == [True, True, True, True]
    assert [colour[0] > colour[1] for colour in truth] == [True, True, True, False]


def test_sizes_are_cocos_and_those_of_masks() -> None:
    pixels = np.full((200, 200, 3), RED, dtype=np.uint8)

    def of_area(area: int) -> Region:
        mask = np.zeros(200 * 200, dtype=np.bool_)
        mask[:area] = True
        return Region(0, (0, 0, 200, 200), mask.reshape(200, 200))

    areas = (1, 32**2, 32**2 + 1, 96**2, 96**2 + 1)
    (row,) = rows(Regions(CLASSES, ("{}",)), [Example("a", pixels, regions=tuple(map(of_area, areas)))])
    assert [size for _, size, _ in row["regions"]] == ["small", "small", "medium", "medium", "large"]


@pytest.mark.parametrize("pooling", ["mean", "max", "align"])
def test_regions_without_masks_or_pixels(pooling: str) -> None:
    boxes = (Region(0, (0, 0, 2, 4)), Region(1, (3, 1, 4, 2)))
    question = Regions(CLASSES, ("{}",), pooling)  # type: ignore[arg-type]
    (row,) = rows(question, [Example("a", COLUMNS, regions=boxes)])
    assert [answers["model on boxes"][0] for _, _, answers in row["regions"]] == [0, 1]
    assert all("model on masks" not in answers for _, _, answers in row["regions"])
    # A mask so thin that no pixel is in it is named by its box.
    thin = Example("b", COLUMNS, regions=(Region(1, (3.2, 1.2, 3.4, 1.4), np.zeros((4, 4), dtype=np.bool_)),))
    (row,) = rows(question, [thin])
    assert row["regions"][0][2]["model on masks"][0] == 1


def coco(root: Path) -> tuple[Path, list[str]]:
    """Two pictures on disk, each with two objects side by side, of which the first in turn is a crowd beside them."""
    classes = class_list("coco-instances")
    assert classes.ids is not None
    pictures = {}
    for start in SHOWN[::2]:
        pixels = np.concatenate([layouts.picture(BLOCK, BLOCK, distinct_colour(start + k)) for k in (0, 1)], axis=1)
        objects = [
            {
                "category_id": classes.ids[start + k],
                "bbox": [k * BLOCK, 0, BLOCK, BLOCK],
                "segmentation": [[x * BLOCK if i % 2 == 0 else x for i, x in enumerate(corners)]],
                "iscrowd": 0,
            }
            for k, corners in enumerate([(0, 0, 1, 0, 1, BLOCK, 0, BLOCK), (1, 0, 2, 0, 2, BLOCK, 1, BLOCK)])
        ]
        crowd = {"size": [BLOCK, 2 * BLOCK], "counts": [0, 2 * BLOCK * BLOCK]}
        crowds = [{**objects[0], "category_id": classes.ids[9], "segmentation": crowd, "iscrowd": 1}]
        pictures[f"{start:012}"] = (pixels, [*crowds, *objects])
    return layouts.coco_instances(root, pictures), list(classes.names)


def test_coco_instances(tmp_path: Path) -> None:
    root, names = coco(tmp_path)
    words = {names[i]: distinct_colour(i) for i in SHOWN}
    perfect = benchmark_findings("coco-instances", root, words, BLOCK)["regions"]
    for answer in ("model on boxes", "model on masks"):
        assert perfect.first[answer] == dict.fromkeys(perfect.first[answer], 1)
    assert perfect.first["chance"]["top-1"] == 1 / 80
    assert perfect.first["commonest class"]["top-1"] == 0.25
    assert perfect.confusion == [[i, i, 1] for i in SHOWN]
    swapped = words | {names[0]: distinct_colour(1), names[1]: distinct_colour(0)}
    confused = benchmark_findings("coco-instances", root, swapped, BLOCK)["regions"]
    assert confused.confusion == [[0, 1, 1], [1, 0, 1], [22, 22, 1], [23, 23, 1]]
    assert confused.first["model on boxes"]["top-1"] == 0.5
    # Of two objects the whole picture can name one at most.
    assert perfect.first["whole picture"]["top-1"] <= 0.5


@pytest.mark.parametrize(
    ("field", "sentence"),
    [
        ("held_out=[dog]", "held_out: coco-instances names neither whole pictures nor pixels"),
        ("back_off=[0.1]", "back_off: coco-instances has no classes with hypernyms to answer with"),
    ],
)
def test_what_regions_do_not_answer_is_refused(tmp_path: Path, field: str, sentence: str) -> None:
    protocol = choose_protocol(None, "coco-instances", overrides=[field])
    with pytest.raises(ConfigError, match=sentence):
        open_parts("coco-instances", locate(str(coco(tmp_path)[0])), protocol)


def test_votes_are_no_probabilities(tmp_path: Path) -> None:
    masks = [np.zeros((BLOCK, BLOCK), dtype=np.int64)]
    root = locate(str(layouts.write_classes("voc", tmp_path, [layouts.picture(BLOCK, BLOCK)], masks)))
    smoothed, thresholded = (choose_protocol(name, "voc", method="maskclip-smoothed") for name in (None, "tcl"))
    told = "key_smoothing: its votes are no probabilities, which {} needs on voc; leave one out"
    for protocol, field in (
        (smoothed.model_copy(update={"refine": True}), "refine"),
        (thresholded, "background=threshold"),
    ):
        with pytest.raises(ConfigError, match=told.format(field)):
            open_parts("voc", root, protocol)
    assert open_parts("voc", root, smoothed)
    assert open_parts("voc20", root, thresholded)  # has no background to find


def test_questions_that_the_protocol_asks_for(tmp_path: Path) -> None:
    masks = [np.zeros((BLOCK, BLOCK), dtype=np.int64)]
    root = locate(str(layouts.write_classes("voc", tmp_path, [layouts.picture(BLOCK, BLOCK)], masks)))

    def tables(**fields: object) -> list[str]:
        protocol = PROTOCOLS["paper"].model_copy(update=fields)
        return [question.table for question in open_parts("voc", root, protocol)[0].questions]

    assert tables() == ["segmentation", "grouping"]
    asked = tables(held_out=("dog",), cluster_pictures=1)
    assert asked == ["segmentation", "open set of pixels", "clusters", "grouping"]
