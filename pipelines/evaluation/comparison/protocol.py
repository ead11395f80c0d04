"""How results of one benchmark were measured, and what makes them unfit to be held against each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from pipelines.evaluation.comparison.find import FoundResult
from pipelines.evaluation.datasets.catalogue import usual_split
from pipelines.evaluation.paper import benchmark_pictures, benchmark_title

PICTURES = "pictures measured"
"""Stands among the choices of a protocol, since numbers hang on it as on them."""
_NAME = "name"


def protocol_of(results: Mapping[str, FoundResult]) -> dict[str, dict[str, str]]:
    """Choice -> letter -> what was chosen, for results by their letter; the pictures measured come first."""
    chosen = {label: {PICTURES: _measured(found.result.images), **_choices(found)} for label, found in results.items()}
    return {
        choice: {label: protocol[choice] for label, protocol in chosen.items() if choice in protocol}
        for choice in union(chosen.values())
    }


def protocol_name(found: FoundResult) -> str:
    """What the protocol of a result is called, nothing where it has no name."""
    return found.result.protocol.get(_NAME, "")


def _choices(found: FoundResult) -> dict[str, str]:
    """The choices of a protocol under names that say what they are without the section that they come from."""
    return {
        "protocol" if choice == _NAME else choice.replace("_", " "): chosen
        for choice, chosen in found.result.protocol.items()
    }


def differing_choices(protocol: Mapping[str, Mapping[str, str]], labels: Iterable[str]) -> list[str]:
    """The choices that are not the same for all; one that a result does not state is another choice."""
    labels = list(labels)
    return [choice for choice, chosen in protocol.items() if len({chosen.get(label) for label in labels}) > 1]


def incomplete_results(benchmark: str, results: Mapping[str, FoundResult]) -> set[str]:
    """Letters of results that are not on the benchmark's usual pictures, or not on all of them."""
    whole = benchmark_pictures(benchmark)
    if whole is None:
        return set()
    usual = usual_split(benchmark)
    # Other samples of ImageNet-v2 are as large as the usual one and easier by far.
    return {label for label, found in results.items() if found.result.images not in ({}, {usual: whole})}


def warnings_of(benchmark: str, results: Mapping[str, FoundResult]) -> Iterator[str]:
    """One sentence for everything that keeps the results from being held against each other or against the paper's."""
    title, labels, protocol = benchmark_title(benchmark), _listed(results), protocol_of(results)
    differing = differing_choices(protocol, results)
    if PICTURES in differing:
        said = "; ".join(f"{label} on {chosen}" for label, chosen in protocol[PICTURES].items())
        yield f"{title}: {labels} were measured on different pictures ({said})."
    choices = ", ".join(choice for choice in differing if choice != PICTURES)
    if choices:
        yield f"{title}: {labels} were measured under different protocols; they differ in {choices}."
    classes = {label: list(found.result.per_class) for label, found in results.items() if found.result.per_class}
    if len(set(map(tuple, classes.values()))) > 1:
        said = "; ".join(f"{label} on {len(names)}" for label, names in classes.items())
        yield f"{title}: {labels} were measured on different lists of classes ({said})."
    incomplete = incomplete_results(benchmark, results)
    for measured in dict.fromkeys(protocol[PICTURES].values()):
        some = [label for label in results if label in incomplete and protocol[PICTURES][label] == measured]
        if some:
            were = "was" if len(some) == 1 else "were"
            whole = f"{benchmark_pictures(benchmark):,} {usual_split(benchmark)}"
            yield f"{title}: {_listed(some)} {were} measured on {measured}; the whole benchmark is {whole} pictures."


def union(sequences: Iterable[Iterable[str]]) -> list[str]:
    """Each name once, in the order of first sight."""
    return list(dict.fromkeys(name for names in sequences for name in names))


def _measured(images: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} {part}" for part, number in images.items()) or "not stated"


def _listed(labels: Iterable[str]) -> str:
    """'A', 'A and B', 'A, B and C'."""
    *others, last = labels
    return f"{', '.join(others)} and {last}" if others else last
