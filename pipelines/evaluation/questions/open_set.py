"""Does the model know what it has no word for? Held-out classes told from the others by how sure it is.

Shapes in names: D embedding width, K words of known classes, P pixels, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from clippy.config import ConfigError, nearest
from clippy.open_set import (
    OpenSetCounts,
    auroc,
    count_binned,
    count_exactly,
    energy,
    false_positive_rate,
    maximum_logit,
    maximum_probability,
    oscr,
)
from clippy.upsampling import best_and_total, label_pixels
from clippy.vocabulary import ClassList
from pipelines.evaluation.dataset import VOID, Example
from pipelines.evaluation.drawing import draw_ids, draw_picture
from pipelines.evaluation.question import Findings, Row
from pipelines.evaluation.reading import Features, Reader
from pipelines.evaluation.result import Table

SCORES = ("maximum logit", "maximum probability", "energy")
BINS = 4096
"""Levels that pixels' scores are counted in."""
_SUREST = 16.0
"""Log-odds beyond which float32 no longer tells probabilities from 1."""


@dataclass(frozen=True)
class KnownWords:
    """The classes of a benchmark without those that are held out, with the words of the others."""

    classes: ClassList
    templates: tuple[str, ...]
    held_out: tuple[str, ...]

    @cached_property
    def unknown(self) -> tuple[int, ...]:
        """Numbers of the classes that the model is given no words for."""
        return tuple(i for i, name in enumerate(self.classes.names) if name in self.held_out)

    def check(self) -> None:
        """Raises ConfigError for a name that is no class, or where fewer than two classes are left."""
        names = self.classes.names
        problems = [
            f"held_out: {self.classes.name} has no class {name!r}{nearest(name, names)}"
            for name in self.held_out
            if name not in names
        ]
        if len(names) - len(self.unknown) < 2:
            problems.append(f"held_out: leaves {len(names) - len(self.unknown)} of {len(names)} classes; keep two")
        if problems:
            raise ConfigError("protocol", problems)

    def known(self, by_threshold: bool = False) -> tuple[int, ...]:
        """Numbers of the classes that have words; the background has none in protocols with a threshold."""
        without = {*self.unknown, *([self.classes.background] if by_threshold else [])}
        return tuple(i for i in range(len(self.classes)) if i not in without)

    def words(self, by_threshold: bool = False) -> tuple[list[str], NDArray[np.int64]]:
        """The words, with those that stand for the background if that is known, and the class of each."""
        words, classes = self.classes.words_of(self.known(by_threshold))
        return words, np.array(classes)

    def explain(self) -> dict[str, str]:
        """What is held out, and the three scores."""
        return {
            "open set": f"held out: {', '.join(self.held_out)}; the model gets the words of the other "
            f"{len(self.classes) - len(self.unknown)} classes here, and of all in the other tables",
            "open-set scores": "maximum logit: highest cosine; maximum probability: of the softmax at the model's "
            "inverse temperature; energy: logarithm of the sum of exponentials at that temperature; FPR95: share of "
            "held-out examples taken for known where 95 % of the known are kept; OSCR: area under the share of known "
            "examples kept and named right over that share",
        }


@dataclass(frozen=True)
class OpenSetPictures:
    """Whole pictures of held-out classes among others: exact, from a score of each picture."""

    words: KnownWords
    among: tuple[int, ...] | None = None
    """Classes that a picture can be of; None is all."""
    table: str = "open set"

    @cached_property
    def candidates(self) -> tuple[int, ...]:
        """Class numbers that are offered."""
        known = self.words.known()
        return known if self.among is None else tuple(i for i in known if i in self.among)

    def ask(self, reader: Reader) -> OpenSetPicturesAnswerer:
        """Embed the words of known classes."""
        return OpenSetPicturesAnswerer(self, reader)

    def explain(self) -> dict[str, str]:
        """What is held out."""
        return self.words.explain()

    def sum_up(self, rows: Iterable[Row]) -> Findings:
        """AUROC, FPR95 and OSCR of each score."""
        found = [(row["scores"], row["known"], row["right"]) for row in rows]
        scores, known, right = zip(*found, strict=True) if found else ((), (), ())
        by_score = np.array(scores, dtype=np.float64).reshape(-1, len(SCORES)).T
        flags = np.array(known, dtype=bool), np.array(right, dtype=bool)
        counts = {name: count_exactly(values, *flags) for name, values in zip(SCORES, by_score, strict=True)}
        return Findings({self.table: _table(counts, len(self.candidates))})


