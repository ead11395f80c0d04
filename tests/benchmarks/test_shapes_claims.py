"""The study of the paper's claims: verdicts from numbers, what is compared with what, and no run done twice."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import shapes_claims
from shapes_arms import ARMS, DEFAULT_GROUPS, GROUPS, Settings, Study
from shapes_claims import CRITERIA, main, planned, run_missing
from shapes_verdicts import FAILS, HOLDS, MISSING, UNCLEAR, Criterion, Spread, judge, spreads, summarise, table

from clippy.model import CLIPpy
from clippy.tokens import build_tokenizer
from pipelines.console import Console


def criterion(sense: str = ">=", threshold: float = 0.2, claim: str = "C") -> Criterion:
    return Criterion(claim, "a - b", lambda seed: seed["a"]["miou"] - seed["b"]["miou"], sense, threshold)


def seeds(*differences: float) -> dict[int, dict[str, dict[str, float]]]:
    return {i: {"a": {"miou": value}, "b": {"miou": 0.0}} for i, value in enumerate(differences)}


def test_mean_and_spread_over_seeds() -> None:
    spread = Spread((1.0, 2.0, 3.0))
    assert (spread.mean, spread.deviation) == (2.0, 1.0)
    assert spread.error == pytest.approx(1 / math.sqrt(3))
    assert str(spread) == "2.000 ±1.000"
    assert str(Spread((0.5,))) == "0.500"
    assert math.isnan(Spread((0.5,)).deviation)
    found = spreads({0: {"miou": 0.1, "steps": 4.0}, 1: {"miou": 0.3}})
    assert found["miou"].mean == pytest.approx(0.2)
    assert found["steps"].values == (4.0,)


@pytest.mark.parametrize(
    ("differences", "sense", "outcome"),
    [
        ((0.30, 0.31, 0.29), ">=", HOLDS),
        ((0.10, 0.11, 0.09), ">=", FAILS),
        ((0.10, 0.40, 0.16), ">=", UNCLEAR),  # mean 0.22, error 0.09
        ((0.2, 0.2, 0.2), ">=", HOLDS),  # a tie without spread is on the right side
        ((0.10, 0.11, 0.09), "<=", HOLDS),
        ((0.30, 0.31, 0.29), "<=", FAILS),
        ((0.9, 0.9), ">=", f"{MISSING}: 2 of 3 seeds"),
        ((), ">=", MISSING),
    ],
)
def test_a_claim_is_judged_by_its_threshold_and_its_spread(
    differences: tuple[float, ...], sense: str, outcome: str
) -> None:
    assert judge(criterion(sense), seeds(*differences)).outcome == outcome


def test_a_seed_that_lacks_an_arm_is_not_counted() -> None:
    of_seed = seeds(0.5, 0.5, 0.5, 0.5)
    del of_seed[0]["b"]
    verdict = judge(criterion(), of_seed)
    assert verdict.outcome == HOLDS
    assert verdict.spread == Spread((0.5, 0.5, 0.5))
    del of_seed[1]["a"]
    assert judge(criterion(), of_seed).outcome == f"{MISSING}: 2 of 3 seeds"


@given(st.lists(st.floats(-1, 1), min_size=3, max_size=5), st.floats(-1, 1))
def test_at_least_and_at_most_are_mirror_images(differences: list[float], threshold: float) -> None:
    upward = judge(criterion(">=", threshold), seeds(*differences)).outcome
    assert upward == judge(criterion("<=", -threshold), seeds(*(-value for value in differences))).outcome


def test_a_claim_holds_if_all_its_parts_do() -> None:
    judged = {value: judge(criterion(claim="C"), seeds(*[value] * 3)) for value in (0.5, 0.1)}
    unclear = judge(criterion(), seeds(0.1, 0.4, 0.16))
    missing = judge(criterion(), {})
    assert summarise([judged[0.5], judged[0.5]]) == {"C": HOLDS}
    assert summarise([judged[0.5], unclear]) == {"C": UNCLEAR}
    assert summarise([unclear, missing]) == {"C": MISSING}
    assert summarise([judged[0.5], missing, judged[0.1]]) == {"C": FAILS}


class Recorded(Mapping[str, "Recorded | float"]):
    """Numbers that remember which of them were asked for."""

    def __init__(self, asked: set[tuple[str, ...]], path: tuple[str, ...] = ()) -> None:
        self._asked, self._path = asked, path

    def __getitem__(self, name: str) -> Recorded | float:
        path = (*self._path, name)
        if len(path) == 1:
            return Recorded(self._asked, path)
        self._asked.add(path)
        return 0.5

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


@pytest.mark.parametrize("index", range(len(CRITERIA)))
def test_each_criterion_compares_arms_that_its_group_trains(index: int) -> None:
    asked: set[tuple[str, ...]] = set()
    CRITERIA[index].value(Recorded(asked))  # type: ignore[arg-type]
    before = DEFAULT_GROUPS.index(CRITERIA[index].claim.split()[0])
    trained = {arm for group in DEFAULT_GROUPS[: before + 1] for arm in GROUPS[group]}
    assert {arm for arm, _ in asked} <= trained | {"all background"}
    assert len(asked) in (1, 2, 3, 6)


def test_every_arm_belongs_to_a_group_and_every_group_has_arms() -> None:
    assert {arm for arms in GROUPS.values() for arm in arms} == set(ARMS)
    assert shapes_claims.COLUMNS.keys() <= GROUPS.keys()


def test_runs_are_planned_once_and_by_seed() -> None:
    assert planned(["C1", "text"], range(2)) == [
        ("max", 0),
        ("mean", 0),
        ("cls", 0),
        ("max", 1),
        ("mean", 1),
        ("cls", 1),
        *((arm, seed) for seed in (0, 1) for arm in GROUPS["text"][1:]),
    ]


def written(folder: Path, arm: str, seed: int, **numbers: float) -> None:
    """The file of a run that is done."""
    file = Study(folder, Settings()).numbers_file(arm, seed)
    file.parent.mkdir(parents=True, exist_ok=True)
    facts = {"arm": arm, "seed": seed, "steps": 400, "processor_seconds": 8.0}
    trivial = {"all_background": {"miou": 0.26}, "chance": {"accuracy": 1 / 12}}
    file.write_text(json.dumps({**facts, "numbers": numbers, "trivial": trivial}))


@pytest.fixture
def pooling_runs(tmp_path: Path) -> Path:
    """Nine runs that show the paper's pattern, but for a mean pooling whose accuracy is far off."""
    for seed in range(3):
        written(tmp_path, "max", seed, miou=0.50 + seed / 100, accuracy=0.75)
        written(tmp_path, "mean", seed, miou=0.10, accuracy=0.60)
        written(tmp_path, "cls", seed, miou=0.05, accuracy=0.74)
    return tmp_path


