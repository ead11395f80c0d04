"""How right are wrong answers? Answers scored in WordNet's tree, as classes and backed off to what two classes are.

Shapes in names: C classes, A answers (the classes, then what two of them have in common).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clippy.hierarchy import Answers, hierarchical_scores, possible_answers, wordnet
from clippy.vocabulary import ClassList
from pipelines.evaluation.result import Table

TABLE = "hierarchy"
Pairs = Mapping[tuple[int, int], int]
"""How often each pair of a true class and an answer occurred."""


@cache
def answers_of(hypernyms: tuple[str, ...]) -> Answers:
    """What can be answered where the classes have these hypernyms; some seconds for a thousand of them."""
    return possible_answers(wordnet(), hypernyms)


def hierarchy_table(classes: ClassList, named: Pairs, leads: Sequence[float], backed_off: Sequence[Pairs]) -> Table:
    """Scores of the classes that a model named and, for each lead, of what it backed off to; beside trivial answers."""
    answers, num_classes = answers_of(classes.hypernyms), len(classes)
    named_CA = _confusion(answers, num_classes, named)
    examples_C = named_CA.sum(axis=1)
    constant_CA, random_CA = np.zeros_like(named_CA), np.zeros(named_CA.shape)
    constant_CA[:, examples_C.argmax()] = examples_C
    random_CA[:, :num_classes] = examples_C[:, None] / num_classes
    confusions: dict[str, NDArray[Any]] = {"model": named_CA}
    for lead, pairs in zip(leads, backed_off, strict=True):
        confusions[f"model backed off by {lead:g}"] = _confusion(answers, num_classes, pairs)
    confusions |= {"commonest class": constant_CA, "random class": random_CA}
    return {answer: _numbers(answers, confusion_CA, examples_C) for answer, confusion_CA in confusions.items()}


def explain_hierarchy(leads: Sequence[float]) -> dict[str, str]:
    """How answers are scored and when they are backed off."""
    told = {
        "hierarchy": "WordNet 3.0; with the lowest common ancestor of answer and truth: its depth by the answer's "
        "(precision) and by the truth's (recall), and twice its information, by how often classes occur, by theirs"
    }
    if leads:
        least = ", ".join(f"{lead:g}" for lead in leads)
        told["backed off"] = (
            f"where the best word leads the second by less than a cosine of {least}, the answer is their lowest common "
            "ancestor"
        )
    return told


def _confusion(answers: Answers, num_classes: int, pairs: Pairs) -> NDArray[np.int64]:
    confusion_CA = np.zeros((num_classes, len(answers.nodes)), dtype=np.int64)
    for (truth, answer), count in pairs.items():
        confusion_CA[truth, answer] = count
    return confusion_CA


def _numbers(answers: Answers, confusion_CA: NDArray[Any], examples_C: NDArray[np.int64]) -> dict[str, float]:
    scores = hierarchical_scores(wordnet(), answers.nodes, confusion_CA, examples_C)
    above = float(confusion_CA[:, len(confusion_CA) :].sum() / max(1, examples_C.sum()))
    numbers = {"precision": scores.precision, "recall": scores.recall, "F": scores.f, "information": scores.information}
    return numbers | {"above classes": above}
