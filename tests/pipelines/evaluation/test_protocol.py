"""Protocols by name, their fields, and what a wrong one is told."""

from __future__ import annotations

import pytest

from clippy.config import ConfigError
from clippy.vocabulary import prompt_templates
from pipelines.evaluation.datasets.catalogue import BENCHMARKS as READ
from pipelines.evaluation.names import BENCHMARKS, PAPER_SUITE
from pipelines.evaluation.protocol import METHODS, PROTOCOLS, Protocol, choose_protocol
from pipelines.recipe import load_recipe


def test_every_benchmark_can_be_read_and_has_prompts() -> None:
    assert BENCHMARKS.keys() <= READ.keys()
    assert set(PAPER_SUITE) <= BENCHMARKS.keys()
    for name in {asked.templates for asked in BENCHMARKS.values()} | {p.templates for p in PROTOCOLS.values()} - {None}:
        assert prompt_templates(str(name))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_method_goes_with_every_protocol(protocol: str, method: str) -> None:
    chosen = choose_protocol(protocol, "voc", method=method)
    assert chosen.model_dump().items() >= METHODS[method].items()


def test_what_is_told_comes_before_what_is_configured() -> None:
    configured = Protocol(size=448)
    assert choose_protocol(None, "voc") == PROTOCOLS["paper"]
    assert choose_protocol(None, "shapes") == PROTOCOLS["shapes"]
    assert choose_protocol(None, "voc", configured) == configured
    assert choose_protocol("paper", "voc", configured) == PROTOCOLS["paper"]
    assert choose_protocol(None, "voc", configured, overrides=["refine=true"]).refine
    assert choose_protocol("groupvit", "context60").background_threshold == 0.35


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"name": "papper"}, r"--protocol.*\n.*'papper'; there are paper, groupvit"),
        ({"method": "dino"}, r"--method.*\n.*'dino'; there are patches"),
        ({"overrides": ["sise=448"]}, "sise.*size"),
        ({"overrides": ["background=threshold"]}, "background_threshold"),
        ({"overrides": ["background=threshold", "background_threshold=95"]}, r"background_threshold.*less than 1"),
        ({"overrides": ["prompt_denoising=50"]}, r"prompt_denoising.*less than or equal to 1"),
        ({"overrides": ["key_smoothing=0"]}, r"key_smoothing.*greater than 0"),
        ({"overrides": ["both_signs=true", "groups=7"]}, r"even \(got 7\)"),
    ],
)
def test_wrong_choices_are_told(arguments: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        choose_protocol(**{"name": None, "benchmark": "voc", **arguments})  # type: ignore[arg-type]


def test_a_recipe_names_a_benchmark_and_its_protocol() -> None:
    recipe = load_recipe("shapes", ["eval.benchmark=voc", "eval.protocol.size=448"])
    assert recipe.eval.protocol == Protocol(size=448)
    with pytest.raises(ConfigError, match=r"no benchmark 'vocc'.*voc"):
        load_recipe("shapes", ["eval.benchmark=vocc"])
