"""Classes in a tree of more and more general words, and answers that are right in part: "dog" for "terrier".

The map may give a node several parents (WordNet does). Its depth is the longest way from the root, which has depth 0;
the lowest common ancestor of two nodes is the deepest they share, the first by name among equally deep ones. Where one
way up is wanted it goes through the deepest parent. So an ancestor is never deeper, nor rarer, than what is below it.

Shapes in names: C classes, A answers (the classes, then ancestors to back off to), M nodes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clippy.vocabulary import hypernym_map


class Hierarchy:
    """Parents of each node, and the word that it is called by."""

    def __init__(self, parents: Mapping[str, Sequence[str]], words: Mapping[str, str] | None = None) -> None:
        """Raises ValueError unless every parent is a node, nobody is its own ancestor and one node has no parents."""
        unknown = sorted({above for parents_of in parents.values() for above in parents_of} - parents.keys())
        if unknown:
            raise ValueError(f"parents that are no nodes themselves: {', '.join(unknown)}; give them parents, or none")
        try:
            top_down = list(TopologicalSorter(parents).static_order())
        except CycleError as error:
            raise ValueError(f"nodes that are their own ancestors: {' > '.join(error.args[1])}") from None
        roots = [node for node in top_down if not parents[node]]
        if len(roots) != 1:
            raise ValueError(f"one node must have no parents, the root (got {', '.join(roots) or 'none'})")
        self.root = roots[0]
        self.parents = {node: tuple(parents[node]) for node in top_down}
        self._words = dict(words or {})
        self._depths: dict[str, int] = {}
        self._ancestors: dict[str, frozenset[str]] = {}
        for node in top_down:
            above = self.parents[node]
            self._depths[node] = 1 + max((self._depths[parent] for parent in above), default=-1)
            self._ancestors[node] = frozenset({node}).union(*(self._ancestors[parent] for parent in above))

    def word(self, node: str) -> str:
        """What a node is called in an answer; its name where the map has no word."""
        return self._words.get(node, node)

    def depth(self, node: str) -> int:
        """Steps on the longest way from the root."""
        return self._depths[self._known(node)]

    def ancestors(self, node: str) -> frozenset[str]:
        """All nodes on all ways to the root, with the node itself."""
        return self._ancestors[self._known(node)]

    def chain(self, node: str) -> tuple[str, ...]:
        """One way to the root, from the node: through the deepest parent, the first of the map among equals."""
        way = [self._known(node)]
        while self.parents[way[-1]]:
            way.append(max(self.parents[way[-1]], key=self.depth))
        return tuple(way)

    def lowest_common_ancestor(self, one: str, other: str) -> str:
        """The deepest node above both, or one of them if it is above the other."""
        return self._deepest_first(self.ancestors(one) & self.ancestors(other))[0]

    def lowest_common_ancestors(self, nodes: Sequence[str]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
        """`lowest_common_ancestor` of every two nodes: names (M,), and for each pair its place among them (A, A)."""
        names = self._deepest_first(frozenset().union(*(self.ancestors(node) for node in nodes)))
        place = {name: number for number, name in enumerate(names)}
        above_AM = np.zeros((len(nodes), len(names)), dtype=bool)
        lowest_AA = np.empty((len(nodes), len(nodes)), dtype=np.int64)
        for row_M, node in zip(above_AM, nodes, strict=True):
            row_M[[place[name] for name in self.ancestors(node)]] = True
        for lowest_A, row_M in zip(lowest_AA, above_AM, strict=True):
            # Deepest first, so the first name that both have is the lowest; all have the root.
            own = np.flatnonzero(row_M)
            lowest_A[:] = own[above_AM[:, own].argmax(axis=1)]
        return tuple(names), lowest_AA

    def _deepest_first(self, nodes: frozenset[str]) -> list[str]:
        return sorted(nodes, key=lambda node: (-self._depths[node], node))

    def _known(self, node: str) -> str:
        if node not in self.parents:
            raise ValueError(f"no node {node!r} in this hierarchy of {len(self.parents)}, from {self.root!r}")
        return node


@cache
def wordnet() -> Hierarchy:
    """WordNet 3.0's hypernyms of all class lists of `clippy.vocabulary`."""
    nodes = hypernym_map()["nodes"]
    parents = {name: node["parents"] for name, node in nodes.items()}
    return Hierarchy(parents, {name: node["word"] for name, node in nodes.items()})


@dataclass(frozen=True)
class Answers:
    """What a model can answer that may back off: its classes, and every lowest common ancestor of two of them."""

    nodes: tuple[str, ...]
    """Node of each answer: those of the C classes by id, then the further ones."""
    common_CC: NDArray[np.int64]
    """Answer for what two classes share; one of the two ids if that class is above the other."""


def possible_answers(hierarchy: Hierarchy, classes: Sequence[str]) -> Answers:
    """Number the answers of a model that knows these classes, given by their nodes."""
    names, lowest_CC = hierarchy.lowest_common_ancestors(classes)
    place = {name: number for number, name in enumerate(names)}
    own_C = np.array([place[node] for node in classes])
    rows, columns = np.indices(lowest_CC.shape)
    is_row, is_column = lowest_CC == own_C[:, None], lowest_CC == own_C[None]
    further, number_CC = np.unique(np.where(is_row | is_column, -1, lowest_CC), return_inverse=True)
    # The first of them is the -1, on the diagonal if nowhere else.
    number_CC = number_CC.reshape(lowest_CC.shape) + len(classes) - 1
    common_CC = np.where(is_row, rows, np.where(is_column, columns, number_CC))
    return Answers((*classes, *(names[place] for place in further[1:])), common_CC)


