"""YAML 1.2, overrides, and errors that name field, value, source and remedy."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import Field

from clippy.config import ConfigError, Section


class Inner(Section):
    rate: float = Field(0.1, gt=0)
    names: tuple[str, ...] = ("a",)


class Outer(Section):
    title: str = "none"
    count: int = 1
    flag: bool = False
    inner: Inner = Inner()


def load(text: str, *overrides: str) -> Outer:
    return Outer.load("test.yaml", text, overrides)


def problems(text: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as error:
        load(text, *overrides)
    return error.value.problems


def test_yaml_1_2_reads_numbers_and_words_as_people_write_them() -> None:
    outer = load("title: no\ninner: {rate: 1e-3, names: [yes, off]}")
    assert outer.title == "no"
    assert outer.inner == Inner(rate=0.001, names=("yes", "off"))


def test_override_wins_and_is_parsed_like_the_file() -> None:
    assert load("inner: {rate: 1}", "inner.rate=2e-3", "flag=true").inner.rate == 0.002
    assert load("{}", "title=s3://bucket/a").title == "s3://bucket/a"
    assert load("{}", "title=[not yaml").title == "[not yaml"


def test_every_problem_is_listed_with_its_source() -> None:
    found = problems("count: many\ninner: {rate: -1}", "titel=x", "flag=1")
    assert found == [
        'count (from the file): must be a whole number (got "many")',
        "flag (from the command line): must be true or false (got 1)",
        "inner.rate (from the file): must be greater than 0 (got -1)",
        "titel (from the command line): no such field; did you mean 'title'?",
    ]


@pytest.mark.parametrize(
    ("text", "overrides", "expected"),
    [
        ("count: 1\ncount: 2", [], 'found duplicate key "count" on line 2: keep one of the two'),
        ("[1, 2]", [], "must be a mapping of sections, got [1, 2]"),
        ("count: [1", [], "not valid YAML"),
        ("{}", ["count"], "count: must have the form section.field=value"),
        ("title: a", ["title.x=1"], "title.x=1: title is a value, not a section"),
        ("count: 1.5", [], "count (from the file): must be a whole number (got 1.5)"),
        ("inner: {rate: .inf}", [], "inner.rate"),
    ],
)
def test_mistakes_are_one_clear_line(text: str, overrides: list[str], expected: str) -> None:
    assert any(expected in problem for problem in problems(text, *overrides))


@example(Outer(title="a\x85b"))
@example(Outer(title="\x85"))
@example(Outer(title="\u2028 \ufeff\n x"))
@given(st.builds(Outer, title=st.text(), count=st.integers(-(10**9), 10**9), flag=st.booleans()))
def test_yaml_round_trip(outer: Outer) -> None:
    assert load(outer.to_yaml()) == outer


@given(st.floats(min_value=1e-300, max_value=1e300, allow_nan=False))
def test_numbers_survive_the_round_trip(rate: float) -> None:
    assert load(Outer(inner=Inner(rate=rate)).to_yaml()).inner.rate == rate
