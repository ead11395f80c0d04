"""Answers that are right in part, classes without words, and clusters without any: numbers worked out by hand."""

from __future__ import annotations

import io
import json
import math
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clippy.config import ConfigError
from clippy.vocabulary import ClassList
from pipelines.evaluation.dataset import VOID, Example
from pipelines.evaluation.protocol import PROTOCOLS, Protocol, choose_protocol
from pipelines.evaluation.question import Findings, Part, Question
from pipelines.evaluation.questions.classification import Classification
from pipelines.evaluation.questions.clusters import Clusters
from pipelines.evaluation.questions.open_set import KnownWords, OpenSetPictures, OpenSetPixels
from pipelines.evaluation.questions.segmentation import Segmentation
from pipelines.evaluation.units import Measurer, Task, Unit
from tests.pipelines.evaluation.colour_model import ColourModelSource
from tests.pipelines.evaluation.test_questions import BLUE, COLOURS, GREEN, GREY, RED, SIDE, Pictures, painted

DOG, CAT, CARNIVORE, DEPTH = "dog.n.01", "cat.n.01", 11, 13
"""Both classes are 13 steps from WordNet's root, and what they share is a carnivore, 11 steps from it."""
PETS = ClassList("pets", "a test", ("dog", "cat"), ("thing",) * 2, hypernyms=(DOG, CAT))
WALLS = ClassList("walls", "a test", ("dog", "cat", "wall"), ("thing", "thing", "stuff"))


def rows(question: Question, examples: list[Example], protocol: Protocol | None = None) -> list[dict[str, Any]]:
    """What the model that knows colours is measured to answer, as it comes back from a file."""
    part = Part("test", Pictures(tuple(examples)), (question,))
    source: Any = ColourModelSource(tuple(COLOURS.items()), SIDE)
    measurer = Measurer(Task(source, protocol or PROTOCOLS["paper"], (part,), 2))
    measurer.learn_all()
    measured = measurer.measure(Unit(0, 0, len(examples)))
    return [row[question.table] for row in json.loads(json.dumps(measured))]


def findings(question: Question, examples: list[Example], protocol: Protocol | None = None) -> Findings:
    return question.sum_up(rows(question, examples, protocol))


def drawing(question: Question, example: Example) -> tuple[Image.Image, str]:
    """What is drawn for a picture."""
    part = Part("test", Pictures((example,)), (question,))
    source: Any = ColourModelSource(tuple(COLOURS.items()), SIDE)
    measurer = Measurer(Task(source, PROTOCOLS["paper"], (part,), 2))
    measurer.learn_all()
    png, caption = measurer.draw(0, question.table, [0])[0]
    return Image.open(io.BytesIO(png)), caption


def picture(key: str, colours: list[tuple[int, int, int]], label: int | None = None, **known: Any) -> Example:
    """A picture of 4 x 4 pixels, each of whose rows has one colour."""
    return Example(key, painted([[colour] * SIDE for colour in colours]), label, **known)


def test_pictures_back_off_to_what_two_classes_are() -> None:
    # A dog for sure; a dog with a cat, 3 to 1; and a dog that is taken for a cat, 3 to 1.
    examples = [
        picture("a", [RED] * 4, 0),
        picture("b", [RED, RED, RED, GREEN], 0),
        picture("c", [GREEN, GREEN, GREEN, RED], 0),
    ]
    lead = 2 / math.sqrt(10)  # cosines are 3 and 1 by the root of 10
    question = Classification(PETS, ("{}",), back_off=(lead - 0.01, lead + 0.01))
    assert [row["backed_off"] for row in rows(question, examples)] == [[0, 0], [0, 2], [1, 2]]
    table = findings(question, examples).tables["hierarchy"]
    wrong = CARNIVORE / DEPTH  # of a cat that should be a dog, and the other way round
    assert table["model"]["precision"] == table["model"]["recall"] == pytest.approx((1 + 1 + wrong) / 3)
    assert table["model"]["above classes"] == 0
    less, more = (table[f"model backed off by {value:g}"] for value in question.back_off)
    assert less == table["model"]
    assert more["precision"] == 1
    assert more["recall"] == pytest.approx((1 + 2 * wrong) / 3)
    assert more["F"] == pytest.approx(2 * more["recall"] / (1 + more["recall"]))
    assert more["above classes"] == pytest.approx(2 / 3)
    assert table["commonest class"]["precision"] == 1
    assert table["random class"]["precision"] == pytest.approx((1 + wrong) / 2)


def test_pixels_back_off_where_two_classes_meet() -> None:
    # Shown to the model at half its size: up-sampled, the two rows at the edge are 3/4 one class and 1/4 the other.
    pixels = painted([[RED] * 8] * 4 + [[GREEN] * 8] * 4)
    example = Example("a", pixels, mask=np.repeat([0, 1], 32).reshape(8, 8).astype(np.int32))
    question = Segmentation(PETS, ("{}",), back_off=(0.4, 0.6))
    found = findings(question, [example, example])
    table = found.tables["hierarchy"]
    assert found.first["model"]["mIoU"] == 1
    assert table["model"]["F"] == table["model"]["information"] == 1
    assert table["model backed off by 0.4"] == table["model"]
    more = table["model backed off by 0.6"]
    assert (more["precision"], more["above classes"]) == (1, 0.25)
    assert more["recall"] == pytest.approx((6 + 2 * CARNIVORE / DEPTH) / 8)
    assert more["information"] == pytest.approx(6 / 8)  # half of all is a dog, half a cat: that it is one says nothing


