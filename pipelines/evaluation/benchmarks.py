"""Which benchmarks there are, what is asked in each, and how each is measured unless another protocol is told."""

from __future__ import annotations

from dataclasses import replace

from clippy.vocabulary import prompt_templates
from pipelines.columns import DataError
from pipelines.evaluation.datasets.catalogue import open_benchmark, usual_split
from pipelines.evaluation.datasets.files import read_json
from pipelines.evaluation.names import BENCHMARKS
from pipelines.evaluation.protocol import Protocol
from pipelines.evaluation.question import Part, Question
from pipelines.evaluation.questions.classification import Classification
from pipelines.evaluation.questions.grouping import Grouping
from pipelines.evaluation.questions.groups import Groups
from pipelines.evaluation.questions.segmentation import Segmentation
from pipelines.scenes import BIRDS
from pipelines.storage import Location

SHAPES_SPLITS = ("multi", "camouflage", "spurious")


def open_parts(name: str, root: Location, protocol: Protocol, split: str | None = None) -> tuple[Part, ...]:
    """The parts of a benchmark whose data lie in ``root``.

    Raises DataError, with the layout that is expected, where something is missing, and for a split that there is not.
    """
    asked = BENCHMARKS[name]
    if asked.kind == "shapes":
        return _shapes(root, protocol)
    dataset, classes = open_benchmark(name, root, split)
    templates = prompt_templates(protocol.templates or asked.templates)
    if not len(dataset):
        raise DataError(f"{root.url}: {name} has no pictures here")
    # What the first picture has, all have.
    first = dataset.read(0) if asked.kind == "own" else None
    questions: list[Question] = []
    if asked.kind == "groups":
        questions.append(Groups(classes, templates))
    if asked.kind == "classification" or (first and first.label is not None):
        questions.append(Classification(classes, templates))
    if asked.kind == "segmentation" or (first and first.mask is not None):
        questions.append(Segmentation(classes, templates))
    if asked.kind == "segmentation" or (first and (first.mask is not None or first.segments is not None)):
        questions.append(Grouping(protocol, ground=classes.background))
    cropped = asked.kind in ("classification", "groups") or [question.table for question in questions] == [
        "classification"
    ]
    return (Part(split or usual_split(name), dataset, tuple(questions), cropped),)


def _shapes(root: Location, protocol: Protocol) -> tuple[Part, ...]:
    """Four splits: one object, several, several in camouflage, and two birds on either background."""
    single, classes = open_benchmark("shapes", root, "single")
    multi, camouflage, spurious = (open_benchmark("shapes", root, split)[0] for split in SHAPES_SPLITS)
    if protocol.templates:
        templates = prompt_templates(protocol.templates)
    else:
        templates = tuple(read_json(root / "evaluation" / "classes.json")["templates"])
    things = tuple(i for i, kind in enumerate(classes.kinds) if kind == "thing")
    stuff = tuple(name for name, kind in zip(classes.names, classes.kinds, strict=True) if kind == "stuff")
    birds = replace(
        classes,
        names=tuple(classes.names[i] for i in BIRDS),
        kinds=tuple(classes.kinds[i] for i in BIRDS),
        extra_words=stuff,
    )
    segmentation = Segmentation(classes, templates, constants=("all background", "one object"))
    return (
        Part("single", single, (Classification(classes, templates, among=things),)),
        Part("multi", multi, (segmentation, Grouping(protocol))),
        Part("camouflage", camouflage, (Grouping(protocol, table="grouping in camouflage"),)),
        Part("spurious", spurious, (Groups(birds, templates, first_label=BIRDS[0]),)),
    )