class OpenSetPicturesAnswerer:
    """Says how sure it is of one whole picture after the other."""

    def __init__(self, question: OpenSetPictures, reader: Reader) -> None:
        self._question, self._scale = question, reader.scale
        names = [question.words.classes.names[i] for i in question.candidates]
        self._words_KD = reader.embed_words(names, question.words.templates)

    def measure(self, features: Features, index: int, example: Example) -> Row:
        """Whether the class is known and was named, and three scores of how sure the model was."""
        label, pooled_D, candidates = example.require_label(), features.pooled_BD[index], self._question.candidates
        with torch.inference_mode():
            cosine_K = self._words_KD.to(pooled_D.device) @ pooled_D
            scale = float(self._scale)
            sure = float(maximum_probability(cosine_K, scale, dim=0))
            scores = [float(maximum_logit(cosine_K, dim=0)), sure, float(energy(cosine_K, scale, dim=0))]
        named, is_known = candidates[int(cosine_K.argmax())], label in candidates
        right = named == label
        score = (sure if right else 0.0) if is_known else 1 - sure
        return {"known": is_known, "right": right, "named": named, "scores": scores, "score": score}

    def draw(self, features: Features, index: int, example: Example) -> tuple[Image.Image, str]:
        """The picture, with what it is and what it was taken for."""
        row, names = self.measure(features, index, example), self._question.words.classes.names
        truth = names[example.require_label()] + ("" if row["known"] else " (held out)")
        cosine, probability, _ = row["scores"]
        said = f"nearest: {names[row['named']]}, cosine {cosine:.3f}, probability {probability:.2f}"
        return draw_picture(example.pixels), f"{truth}; {said}"


@dataclass(frozen=True)
class OpenSetPixels:
    """Pixels of held-out classes among others, counted by bins of their score."""

    words: KnownWords
    by_threshold: bool = False
    """Whether the background has no word: its pixels are not counted then, unless it is held out."""
    table: str = "open set of pixels"

    def ask(self, reader: Reader) -> OpenSetPixelsAnswerer:
        """Embed the words of known classes."""
        return OpenSetPixelsAnswerer(self, reader)

    def explain(self) -> dict[str, str]:
        """What is held out, and how pixels are counted."""
        counted = f"of cosines of patches, up-sampled to the labels' size, in {BINS} bins; those of a bin are tied"
        return self.words.explain() | {"open set of pixels": counted}

    def sum_up(self, rows: Iterable[Row]) -> Findings:
        """AUROC, FPR95 and OSCR of each score over all pixels."""
        total = np.zeros((len(SCORES), 3, BINS), dtype=np.int64)
        for row in rows:
            for number, levels in enumerate(row["levels"]):
                if levels:
                    places, *kinds = zip(*levels, strict=True)
                    total[number][:, places] += np.array(kinds)
        counts = {name: OpenSetCounts(*kinds) for name, kinds in zip(SCORES, total, strict=True)}
        return Findings({self.table: _table(counts, len(self.words.known(self.by_threshold)))})