def test_background_stays_background_and_its_words_are_its_own() -> None:
    classes = ClassList(
        "pets",
        "a test",
        ("background", "dog", "cat"),
        ("background", "thing", "thing"),
        0,
        ("grass", "wall"),
        hypernyms=("entity.n.01", DOG, CAT),
    )
    mask = np.array([[1] * 4, [0] * 4, [0] * 4, [VOID] * 4], dtype=np.int32)
    example = picture("a", [RED, BLUE, GREY, RED], mask=mask)
    # Other words tie for the second place of each pixel, so all but the surest answers say no more than "entity".
    table = findings(Segmentation(classes, ("{}",), back_off=(2.0,)), [example]).tables["hierarchy"]
    assert table["model"]["recall"] == 1
    assert table["model backed off by 2"]["above classes"] <= 1 / 3
    threshold = PROTOCOLS["paper"].model_copy(update={"background": "threshold", "background_threshold": 0.9})
    (row,) = rows(Segmentation(classes, ("{}",), back_off=(2.0,)), [example], threshold)
    # Grass and wall are no words here, so dog and cat are equally improbable there; a sure dog may be a carnivore.
    assert row["pairs"]["model"] == [[0, 0, 8], [1, 1, 4]]
    assert row["backed_off"] == [[[0, 0, 8], [1, 3, 4]]]


def test_open_set_of_pictures_by_hand() -> None:
    words = KnownWords(WALLS, ("{}",), ("wall",))
    examples = [
        picture("a", [RED] * 4, 0),  # cosine 1, right
        picture("b", [GREEN] * 4, 0),  # cosine 1, wrong
        picture("c", [RED, GREY, GREY, GREY], 0),  # cosine 1 / sqrt(10), right
        picture("d", [GREY] * 4, 2),  # no word fits: cosine 0
        picture("e", [GREEN, GREEN, GREY, GREY], 2),  # cosine 1 / sqrt(2)
    ]
    found = findings(OpenSetPictures(words), examples).first
    # Of six pairs all but (c, e) are in order; keeping c takes e; the curve is 1/3 up to e and 2/3 from there.
    wanted = {"AUROC": 5 / 6, "FPR95": 0.5, "OSCR": 0.5, "accuracy of known": 2 / 3}
    assert found["model by maximum logit"] == pytest.approx(wanted)
    assert found["model by energy"] == pytest.approx(wanted)
    assert found["random score"] == pytest.approx(
        {"AUROC": 0.5, "FPR95": 0.95, "OSCR": 1 / 3, "accuracy of known": 0.5}
    )
    # By probability at an inverse temperature of 100, a, b, c and e are all certain to the last bit, and d is a coin.
    assert found["model by maximum probability"]["AUROC"] == pytest.approx((3 + 3 / 2) / 6)


def test_a_class_that_is_held_out_is_never_named() -> None:
    (row,) = rows(OpenSetPictures(KnownWords(WALLS, ("{}",), ("wall",))), [picture("a", [GREY] * 4, 2)])
    assert (row["known"], row["right"]) == (False, False)
    assert row["named"] in (0, 1)
    among = OpenSetPictures(KnownWords(WALLS, ("{}",), ("wall",)), among=(1, 2))
    assert among.candidates == (1,)


def test_open_set_of_pixels_by_hand() -> None:
    question = OpenSetPixels(KnownWords(WALLS, ("{}",), ("wall",)))
    mask = np.array([[0] * 4, [0] * 4, [2] * 4, [2] * 4], dtype=np.int32)
    # A dog named so, a dog named cat, a wall that looks like nothing, and one that looks like a dog.
    example = picture("a", [RED, GREEN, GREY, RED], mask=mask)
    void = picture("b", [RED] * 4, mask=np.full((4, 4), VOID, dtype=np.int32))
    found = findings(question, [example, void, example]).first
    # 8 known pixels against 4 below them and 4 beside them; a straight line to (1/2, 1/2) and level from there.
    wanted = {"AUROC": 0.75, "FPR95": 0.5, "OSCR": 0.125 + 0.25, "accuracy of known": 0.5}
    for score in ("maximum logit", "maximum probability", "energy"):
        assert found[f"model by {score}"] == pytest.approx(wanted)
    first, second, _ = rows(question, [example, void, example])
    assert first["score"] == 0.75
    assert second == {"levels": [[], [], []], "score": None}
    # Only levels that occur are kept: known right, known wrong, unknown.
    assert [counts for _, *counts in first["levels"][0]] == [[0, 0, 4], [4, 4, 4]]


