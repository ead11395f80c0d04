"""Which benchmarks there are, what is asked in each, and how each is measured unless another protocol is told."""

from __future__ import annotations

from dataclasses import replace

from clippy.vocabulary import class_list, prompt_templates
from pipelines.evaluation.datasets.shapes import load_classes, open_shapes
from pipelines.evaluation.names import BENCHMARKS
from pipelines.evaluation.protocol import Protocol
from pipelines.evaluation.question import Part
from pipelines.evaluation.questions.classification import Classification
from pipelines.evaluation.questions.grouping import Grouping
from pipelines.evaluation.questions.groups import Groups
from pipelines.evaluation.questions.segmentation import Segmentation
from pipelines.scenes import BIRDS
from pipelines.storage import Location


def open_benchmark(name: str, root: Location, protocol: Protocol, split: str | None = None) -> tuple[Part, ...]:
    """The parts of a benchmark whose data lie in ``root``.

    Raises DataError, with the layout that is expected, where something is missing, and ValueError for an unknown split.
    """
    if name == "shapes":
        return _shapes(root, protocol)
    from pipelines.evaluation.datasets.catalogue import open_dataset

    dataset, split = open_dataset(name, root, split)
    templates = prompt_templates(protocol.templates or BENCHMARKS[name].templates)
    classes = class_list(BENCHMARKS[name].classes)
    kind = BENCHMARKS[name].kind
    if kind == "classification":
        return (Part(split, dataset, (Classification(classes, templates),), cropped=True),)
    if kind == "groups":
        return (Part(split, dataset, (Groups(classes, templates),), cropped=True),)
    questions = (Segmentation(classes, templates), Grouping(protocol, ground=classes.background))
    return (Part(split, dataset, questions),)


def _shapes(root: Location, protocol: Protocol) -> tuple[Part, ...]:
    """Four splits: one object, several, several in camouflage, and two birds on either background."""
    classes, own_templates = load_classes(root)
    templates = prompt_templates(protocol.templates) if protocol.templates else own_templates
    things = tuple(i for i, kind in enumerate(classes.kinds) if kind == "thing")
    stuff = tuple(name for name, kind in zip(classes.names, classes.kinds, strict=True) if kind == "stuff")
    birds = replace(
        classes,
        names=tuple(classes.names[i] for i in BIRDS),
        kinds=tuple(classes.kinds[i] for i in BIRDS),
        extra_words=stuff,
    )
    trivial = {"all background": "background", "one object": "object"}
    return (
        Part("single", open_shapes(root, "single"), (Classification(classes, templates, among=things),)),
        Part(
            "multi",
            open_shapes(root, "multi"),
            (Segmentation(classes, templates, constants=trivial), Grouping(protocol)),
        ),
        Part("camouflage", open_shapes(root, "camouflage"), (Grouping(protocol, table="grouping in camouflage"),)),
        Part("spurious", open_shapes(root, "spurious"), (Groups(birds, templates, first_label=BIRDS[0]),)),
    )