def test_the_report_says_what_was_measured(pooling_runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--report", "--out", str(pooling_runs), "--only", "C1,C3"]
    assert main([*arguments, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["claims"] == {"C1": FAILS, "C3": MISSING}
    outcomes = {verdict["says"]: verdict["outcome"] for verdict in result["verdicts"]}
    assert outcomes["mIoU, max - mean"] == outcomes["mIoU, max - all pixels the true ground"] == HOLDS
    assert outcomes["accuracy, max and mean apart"] == FAILS
    assert outcomes["accuracy, max and cls apart"] == HOLDS
    assert result["groups"]["C1"]["max"]["miou"] == [0.50, 0.51, 0.52]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "0.510 ±0.010" in text
    assert "C1: does not hold" in text
    assert "all background" in text


def test_runs_that_are_done_are_not_run_again(pooling_runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(pooling_runs), "--only", "C1"]) == 0
    assert "9 runs, 9 of them done" in capsys.readouterr().err
    assert not (pooling_runs / "data").exists()


def test_a_folder_holds_results_of_one_setting(pooling_runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(pooling_runs), "--quick"]) == 2
    error = capsys.readouterr().err
    assert "holds results with steps 400, not 20" in error
    assert "--out" in error


def test_a_table_leaves_out_rows_without_its_numbers() -> None:
    lines = table("C1", ["miou"], {"max": {"miou": Spread((0.5,))}, "chance": {"accuracy": Spread((0.1,))}})
    assert [line.split() for line in lines] == [["C1", "miou"], ["max", "0.500"]]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Of runs of seconds."""
    settings = Settings(4, 16, 32, single_rows=8, multi_rows=8, camouflage_rows=8, dino_steps=2, supervised_steps=1)
    return Study(tmp_path_factory.mktemp("study"), settings)


def test_arms_of_a_seed_start_alike_and_differ_in_one_thing(study: Study) -> None:
    recipes = {arm: study.recipe(arm, seed=1) for arm in GROUPS["C1"]}
    assert recipes["max"].differences(recipes["cls"]) == [
        "name: 'max-seed-1' -> 'cls-seed-1'",
        "model.image.pooling: 'max' -> 'cls'",
    ]
    states = []
    for arm in GROUPS["C1"]:
        torch.manual_seed(recipes[arm].seed)
        model = recipes[arm].model
        states.append(CLIPpy(model, build_tokenizer(model.text, ["a dax", "a wug"])).state_dict())
    assert all(torch.equal(states[0][name], state[name]) for state in states[1:] for name in states[0])


def test_a_run_from_its_start_to_its_numbers(
    study: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shapes_numbers.PROBE_PATCHES", 1024)
    run_missing(study, [("max dino", 0)], sys.stderr)
    assert "1 runs, 0 of them done" in capsys.readouterr().err
    found = study.results("max dino", range(2))[0]
    assert found["steps"] == 4
    assert found["processor_seconds"] > 0
    assert found["numbers"].keys() >= {
        "accuracy",
        "miou",
        "maskclip_things",
        "probe_stuff",
        "pooled_gap",
        "patches_own",
    }
    assert found["trivial"]["chance"]["accuracy"] == pytest.approx(1 / 12)
    assert study.make_start("dino", 0, Console())["steps"] == 2  # it lies there
    assert study.recipe("max dino", 0).model.image.pretrained == str(study.start_folder("dino", 0))
    run_missing(study, [("max dino", 0)], sys.stderr)
    assert capsys.readouterr().err.strip() == f"{study.folder}: 1 runs, 1 of them done"