def test_background_is_known_by_its_words_or_not_counted() -> None:
    classes = ClassList("pets", "a test", ("background", "dog", "cat"), ("background",) + ("thing",) * 2, 0, ("grass",))
    example = picture(
        "a", [RED, GREEN, BLUE, BLUE], mask=np.array([[1] * 4, [2] * 4, [0] * 4, [0] * 4], dtype=np.int32)
    )

    def counted(held_out: tuple[str, ...], by_threshold: bool) -> list[list[int]]:
        (row,) = rows(OpenSetPixels(KnownWords(classes, ("{}",), held_out), by_threshold), [example])
        return np.array([counts for _, *counts in row["levels"][0]]).sum(axis=0).tolist()

    assert counted(("cat",), by_threshold=False) == [12, 0, 4]
    assert counted(("cat",), by_threshold=True) == [4, 0, 4]
    # Without the word for background there are none for grass either: it is what no word fits.
    assert counted(("background",), by_threshold=False) == counted(("background",), by_threshold=True) == [8, 0, 8]


def test_held_out_names_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"held_out: walls has no class 'wal'; did you mean 'wall'\?"):
        KnownWords(WALLS, (), ("wal",)).check()
    with pytest.raises(ConfigError, match="held_out: leaves 1 of 3 classes; keep two"):
        KnownWords(WALLS, (), ("wall", "dog")).check()
    for field, other in (("held_out=[dog]", "refine=true"), ("back_off=[0.1]", "refine=true")):
        with pytest.raises(ConfigError, match="needs the cosines of all words, which refine replaces"):
            choose_protocol(None, "voc", overrides=[field, other])
    with pytest.raises(ConfigError, match="back_off: leads must be above 0 and ascend"):
        choose_protocol(None, "voc", overrides=["back_off=[0.2, 0.1]"])


def test_clusters_by_hand() -> None:
    # Dogs are green and cats are red, for which clusters without names do not care; one row of wall looks like a cat.
    mask = np.array([[0] * 4, [1] * 4, [2] * 4, [2] * 4], dtype=np.int32)
    right = picture("a", [GREEN, RED, GREY, GREY], mask=mask)
    wrong = picture("b", [GREEN, RED, GREY, RED], mask=mask)
    question = Clusters(WALLS, pictures=2)
    found = findings(question, [right, wrong]).first
    # Pixels: dog 8, cat 8 and 4 too many, wall 12 of 16.
    assert found["model"] == pytest.approx({"mIoU": (1 + 8 / 12 + 12 / 16) / 3, "pixel accuracy": 28 / 32})
    assert found["whole image"] == pytest.approx({"mIoU": 0.5 / 3, "pixel accuracy": 0.5})
    # Three blocks, of which the first has dog and cat by halves, the others wall: a block is left without a class.
    assert found["position grid"]["pixel accuracy"] == pytest.approx((8 + 8) / 32)
    assert [row["score"] for row in rows(question, [right, wrong])] == [1, 0.75]


def test_drawings_say_what_was_found() -> None:
    words = KnownWords(WALLS, ("{}",), ("wall",))
    mask = np.array([[0] * 4, [1] * 4, [2] * 4, [2] * 4], dtype=np.int32)
    example = picture("a", [RED, GREEN, GREY, RED], 2, mask=mask)
    shown, caption = drawing(OpenSetPictures(words), example)
    assert (shown.size, caption) == ((4, 4), "wall (held out); nearest: dog, cosine 0.816, probability 1.00")
    shown, caption = drawing(OpenSetPixels(words), example)
    assert caption == "a: AUROC 0.75"
    said, truth = (np.asarray(shown)[y_of_tiles(), x] for x in (264 + 8 + 128, 2 * 264 + 8 + 128))
    # Half of the picture is held out: the grey row, and of those that are equally sure the first.
    assert [same_hue(row) for row in truth] == ["known", "known", "held out", "held out"]
    assert [same_hue(row) for row in said] == ["held out", "known", "held out", "known"]
    shown, caption = drawing(Clusters(WALLS, pictures=1), example)
    assert caption == "a: purity 0.75"
    assert shown.width == 3 * 264 + 8


def y_of_tiles() -> list[int]:
    """The middle of each row of a picture of four, in a drawing whose tiles are 256 pixels."""
    return [8 + 22 + 64 * row + 32 for row in range(4)]


def same_hue(colour: np.ndarray) -> str:
    """What the palette's first colour, red, and its second, green, stand for."""
    return "known" if colour[0] > colour[1] else "held out"


def test_clusters_are_learned_from_pictures_spread_over_all() -> None:
    assert Clusters(WALLS, pictures=4).sample(10) == [0, 2, 5, 7]
    assert Clusters(WALLS, pictures=40).sample(3) == [0, 1, 2]
    # The only picture that is looked at has no wall: there are two clusters, and no class is given twice.
    plain = picture("a", [GREEN, GREEN, RED, RED], mask=np.array([[0] * 4] * 2 + [[1] * 4] * 2, dtype=np.int32))
    wall = picture("b", [GREY] * 4, mask=np.full((4, 4), 2, dtype=np.int32))
    learned = rows(Clusters(WALLS, pictures=1), [plain, wall])
    assert {cluster for row in learned for _, cluster, _ in row["pairs"]["model"]} <= {0, 1}
