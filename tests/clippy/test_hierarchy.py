"""Hierarchical scores and back-off against values worked out by hand on a small map, and on WordNet."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clippy.hierarchy import (
    Hierarchy,
    back_off,
    hierarchical_scores,
    information,
    possible_answers,
    wordnet,
)
from clippy.metrics import confusion_matrix
from clippy.vocabulary import class_list

# thing > animal > pet > dog, cat; animal > wolf; thing > car; a dog is also a guard, straight below thing.
SMALL = Hierarchy(
    {
        "thing": [],
        "animal": ["thing"],
        "guard": ["thing"],
        "pet": ["animal"],
        "dog": ["guard", "pet"],
        "cat": ["pet"],
        "wolf": ["animal"],
        "car": ["thing"],
    },
    {"pet": "house pet"},
)
CLASSES = ["dog", "cat", "wolf", "car"]


def test_depth_is_the_longest_way_and_the_chain_takes_it() -> None:
    assert [SMALL.depth(node) for node in ("thing", "guard", "animal", "pet", "dog", "wolf")] == [0, 1, 1, 2, 3, 2]
    assert SMALL.chain("dog") == ("dog", "pet", "animal", "thing")
    assert SMALL.ancestors("dog") == {"dog", "pet", "animal", "guard", "thing"}
    assert SMALL.root == "thing"
    assert (SMALL.word("pet"), SMALL.word("dog")) == ("house pet", "dog")


@pytest.mark.parametrize(
    ("one", "other", "lowest"),
    [
        ("dog", "cat", "pet"),
        ("dog", "wolf", "animal"),
        ("dog", "car", "thing"),
        ("dog", "guard", "guard"),
        ("pet", "dog", "pet"),
        ("cat", "cat", "cat"),
    ],
)
def test_lowest_common_ancestor(one: str, other: str, lowest: str) -> None:
    assert SMALL.lowest_common_ancestor(one, other) == lowest
    assert SMALL.lowest_common_ancestor(other, one) == lowest


@st.composite
def hierarchies(draw: st.DrawFn) -> Hierarchy:
    """Up to ten nodes below a root, each below one or more of those before it."""
    count = draw(st.integers(1, 10))
    above = [draw(st.sets(st.integers(0, node - 1), min_size=1)) for node in range(1, count)]
    return Hierarchy({"n0": [], **{f"n{node}": [f"n{p}" for p in found] for node, found in enumerate(above, 1)}})


@given(hierarchies(), st.data())
@settings(max_examples=50, deadline=None)
def test_common_ancestors_of_all_pairs_are_those_of_each_and_deepest(hierarchy: Hierarchy, data: st.DataObject) -> None:
    nodes = data.draw(st.lists(st.sampled_from(sorted(hierarchy.parents)), min_size=1, max_size=6))
    names, lowest = hierarchy.lowest_common_ancestors(nodes)
    for row, one in enumerate(nodes):
        for column, other in enumerate(nodes):
            found = names[lowest[row, column]]
            assert found == hierarchy.lowest_common_ancestor(one, other)
            shared = hierarchy.ancestors(one) & hierarchy.ancestors(other)
            assert hierarchy.depth(found) == max(hierarchy.depth(node) for node in shared)
            assert hierarchy.depth(found) <= min(hierarchy.depth(one), hierarchy.depth(other))
            assert hierarchy.chain(one)[-1] == hierarchy.root


def test_scores_by_hand() -> None:
    # 2 dogs found, 1 dog called cat (pet: 2 of 3 both ways), 1 wolf called dog (animal: 1 of 3, 1 of 2), 1 car called
    # dog (nothing), 1 cat called pet (all of the claim, 2 of 3 of the truth).
    nodes = [*CLASSES, "pet"]
    truth, answers = np.array([0, 0, 0, 2, 3, 1]), np.array([0, 0, 1, 0, 0, 4])
    confusion = confusion_matrix(answers, truth, 4, num_answers=5)
    scores = hierarchical_scores(SMALL, nodes, confusion)
    precision, recall = (1 + 1 + 2 / 3 + 1 / 3 + 0 + 1) / 6, (1 + 1 + 2 / 3 + 1 / 2 + 0 + 2 / 3) / 6
    assert scores.precision == pytest.approx(precision)
    assert scores.recall == pytest.approx(recall)
    assert scores.f == pytest.approx(2 * precision * recall / (precision + recall))
    # Of six examples 3 are dogs, 4 pets, 5 animals.
    dog, cat, wolf, car, pet, animal = (-math.log(n / 6) for n in (3, 1, 1, 1, 4, 5))
    ratios = [1, 1, 2 * pet / (cat + dog), 2 * animal / (dog + wolf), 0, 2 * pet / (pet + cat)]
    assert scores.information == pytest.approx(sum(ratios) / 6)
    twice = hierarchical_scores(SMALL, nodes, confusion + confusion)
    assert twice == scores


def test_information_of_the_small_map() -> None:
    nats = information(SMALL, ["thing", "animal", "guard", "car"], CLASSES, np.array([2, 1, 1, 0]))
    np.testing.assert_allclose(nats, [0, 0, math.log(2), math.inf])
    assert not np.signbit(nats).any()


def test_information_with_counts_from_elsewhere() -> None:
    confusion = np.array([[0, 4], [0, 0]])
    # A cat that never occurs is infinitely surprising, so calling dogs cats says next to nothing of them.
    assert hierarchical_scores(SMALL, ["dog", "cat"], confusion).information == 0
    scores = hierarchical_scores(SMALL, ["dog", "cat"], confusion, counts=np.array([1, 1]))
    assert scores.information == 0  # all are pets, so that they share "pet" is no news
    with pytest.raises(ValueError, match="a class that occurs in the confusion has none"):
        hierarchical_scores(SMALL, ["dog", "cat"], confusion, counts=np.array([0, 1]))


def test_perfect_and_absent_answers() -> None:
    perfect = hierarchical_scores(SMALL, CLASSES, np.diag([3, 1, 4, 1]))
    assert (perfect.precision, perfect.recall, perfect.f, perfect.information) == (1, 1, 1, 1)
    nothing = hierarchical_scores(SMALL, CLASSES, np.zeros((4, 4), int))
    assert all(math.isnan(value) for value in (nothing.precision, nothing.recall, nothing.f, nothing.information))


def test_the_root_claims_nothing() -> None:
    # Background called dog lowers precision alone, a dog called background lowers recall alone.
    nodes = ["thing", "dog"]
    scores = hierarchical_scores(SMALL, nodes, np.array([[5, 1], [0, 3]]))
    assert (scores.precision, scores.recall) == (3 / 4, 1)
    scores = hierarchical_scores(SMALL, nodes, np.array([[5, 0], [1, 3]]))
    assert (scores.precision, scores.recall) == (1, 3 / 4)
    silent = hierarchical_scores(SMALL, nodes, np.array([[5, 0], [4, 0]]))
    assert math.isnan(silent.precision)
    assert silent.recall == 0


def test_possible_answers_are_classes_then_what_they_share() -> None:
    answers = possible_answers(SMALL, CLASSES)
    assert answers.nodes[:4] == tuple(CLASSES)
    assert set(answers.nodes[4:]) == {"pet", "animal", "thing"}
    named = [[answers.nodes[number] for number in row] for row in answers.common_CC]
    assert named == [[SMALL.lowest_common_ancestor(one, other) for other in CLASSES] for one in CLASSES]
    assert np.array_equal(np.diagonal(answers.common_CC), np.arange(4))


def test_possible_answers_prefer_a_class_that_is_above_the_other() -> None:
    answers = possible_answers(SMALL, ["cat", "pet", "pet", "animal"])
    assert answers.nodes == ("cat", "pet", "pet", "animal")
    assert answers.common_CC.tolist() == [[0, 1, 2, 3], [1, 1, 1, 3], [2, 2, 2, 3], [3, 3, 3, 3]]


def test_back_off_where_the_margin_is_small() -> None:
    answers = possible_answers(SMALL, CLASSES)
    scores = torch.tensor([[0.9, 0.1, 0.0, 0.2], [0.5, 0.45, 0.0, 0.1], [0.5, 0.1, 0.0, 0.41], [0.1, 0.2, 0.3, 0.0]])

    def named(threshold: float) -> list[str]:
        return [answers.nodes[number] for number in back_off(scores, threshold, answers)]

    assert named(0.0) == ["dog", "dog", "dog", "wolf"]
    assert named(0.06) == ["dog", "pet", "dog", "wolf"]
    assert named(0.2) == ["dog", "pet", "thing", "animal"]
    pixels = scores.T.reshape(1, 4, 2, 2)
    assert torch.equal(back_off(pixels, 0.2, answers), back_off(scores, 0.2, answers).reshape(1, 2, 2))
    assert torch.equal(back_off(scores.T, 0.2, answers, dim=0), back_off(scores, 0.2, answers))
    for wrong in (scores[:, :3], scores[:, :1]):
        with pytest.raises(ValueError, match="two or more classes along dimension 1"):
            back_off(wrong, 0.1, answers)


def test_back_off_trades_recall_for_precision() -> None:
    answers = possible_answers(SMALL, CLASSES)
    truth, scores = np.array([1]), torch.tensor([[0.5, 0.49, 0.0, 0.0]])
    sure, careful = (
        hierarchical_scores(
            SMALL,
            answers.nodes,
            confusion_matrix(back_off(scores, margin, answers).numpy(), truth, 4, num_answers=len(answers.nodes)),
        )
        for margin in (0.0, 0.1)
    )
    assert (sure.precision, sure.recall) == (2 / 3, 2 / 3)
    assert (careful.precision, careful.recall) == (1, 2 / 3)


@pytest.mark.parametrize(
    ("parents", "message"),
    [
        ({"a": ["b"]}, "parents that are no nodes themselves: b"),
        ({"a": ["b"], "b": ["a"]}, "their own ancestors"),
        ({"a": [], "b": []}, r"the root \(got a, b\)"),
        ({}, r"the root \(got none\)"),
    ],
)
def test_maps_that_are_no_hierarchy_are_refused(parents: dict[str, list[str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Hierarchy(parents)


def test_arguments_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="no node 'cow'"):
        SMALL.depth("cow")
    with pytest.raises(ValueError, match=r"\(classes, 2 answers\)"):
        hierarchical_scores(SMALL, ["dog", "cat"], np.zeros((3, 2), int))
    with pytest.raises(ValueError, match="as many counts"):
        information(SMALL, ["dog"], CLASSES, np.array([1]))


@pytest.mark.parametrize(
    ("one", "other", "lowest"),
    [
        ("tabby.n.01", "dog.n.01", "carnivore"),
        ("car.n.01", "truck.n.01", "motor vehicle"),
        ("person.n.01", "dog.n.01", "organism"),
        ("river.n.01", "sea.n.01", "body of water"),
        ("crane.n.04", "crane.n.05", "whole"),
    ],
)
def test_wordnet_knows_what_things_share(one: str, other: str, lowest: str) -> None:
    hierarchy = wordnet()
    assert hierarchy.root == "entity.n.01"
    assert hierarchy.word(hierarchy.lowest_common_ancestor(one, other)) == lowest


def test_wordnet_chain_of_a_dog() -> None:
    words = [wordnet().word(node) for node in wordnet().chain("dog.n.01")]
    assert words[:5] == ["dog", "canine", "carnivore", "placental", "mammal"]
    assert words[-1] == "entity"


def test_every_answer_of_a_benchmark_has_its_number() -> None:
    classes = class_list("coco-stuff").hypernyms
    answers = possible_answers(wordnet(), classes)
    assert answers.common_CC.min() == 0
    assert answers.common_CC.max() == len(answers.nodes) - 1
    for one, other in [(0, 16), (5, 5), (80, 170)]:
        shared = wordnet().lowest_common_ancestor(classes[one], classes[other])
        assert answers.nodes[answers.common_CC[one, other]] == shared
