"""The space of a study: which recipe fields vary, over what, and on what condition. Imports neither torch nor ray."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from clippy.config import Section

KINDS = ("grid", "choice", "uniform", "log_uniform", "integer")
Parameters = dict[str, Any]
"""The varied fields of one point by dotted name, in the order of the space."""
_Ends = Annotated[list[float], Field(min_length=2, max_length=2)]
_WholeEnds = Annotated[list[int], Field(min_length=2, max_length=2)]


class Domain(Section):
    """What one recipe field may be, as a mapping with one of the kinds as its key; ends of ranges are included."""

    grid: list[Any] | None = Field(None, min_length=1)
    """Every one of these values, in whatever way the other fields are searched."""
    choice: list[Any] | None = Field(None, min_length=1)
    """One of these values, drawn."""
    uniform: _Ends | None = None
    """A number between two."""
    log_uniform: _Ends | None = None
    """A number between two positive ones, its logarithm drawn uniformly."""
    integer: _WholeEnds | None = None
    """A whole number between two."""
    when: dict[str, Any] = Field(default_factory=dict)
    """The field varies only where these recipe fields have this value, or one of a list; else it is as in the base."""

    @model_validator(mode="after")
    def _one_kind(self) -> Domain:
        told = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(told) != 1:
            got = f"got {' and '.join(told)}" if told else "got none"
            raise ValueError(f"must have exactly one of {', '.join(KINDS)} ({got})")
        if self.values is not None and any(value in self.values[:i] for i, value in enumerate(self.values)):
            raise ValueError(f"{self.kind}: names a value twice")
        if self.values is None and self.ends[0] >= self.ends[1]:
            raise ValueError(f"{self.kind}: must be two numbers, the smaller first (got {self.ends})")
        if self.log_uniform is not None and self.log_uniform[0] <= 0:
            raise ValueError(f"log_uniform: both ends must be above 0 (got {self.log_uniform})")
        return self

    @model_serializer(mode="wrap")
    def _only_what_is_told(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {
            name: value for name, value in serialize(self).items() if name == self.kind or (name == "when" and value)
        }

    @property
    def kind(self) -> str:
        """Which of ``KINDS`` this is."""
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    @property
    def values(self) -> list[Any] | None:
        """All values of a grid or choice; None for a range."""
        return self.grid if self.grid is not None else self.choice

    @property
    def ends(self) -> list[Any]:
        """Both ends of a range; all values of a grid or choice."""
        return self.values or self.uniform or self.log_uniform or self.integer or []

    def holds(self, value: Any) -> bool:
        """Whether the field may have this value."""
        if self.values is not None:
            return value in self.values
        whole = self.integer is None or isinstance(value, int)
        return whole and not isinstance(value, bool) and self.ends[0] <= value <= self.ends[1]

    def draw(self, random_: random.Random) -> Any:
        """One value at random."""
        if self.values is not None:
            return random_.choice(self.values)
        low, high = self.ends
        if self.integer is not None:
            return random_.randint(low, high)
        if self.log_uniform is not None:
            return min(max(math.exp(random_.uniform(math.log(low), math.log(high))), low), high)
        return random_.uniform(low, high)


Space = Mapping[str, Domain]


def assign(space: Space, base: Mapping[str, Any], pick: Callable[[str, Domain], Any]) -> Parameters:
    """A point: ``pick`` is asked for each field whose condition holds; ``base`` has the recipe's leaves."""
    parameters: Parameters = {}
    for name, domain in space.items():
        if applies(domain, base, parameters):
            parameters[name] = pick(name, domain)
    return parameters


def combine(
    space: Space, base: Mapping[str, Any], values: Callable[[str, Domain], Sequence[Any]]
) -> Iterator[Parameters]:
    """Every combination of the values that ``values`` gives for each field, the last field varying fastest."""
    names = list(space)

    def extend(place: int, parameters: Parameters) -> Iterator[Parameters]:
        if place == len(names):
            yield parameters
            return
        name, domain = names[place], space[names[place]]
        if not applies(domain, base, parameters):
            yield from extend(place + 1, parameters)
            return
        for value in values(name, domain):
            yield from extend(place + 1, parameters | {name: value})

    return extend(0, {})


def applies(domain: Domain, base: Mapping[str, Any], parameters: Parameters) -> bool:
    """Whether the field varies beside these earlier ones."""
    recipe = {**base, **parameters}
    return all(recipe.get(name) == wanted or _among(recipe.get(name), wanted) for name, wanted in domain.when.items())


def _among(value: Any, wanted: Any) -> bool:
    return isinstance(wanted, list | tuple) and value in wanted


def grid_points(space: Space, base: Mapping[str, Any]) -> Iterator[Parameters]:
    """Every point of a space of grids and choices."""
    return combine(space, base, lambda name, domain: domain.ends)


def random_points(space: Space, base: Mapping[str, Any], seed: int) -> Iterator[Parameters]:
    """Points without end, each drawn once and then combined with every value of the grids.

    Point ``i`` depends on space, base and seed alone. Ends where nothing new comes up any more.
    """
    seen: list[Parameters] = []
    finite = all(domain.values is not None for domain in space.values())
    number, in_vain = 0, 0
    while in_vain < 1000:
        drawn = {name: domain.draw(random.Random(f"{seed}/{number}/{name}")) for name, domain in space.items()}
        number += 1
        new = [
            point
            for point in combine(space, base, lambda name, domain: domain.grid or [drawn[name]])  # noqa: B023
            if not finite or point not in seen
        ]
        in_vain = 0 if new else in_vain + 1
        if finite:
            seen += new
        yield from new


def corners(space: Space, base: Mapping[str, Any], most: int = 2000) -> Iterator[Parameters]:
    """Points with every value of each choice and both ends of each range: all combinations, or ``most`` at random."""
    if math.prod(len(domain.ends) for domain in space.values()) <= most:
        yield from combine(space, base, lambda name, domain: domain.ends)
        return
    random_ = random.Random(0)
    for _ in range(most):
        yield assign(space, base, lambda name, domain: random_.choice(domain.ends))
