"""``clippy cluster plan`` as a user meets it: a page, JSON, a picture, and one sentence for every mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.cli import main
from cluster.planning import CALIBRATION_FILE
from tests.cluster.capacity.settings import TINY

Command = Callable[..., subprocess.CompletedProcess[str]]
SMALL = ("shapes", *TINY)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder in which nobody left a calibration."""
    monkeypatch.chdir(tmp_path)


def plan(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    """What ``clippy cluster plan --json`` prints."""
    assert main(["cluster", "plan", *SMALL, *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_plan_is_one_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cluster", "plan", *SMALL, "--gpus", "16xA100-40", "--dataset", "hqitp"]) == 0
    page = capsys.readouterr().out
    assert page.startswith("shapes on 16 x A100-40 in 2 x p4d.24xlarge\n")
    for word in ("speed", "bound", "change", "memory of a worker", "decode cores", "failures", "sources", "USD"):
        assert word in page
    assert len(page.splitlines()) < 110
    assert max(map(len, page.splitlines()[6:])) <= 160


def test_options_change_what_they_say(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    plain = plan(capsys, "--gpus", "8xH100", "--dataset", "hqitp")
    assert plan(capsys, "--gpus", "8xH100", "--dataset", "hqitp") == plain
    often = plan(capsys, "--gpus", "8xH100", "--dataset", "hqitp", "--failure-hours", "80")
    assert often["checkpoints"]["hours_between_failures"] == 10
    assert often["rates"]["gpu_hours_between_failures"]["source"] == "--failure-hours"
    wider = plan(capsys, "--gpus", "8xH100", "--dataset", "hqitp", "--cpu-nodes", "2")
    assert wider["stream"]["decode_cores"] == plain["stream"]["decode_cores"] + 128
    prices = "{currency: EUR, source: ours, node_hour: {p5.48xlarge: 1}, storage_gib_month: 0, get_requests_1000: 0}"
    (tmp_path / "prices.yaml").write_text(prices)
    mine = plan(capsys, "--gpus", "8xH100", "--dataset", "hqitp", "--prices", "prices.yaml")
    assert mine["currency"] == "EUR"
    assert mine["cost"]["run"] == pytest.approx(mine["hours"])


def test_a_calibration_that_lies_here_is_used(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assumed = plan(capsys)
    rates = {"cpu_matrix_gflops": {"value": 1, "source": "measured on a slow machine"}}
    (tmp_path / CALIBRATION_FILE).write_text(json.dumps({"machine": "slow", "rates": rates}))
    measured = plan(capsys)
    assert measured["images_per_second"] < assumed["images_per_second"]
    assert measured["rates"]["cpu_matrix_gflops"]["source"] == "measured on a slow machine"


def test_a_simulation_is_drawn_and_is_the_same_again(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("cluster.capacity.forecast.GPUS", (8, 64))
    arguments = ("--gpus", "8xH100", "--dataset", "hqitp", "--seed", "3", "--simulate")
    first = plan(capsys, *arguments, "one.svg")["simulation"]
    again = plan(capsys, *arguments, "two.svg")["simulation"]
    assert [point["gpus"] for point in first["points"]] == [8, 64]
    assert first["points"] == again["points"]
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    for point in first["points"]:
        assert 0.2 * point["images_per_second"] < point["simulated"] <= 1.001 * point["images_per_second"]
        hours = list(point["hours"].values())
        assert hours == sorted(hours)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["shapez"], "did you mean 'shapes'?"),
        (["cc12m-clippy"], "--gpus: cc12m-clippy trains on GPUs; say how many of which, such as 32xH100"),
        (["cc12m-clippy", "--gpus", "32xH10"], "no figures for a GPU named 'H10'; did you mean 'H100'?"),
        (["cc12m-clippy", "--gpus", "24xH100"], "8192 is not divisible by scaling.num_workers 24; use 8184 or 8208"),
        (["cc12m-clippy", "--gpus", "32xV100-16"], "V100-16 has no matrix unit for bfloat16"),
        (["cc12m-clippy", "--gpus", "32xH100", "--dataset", "hqip"], "did you mean 'hqitp'?"),
        (["cc12m-clippy", "--gpus", "32xH100", "--cpu-nodes", "-1"], "--cpu-nodes: cannot be negative (got -1)"),
        (["cc12m-clippy", "--gpus", "32xH100", "--failure-hours", "0"], "--failure-hours: must be above 0"),
        (["cc12m-clippy", "--gpus", "32xH100", "--prices", "no.yaml"], "no.yaml: 1 problem"),
        (["cc12m-clippy", "--gpus", "32xH100", "--calibration", "no.json"], "no.json: 1 problem"),
        (["cc12m-clippy", "--gpus", "32xH100", "--simulate", "x.pdf"], "the picture's name must end in .svg or .png"),
        (["shapes", "--simulate", "x.svg"], "--simulate: is for GPUs"),
        (["shapes", "--cpu-nodes", "2"], "--cpu-nodes: machines to decode on go with GPUs"),
        (["shapes", "train.stepz=3"], "did you mean 'steps'?"),
    ],
)
def test_mistakes_are_one_sentence(capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str) -> None:
    assert main(["cluster", "plan", *arguments]) == 2
    assert sentence in capsys.readouterr().err


def test_options_are_checked_before_torch_is_imported() -> None:
    code = (
        "import sys\nfrom cluster.cli import main\n"
        "arguments = ['cluster', 'plan', 'cc12m-clippy', '--gpus', '32xH100', '--dataset', 'hqip']\n"
        "assert main(arguments) == 2\nassert not {'torch', 'ray', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True)


def test_without_matplotlib_it_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["cluster", "plan", "cc12m-clippy", "--gpus", "8xH100", "--simulate", "x.svg"]) == 2
    assert "draws with matplotlib, which is not installed" in capsys.readouterr().err


def test_what_does_not_fit_is_refused_with_what_would(capsys: pytest.CaptureFixture[str]) -> None:
    large = "model.image.arguments={patch_size: 16, embed_dim: 512, depth: 3, num_heads: 8}"
    arguments = [*SMALL, large, "model.image.image_size=448", "optim.global_batch_size=16384", "--gpus", "8xT4"]
    assert main(["cluster", "plan", *arguments]) == 2
    message = capsys.readouterr().err
    assert "pairs at once need" in message
    assert "set train.micro_batch_size=" in message