class OpenSetPixelsAnswerer:
    """Says how sure it is of the pixels of one picture after the other."""

    def __init__(self, question: OpenSetPixels, reader: Reader) -> None:
        self._scale = reader.scale
        self._classes = question.words.classes
        words, self._class_of_word_K = question.words.words(question.by_threshold)
        self._words_KD = reader.embed_words(words, question.words.templates)
        self._is_unknown_C = np.isin(np.arange(len(self._classes)), question.words.unknown)
        self._is_known_C = np.isin(np.arange(len(self._classes)), question.words.known(question.by_threshold))
        spread = math.log(len(words))
        self._ranges = ((-1.0, 1.0), (-spread, _SUREST), (-1.0, 1.0 + spread / float(self._scale)))

    def measure(self, features: Features, index: int, example: Example) -> Row:
        """[level, known and right, known and wrong, unknown] of the levels of each score that occur."""
        scores_3P, is_known_P, is_right_P = self._score(features, index, example)
        counts = [
            count_binned(scores_P, is_known_P, is_right_P, *ends, bins=BINS)
            for scores_P, ends in zip(scores_3P, self._ranges, strict=True)
        ]
        told = auroc(counts[0])
        return {"levels": [_occurring(count) for count in counts], "score": told if math.isfinite(told) else None}

    def draw(self, features: Features, index: int, example: Example) -> tuple[Image.Image, str]:
        """The picture, its least sure pixels, as many as are held out, and those that are."""
        truth = example.require_mask()
        scores_3P, is_known_P, _ = self._score(features, index, example)
        counted, held_out = self._is_counted(truth), int((~is_known_P).sum())
        least_sure = np.zeros(len(is_known_P), dtype=np.int32)
        least_sure[np.argsort(scores_3P[0], kind="stable")[:held_out]] = 1
        said, true = (np.full(truth.shape, VOID, dtype=np.int32) for _ in range(2))
        said[counted], true[counted] = least_sure, ~is_known_P
        told = self.measure(features, index, example)["score"]
        caption = example.key if told is None else f"{example.key}: AUROC {told:.2f}"
        return draw_ids(example.pixels, said, true, ("known", "held out, or as unsure")), caption

    def _score(
        self, features: Features, index: int, example: Example
    ) -> tuple[Sequence[NDArray[np.float32]], NDArray[np.bool_], NDArray[np.bool_]]:
        """Scores of the counted pixels, whether their class is known, and whether it was named."""
        patches_hwD, truth = features.patches_BhwD[index], example.require_mask()
        words_KD, scale = self._words_KD.to(patches_hwD.device), self._scale
        best_HW, total_HW = best_and_total(patches_hwD, words_KD, truth.shape, scale)
        logarithm_HW = (best_HW - total_HW).clamp(max=0)
        # Most probabilities are close to 1, where equal bins do not tell them apart; log-odds have the same order.
        odds_HW = logarithm_HW - (-torch.expm1(logarithm_HW)).log()
        scores = [_numpy(score) for score in (best_HW / scale, odds_HW, total_HW / scale)]
        named = self._class_of_word_K[label_pixels(patches_hwD, words_KD, truth.shape).cpu().numpy()]
        counted = self._is_counted(truth)
        is_known_P = self._is_known_C[truth[counted]]
        return [score[counted] for score in scores], is_known_P, (named == truth)[counted]

    def _is_counted(self, truth: NDArray[np.int32]) -> NDArray[np.bool_]:
        return (truth != VOID) & (self._is_known_C | self._is_unknown_C)[truth]


def _table(counts: Mapping[str, OpenSetCounts], num_known: int) -> Table:
    """A row for each score, and what scores that say nothing would get with the same names."""
    any_counts = next(iter(counts.values()))
    right, wrong = int(any_counts.correct.sum()), int(any_counts.wrong.sum())
    accuracy = right / (right + wrong) if right + wrong else float("nan")
    table = {
        f"model by {name}": {
            "AUROC": auroc(count),
            "FPR95": false_positive_rate(count),
            "OSCR": oscr(count),
            "accuracy of known": accuracy,
        }
        for name, count in counts.items()
    }
    chance = {"AUROC": 0.5, "FPR95": 0.95, "OSCR": accuracy / 2, "accuracy of known": 1 / num_known}
    return table | {"random score": chance}


def _occurring(counts: OpenSetCounts) -> list[list[int]]:
    stacked = np.stack([counts.correct, counts.wrong, counts.unknown])
    places = np.flatnonzero(stacked.any(axis=0))
    return np.column_stack([places, stacked[:, places].T]).tolist()


def _numpy(score_HW: Tensor) -> NDArray[np.float32]:
    return score_HW.cpu().numpy()
