"""Which benchmarks there are, what is asked in each, and how each is measured unless another protocol is told."""

from __future__ import annotations

from dataclasses import replace

from clippy.config import ConfigError
from clippy.vocabulary import ClassList, prompt_templates
from pipelines.columns import DataError
from pipelines.evaluation.datasets.catalogue import open_benchmark, usual_split
from pipelines.evaluation.datasets.files import read_json
from pipelines.evaluation.names import BENCHMARKS
from pipelines.evaluation.protocol import Protocol
from pipelines.evaluation.question import Part, Question
from pipelines.evaluation.questions.classification import Classification
from pipelines.evaluation.questions.clusters import Clusters
from pipelines.evaluation.questions.grouping import Grouping
from pipelines.evaluation.questions.groups import Groups
from pipelines.evaluation.questions.open_set import KnownWords, OpenSetPictures, OpenSetPixels
from pipelines.evaluation.questions.regions import Regions
from pipelines.evaluation.questions.segmentation import Segmentation
from pipelines.scenes import BIRDS
from pipelines.storage import Location

SHAPES_SPLITS = ("multi", "camouflage", "spurious")


def open_parts(
    name: str, root: Location, protocol: Protocol, split: str | None = None, seen: tuple[str, ...] | None = None
) -> tuple[Part, ...]:
    """The parts of a benchmark whose data lie in ``root``; ``seen`` are the classes that a decoder was trained on.

    Raises DataError, with the layout that is expected, where something is missing, and for a split that there is not.
    """
    asked = BENCHMARKS[name]
    if asked.kind == "shapes":
        if split is not None:
            raise DataError(f"shapes: all its splits are measured together (got the split {split!r}); leave it out")
        return _shapes(root, protocol, seen)
    dataset, classes = open_benchmark(name, root, split)
    templates = templates_of(name, root, protocol.templates)
    if not len(dataset):
        raise DataError(f"{root.url}: {name} has no pictures here")
    # What the first picture has, all have.
    first = dataset.read(0) if asked.kind == "own" else None
    has_labels = asked.kind == "classification" or (first is not None and first.label is not None)
    has_masks = asked.kind == "segmentation" or (first is not None and first.mask is not None)
    _check_words(name, classes, protocol, has_labels or has_masks)
    questions: list[Question] = []
    if asked.kind == "groups":
        questions.append(Groups(classes, templates))
    if asked.kind == "regions":
        questions.append(Regions(classes, templates, protocol.region_pooling))
    if has_labels:
        questions += _about_pictures(Classification(classes, templates, back_off=protocol.back_off), protocol)
    if has_masks:
        if protocol.background == "threshold" and classes.background is not None and len(classes) < 3:
            problem = (
                "background: a single class has probability 1 everywhere, whatever the threshold; find it by words: "
                "background=words background_threshold=null"
            )
            raise ConfigError("protocol", [problem])
        pixels = Segmentation(classes, templates, seen=seen, back_off=protocol.back_off)
        questions += _about_pixels(pixels, protocol)
    has_segments = has_masks or (first is not None and first.segments is not None)
    if has_segments:
        questions.append(Grouping(protocol, ground=classes.background))
    if not questions:
        raise DataError(f"{root.url}: its first picture has neither label, mask nor segments; order or mend the rows")
    cropped = asked.kind in ("classification", "groups") or (asked.kind == "own" and not has_segments)
    return (Part(split or usual_split(name), dataset, tuple(questions), cropped),)


def templates_of(name: str, root: Location, told: str | None = None) -> tuple[str, ...]:
    """The prompts of that name, else the benchmark's own."""
    if told is None and BENCHMARKS[name].kind == "shapes":
        return tuple(read_json(root / "evaluation" / "classes.json")["templates"])
    return prompt_templates(told or BENCHMARKS[name].templates)


def _about_pictures(classification: Classification, protocol: Protocol) -> list[Question]:
    """Classification and, where the protocol asks for it, what goes with it."""
    questions: list[Question] = [classification]
    if protocol.held_out:
        words = KnownWords(classification.classes, classification.templates, protocol.held_out)
        questions.append(OpenSetPictures(words, classification.among))
    return questions


def _about_pixels(segmentation: Segmentation, protocol: Protocol) -> list[Question]:
    """Segmentation and, where the protocol asks for it, what goes with it."""
    questions: list[Question] = [segmentation]
    if protocol.held_out:
        words = KnownWords(segmentation.classes, segmentation.templates, protocol.held_out)
        questions.append(OpenSetPixels(words, by_threshold=protocol.background == "threshold"))
    if protocol.cluster_pictures:
        questions.append(Clusters(segmentation.classes, protocol.cluster_pictures))
    return questions


def _check_words(name: str, classes: ClassList, protocol: Protocol, has_words: bool) -> None:
    """Refuse what the protocol asks of classes that a benchmark has not. Raises ConfigError."""
    if protocol.held_out:
        if not has_words:
            raise ConfigError("protocol", [f"held_out: {name} names neither whole pictures nor pixels; leave it out"])
        KnownWords(classes, (), protocol.held_out).check()
    has_threshold = protocol.background == "threshold" and classes.background is not None
    if protocol.key_smoothing is not None and (has_threshold or protocol.refine):
        field = "background=threshold" if has_threshold else "refine"
        problem = f"key_smoothing: its votes are no probabilities, which {field} needs on {name}; leave one out"
        raise ConfigError("protocol", [problem])
    if protocol.back_off and not (has_words and classes.hypernyms):
        raise ConfigError("protocol", [f"back_off: {name} has no classes with hypernyms to answer with; leave it out"])


def _shapes(root: Location, protocol: Protocol, seen: tuple[str, ...] | None) -> tuple[Part, ...]:
    """Four splits: one object, several, several in camouflage, and two birds on either background."""
    single, classes = open_benchmark("shapes", root, "single")
    multi, camouflage, spurious = (open_benchmark("shapes", root, split)[0] for split in SHAPES_SPLITS)
    templates = templates_of("shapes", root, protocol.templates)
    _check_words("shapes", classes, protocol, has_words=True)
    things = tuple(i for i, kind in enumerate(classes.kinds) if kind == "thing")
    stuff = tuple(name for name, kind in zip(classes.names, classes.kinds, strict=True) if kind == "stuff")
    birds = replace(
        classes,
        names=tuple(classes.names[i] for i in BIRDS),
        kinds=tuple(classes.kinds[i] for i in BIRDS),
        extra_words=stuff,
    )
    segmentation = Segmentation(classes, templates, constants=("all background", "one object"), seen=seen)
    return (
        Part("single", single, tuple(_about_pictures(Classification(classes, templates, among=things), protocol))),
        Part("multi", multi, (*_about_pixels(segmentation, protocol), Grouping(protocol))),
        Part("camouflage", camouflage, (Grouping(protocol, table="grouping in camouflage"),)),
        Part("spurious", spurious, (Groups(birds, templates, first_label=BIRDS[0]),)),
    )
