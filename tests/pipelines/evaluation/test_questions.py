"""Numbers of each question, worked out by hand on pictures whose colours say what they are."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from clippy.vocabulary import ClassList, class_list
from pipelines.columns import DataError
from pipelines.evaluation.dataset import VOID, Example
from pipelines.evaluation.protocol import PROTOCOLS, Protocol
from pipelines.evaluation.question import Findings, Part, Question
from pipelines.evaluation.questions.classification import Classification
from pipelines.evaluation.questions.grouping import Grouping
from pipelines.evaluation.questions.groups import Groups
from pipelines.evaluation.questions.segmentation import Segmentation
from pipelines.evaluation.units import Measurer, Task, Unit
from tests.pipelines.evaluation.colour_model import ColourModelSource

RED, GREEN, BLUE, GREY = (250, 0, 0), (0, 250, 0), (0, 0, 250), (128, 128, 128)
COLOURS = {"dog": RED, "cat": GREEN, "grass": BLUE, "wall": GREY}
CLASSES = ClassList("pets", "a test", ("background", "dog", "cat"), ("background", "thing", "thing"), 0, ("grass",))
SIDE = 4


@dataclass(frozen=True)
class Pictures:
    """A dataset held in memory."""

    examples: tuple[Example, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.examples)

    def read(self, index: int) -> Example:
        return self.examples[index]


def painted(rows: list[list[tuple[int, int, int]]]) -> np.ndarray:
    return np.array(rows, dtype=np.uint8)


def findings(question: Question, examples: list[Example], protocol: Protocol | None = None, batch: int = 2) -> Findings:
    """The question put to the model that knows colours, summed up over all pictures."""
    protocol = protocol or PROTOCOLS["paper"]
    part = Part("test", Pictures(tuple(examples)), (question,))
    task: Any = Task(ColourModelSource(tuple(COLOURS.items()), SIDE), protocol, (part,), batch)  # type: ignore[arg-type]
    rows = Measurer(task).measure(Unit(0, 0, len(examples)))
    return question.sum_up(row[question.table] for row in rows)


def pet(mask: list[list[int]], colours: list[tuple[int, int, int]], key: str = "a") -> Example:
    """A picture each of whose rows has one colour."""
    pixels = painted([[colour] * SIDE for colour in colours])
    return Example(key, pixels, mask=np.array(mask, dtype=np.int32))


def test_segmentation_by_hand() -> None:
    # Rows: dog named dog; dog named cat; void named cat; background, which the word "grass" wins.
    example = pet([[1] * 4, [1] * 4, [VOID] * 4, [0] * 4], [RED, GREEN, GREEN, BLUE])
    found = findings(Segmentation(CLASSES, ("{}",)), [example])
    # dog: 4 of 8 pixels, none too many; background: all; cat has no ground truth and is not counted.
    assert found.first["model"]["mIoU"] == pytest.approx((1.0 + 0.5) / 2)
    assert found.first["model"]["pixel accuracy"] == pytest.approx(8 / 12)
    assert found.per_class["dog"] == {"iou": 0.5, "count": 8}
    assert np.isnan(found.per_class["cat"]["iou"])
    assert found.confusion == [[0, 0, 4], [1, 1, 4], [1, 2, 4]]
    # All dog: 8 of 12 pixels; dog 8 / 12, background 0.
    assert found.first["commonest class"]["mIoU"] == pytest.approx((8 / 12) / 2)
    # A class drawn for each pixel: dog hits 8/3 of 8 + 4 - 8/3; background 4/3 of 4 + 4 - 4/3.
    expected = ((8 / 3) / (8 + 4 - 8 / 3) + (4 / 3) / (4 + 4 - 4 / 3)) / 2
    assert found.first["random class"]["mIoU"] == pytest.approx(expected)
    assert found.first["patch-majority oracle"]["mIoU"] == 1


def test_counts_of_all_pictures_are_added_before_dividing() -> None:
    right = pet([[1] * 4] * 4, [RED] * 4)
    wrong = pet([[1] * 4] + [[2] * 4] * 3, [GREEN] * 4, "b")
    found = findings(Segmentation(CLASSES, ("{}",)), [right, wrong])
    # dog 16 of 20; cat 12 of 12 + 4.
    assert found.first["model"]["mIoU"] == pytest.approx((16 / 20 + 12 / 16) / 2)


def test_two_classes_swapped_show_in_the_confusion() -> None:
    swapped = pet([[2] * 4, [2] * 4, [1] * 4, [1] * 4], [RED, RED, GREEN, GREEN])
    found = findings(Segmentation(CLASSES, ("{}",)), [swapped])
    assert found.confusion == [[1, 2, 8], [2, 1, 8]]
    assert found.first["model"]["mIoU"] == 0


def test_background_by_threshold_has_no_word() -> None:
    protocol = PROTOCOLS["paper"].model_copy(update={"background": "threshold", "background_threshold": 0.9})
    # Grey is no class: both are equally improbable there, so it is background; "grass" is no word in this protocol.
    example = pet([[1] * 4, [0] * 4, [0] * 4, [2] * 4], [RED, GREY, BLUE, GREEN])
    found = findings(Segmentation(CLASSES, ("{}",)), [example], protocol)
    assert found.first["model"]["mIoU"] == 1
    # Lowered to the picture's highest probability, something is found even where all are improbable.
    improbable = pet([[0] * 4] * 4, [GREY] * 4)
    assert findings(Segmentation(CLASSES, ("{}",)), [improbable], protocol).confusion == [[0, 0, 16]]
    lowered = protocol.model_copy(update={"relative_threshold": True})
    assert findings(Segmentation(CLASSES, ("{}",)), [improbable], lowered).confusion == [[0, 1, 16]]


def test_only_the_classes_nearest_to_the_whole_picture_can_be_found() -> None:
    protocol = PROTOCOLS["paper"].model_copy(update={"top_classes": 1})
    mostly_dog = pet([[1] * 4, [1] * 4, [1] * 4, [2] * 4], [RED, RED, RED, GREEN])
    found = findings(Segmentation(CLASSES, ("{}",)), [mostly_dog], protocol)
    assert found.confusion == [[1, 1, 12], [2, 1, 4]]
    # Where another class is more probable, what is found is not probable among all, as in GroupViT's own code.
    threshold = protocol.model_copy(update={"background": "threshold", "background_threshold": 0.9})
    found = findings(Segmentation(CLASSES, ("{}",)), [mostly_dog], threshold)
    assert found.confusion == [[1, 1, 12], [2, 0, 4]]


def test_things_and_stuff_apart() -> None:
    classes = ClassList("scene", "a test", ("dog", "grass"), ("thing", "stuff"))
    example = pet([[0] * 4, [0] * 4, [1] * 4, [1] * 4], [RED, BLUE, BLUE, BLUE])
    numbers = findings(Segmentation(classes, ("{}",)), [example]).first["model"]
    assert (numbers["mIoU things"], numbers["mIoU stuff"]) == (0.5, pytest.approx(8 / 12))


def test_a_picture_that_is_all_void_counts_nowhere() -> None:
    void = pet([[VOID] * 4] * 4, [RED] * 4)
    right = pet([[1] * 4] * 4, [RED] * 4, "b")
    assert findings(Segmentation(CLASSES, ("{}",)), [void, right]).first["model"]["mIoU"] == 1


def test_a_picture_that_alone_lacks_what_is_asked_about_is_named() -> None:
    whole = pet([[1] * 4] * 4, [RED] * 4)
    with pytest.raises(DataError, match=r"^b: has no mask, and other pictures have"):
        findings(Segmentation(CLASSES, ("{}",)), [whole, replace(whole, key="b", mask=None)])
    with pytest.raises(DataError, match=r"^c: has no label, and other pictures have"):
        findings(Classification(CLASSES, ("{}",)), [replace(whole, label=1), replace(whole, key="c")])


def test_a_picture_smaller_than_its_grid_of_patches_is_measured() -> None:
    tiny = Example("tiny", painted([[RED, GREEN, GREEN]]), mask=np.array([[1, 2, 2]], dtype=np.int32))
    found = findings(Segmentation(CLASSES, ("{}",)), [tiny])  # seen as 4 x 12 patches
    assert found.first["model"]["mIoU"] == found.first["patch-majority oracle"]["mIoU"] == 1
    assert findings(Grouping(GROUPING), [tiny], GROUPING).first["model"]["Jaccard"] == 1


GROUPING = Protocol(name="test", groups=2, grouping="k-means")


def test_grouping_by_hand() -> None:
    # Groups are the two colours. Segment 1 is the red rows; segment 2 is half of the green ones, the rest is ground.
    segments = np.array([[1] * 4, [1] * 4, [2] * 4, [0] * 4], dtype=np.int32)
    example = Example("a", painted([[c] * 4 for c in (RED, RED, GREEN, GREEN)]), segments=segments)
    found = findings(Grouping(GROUPING), [example], GROUPING)
    assert found.first["model"]["Jaccard"] == pytest.approx((1 + 0.5) / 2)
    assert found.first["whole image"]["Jaccard"] == pytest.approx((8 / 16 + 4 / 16) / 2)
    # With the ground a segment too, its half of the green group counts as well.
    ground = GROUPING.model_copy(update={"count_ground": True})
    assert findings(Grouping(ground), [example], ground).first["model"]["Jaccard"] == pytest.approx((1 + 0.5 + 0.5) / 3)


def test_grouping_averages_over_segments_or_pictures() -> None:
    one = Example("a", painted([[RED] * 4] * 2 + [[GREEN] * 4] * 2), segments=np.array([[1] * 4] * 2 + [[0] * 4] * 2))
    halves = np.array([[1] * 4, [2] * 4, [0] * 4, [0] * 4], dtype=np.int32)
    two = Example("b", painted([[RED] * 4] * 2 + [[GREEN] * 4] * 2), segments=halves)
    by_segment = findings(Grouping(GROUPING), [one, two], GROUPING).first["model"]["Jaccard"]
    pictures = GROUPING.model_copy(update={"average": "pictures"})
    by_picture = findings(Grouping(pictures), [one, two], pictures).first["model"]["Jaccard"]
    assert by_segment == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert by_picture == pytest.approx((1 + 0.5) / 2)


def test_classes_of_the_mask_are_segments_where_there_are_no_others() -> None:
    example = pet([[1] * 4, [1] * 4, [0] * 4, [VOID] * 4], [RED, RED, GREEN, GREEN])
    found = findings(Grouping(GROUPING, ground=0), [example], GROUPING)
    assert found.first["model"]["Jaccard"] == 1  # dog alone: the ground is no segment


def test_classification_by_hand() -> None:
    classes = ClassList("pets", "a test", ("dog", "cat", "wall"), ("thing",) * 3)

    def picture(key: str, colour: tuple[int, int, int], label: int) -> Example:
        return Example(key, painted([[colour] * 4] * 4), label=label)

    examples = [picture("a", RED, 0), picture("b", GREEN, 0), picture("c", GREEN, 1), picture("d", GREY, 0)]
    found = findings(Classification(classes, ("{}",)), examples)
    assert found.first["model"] == {"top-1": 0.5}
    assert found.first["commonest class"] == {"top-1": 0.75}
    assert found.first["chance"]["top-1"] == pytest.approx(1 / 3)
    assert found.per_class["dog"] == {"accuracy": pytest.approx(1 / 3), "count": 3}
    assert found.confusion == [[0, 0, 1], [0, 1, 1], [0, 2, 1], [1, 1, 1]]


def test_classes_of_one_name_are_told_apart() -> None:
    imagenet = class_list("imagenet")
    question = Classification(replace(imagenet, hypernyms=()), ("{}",))
    found = question.sum_up([{"truth": 999, "nearest": [0]}, {"truth": 836, "nearest": [836]}])
    names = list(found.per_class)
    assert len(names) == 1000
    assert (names[0], names[999]) == ("tench", "toilet paper")  # numbers of the confusion follow this order
    assert found.per_class["sunglasses (n04355933)"] == {"accuracy": 1, "count": 1}
    assert found.per_class["sunglasses (n04356056)"]["count"] == 0


def test_groups_by_hand() -> None:
    birds = ClassList("birds", "a test", ("dog", "cat"), ("thing",) * 2, extra_words=("grass",))

    def bird(key: str, rows: list[tuple[int, int, int]], label: int, place: int) -> Example:
        return Example(key, painted([[row] * 4 for row in rows]), label=label, attributes={"group": 2 * label + place})

    examples = [
        # A dog on grass: patches see one row of dog and three of grass; pooled likewise knows only dog and cat.
        bird("a", [RED, BLUE, BLUE, BLUE], 0, 0),
        bird("b", [RED, GREEN, GREEN, BLUE], 0, 1),  # more cat than dog: wrong both ways
        bird("c", [GREEN, BLUE, BLUE, BLUE], 1, 1),
        bird("d", [GREEN, GREEN, BLUE, BLUE], 1, 0),
    ]
    table = findings(Groups(birds, ("{}",)), examples).first
    for answer in ("pooled", "patches"):
        assert table[answer]["dog on land"] == 1
        assert table[answer]["dog on water"] == 0
        assert table[answer]["worst"] == 0
        assert table[answer]["gap dog"] == 1
        assert table[answer]["gap cat"] == 0
        assert (table[answer]["own background"], table[answer]["other background"]) == (1, 0.5)


@pytest.mark.parametrize("batch", [1, 3])
def test_batches_change_nothing(batch: int) -> None:
    examples = [pet([[1] * 4, [2] * 4, [0] * 4, [1] * 4], [RED, GREEN, BLUE, RED], str(i)) for i in range(4)]
    wide = Example("wide", painted([[RED] * 6] * 4), mask=np.full((4, 6), 1, dtype=np.int32))
    found = findings(Segmentation(CLASSES, ("{}",)), [examples[0], wide, *examples[1:]], batch=batch)
    assert found.first["model"]["mIoU"] == 1