def back_off(scores: Tensor, threshold: float, answers: Answers, dim: int = 1) -> Tensor:
    """Answer with the class of the highest score, or with what it shares with the runner-up if that is close.

    scores: C of them along `dim`, two or more. Where the highest leads by less than `threshold`, in the unit of the
    scores, the answer is the lowest common ancestor of the two. Returns int64 numbers of `answers`, without `dim`.
    Raises ValueError if the scores are not those of the classes.
    Source: a rule of ours; that it looks at two classes only keeps it as cheap as naming a class.
    """
    num_classes = len(answers.common_CC)
    if num_classes < 2 or scores.shape[dim] != num_classes:
        raise ValueError(
            f"scores of shape {tuple(scores.shape)} must have two or more classes along dimension {dim}, and the "
            f"answers have {num_classes}"
        )
    (best, second), (first, runner_up) = (half.unbind(dim) for half in scores.topk(2, dim=dim))
    common_CC = torch.from_numpy(answers.common_CC).to(scores.device)
    return torch.where(best - second < threshold, common_CC[first, runner_up], first)


@dataclass(frozen=True)
class HierarchicalScores:
    """How much of the truth the answers hold, in 0..1; NaN where there is nothing to average."""

    precision: float
    """Share of what was claimed that is true: depth of the common ancestor by that of the answer."""
    recall: float
    """Share of the truth that was claimed: depth of the common ancestor by that of the truth."""
    f: float
    information: float
    """Information of the common ancestor by the mean of the answer's and the truth's."""


def hierarchical_scores(
    hierarchy: Hierarchy, nodes: Sequence[str], confusion: NDArray[Any], counts: NDArray[Any] | None = None
) -> HierarchicalScores:
    """Score answers that may be right in part.

    nodes: node of each of the A answers, the first C of them the classes. confusion: (C, A) counts, rows truth, of
    `clippy.metrics.confusion_matrix`, added up over workers. counts: (C,) how often each class occurs, for the
    information; the sums of the rows when None. The root claims nothing: an answer of it has no precision, a truth of
    it (background) no recall, and such pairs are left out of the one mean. Likewise pairs of two nodes without
    information. Raises ValueError for shapes that do not fit or a class that is in `confusion` but not in `counts`.
    Source: Open Vocabulary Scene Parsing (ICCV 2017); the ratio of information is Lin's similarity.
    """
    confusion = np.asarray(confusion)
    if confusion.ndim != 2 or confusion.shape[0] > confusion.shape[1] or confusion.shape[1] != len(nodes):
        raise ValueError(f"confusion must be (classes, {len(nodes)} answers) (got shape {confusion.shape})")
    truth, answer = np.nonzero(confusion)
    if truth.size == 0:
        return HierarchicalScores(*[float("nan")] * 4)
    names, lowest_AA = hierarchy.lowest_common_ancestors(nodes)
    weight = confusion[truth, answer].astype(np.float64)
    depth_M = np.array([hierarchy.depth(name) for name in names], dtype=np.float64)
    own_A, shared = np.diagonal(lowest_AA), lowest_AA[truth, answer]
    precision = _mean_ratio(depth_M[shared], depth_M[own_A[answer]], weight)
    recall = _mean_ratio(depth_M[shared], depth_M[own_A[truth]], weight)
    occurs = confusion.sum(axis=1) if counts is None else np.asarray(counts)
    nats_M = information(hierarchy, names, nodes[: len(confusion)], occurs)
    if np.isinf(nats_M[own_A[truth]]).any():
        raise ValueError(
            "counts: a class that occurs in the confusion has none; count where the confusion was measured"
        )
    both = nats_M[own_A[answer]] + nats_M[own_A[truth]]
    f = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return HierarchicalScores(precision, recall, f, _mean_ratio(2 * nats_M[shared], both, weight))


def information(
    hierarchy: Hierarchy, nodes: Sequence[str], classes: Sequence[str], counts: NDArray[Any]
) -> NDArray[np.float64]:
    """Information of each node in nats: -log of the share of examples whose class is the node or below it.

    classes: node of each class; counts: (C,) how often it occurs. Returns (M,) for `nodes`: 0 for the root, infinity
    for what never occurs. Raises ValueError for lengths that differ or counts that are all 0.
    """
    if len(classes) != len(counts) or not np.sum(counts) > 0:
        raise ValueError(f"{len(classes)} classes need as many counts, not all of them 0 (got {np.asarray(counts)})")
    total = dict.fromkeys(nodes, 0)
    for node, count in zip(classes, counts, strict=True):
        for above in hierarchy.ancestors(node) & total.keys():
            total[above] += int(count)
    with np.errstate(divide="ignore"):
        # log of a quotient of equal integers is exactly 0, and + 0.0 takes its sign.
        return -np.log(np.array([total[node] for node in nodes]) / sum(int(count) for count in counts)) + 0.0


def _mean_ratio(part: NDArray[np.float64], whole: NDArray[np.float64], weight: NDArray[np.float64]) -> float:
    counted = whole > 0
    if not counted.any():
        return float("nan")
    return float(np.average(part[counted] / whole[counted], weights=weight[counted]))
