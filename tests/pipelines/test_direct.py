"""Training without Ray: alone or under torchrun, the same run folder and the same numbers."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import pipelines.direct
from clippy.config import ConfigError
from pipelines.console import Console
from pipelines.ledger import read_ledger
from pipelines.prepare import prepare
from pipelines.recipe import load_recipe
from pipelines.run_folder import RunFolder
from pipelines.storage import locate
from tests.pipelines.conftest import Run
from tests.pipelines.test_train import losses

pytestmark = pytest.mark.ray

_WITHOUT_RAY = """
import sys
sys.modules["ray"] = sys.modules["mlflow"] = None  # as where they are not installed
from pipelines.direct import main
sys.exit(main(sys.argv[1:]))
"""


def direct(*overrides: str, processes: int = 1) -> subprocess.CompletedProcess[str]:
    torchrun = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={processes}",
        "-m",
        "pipelines.direct",
    ]
    command = ["-c", _WITHOUT_RAY] if processes == 1 else torchrun
    return subprocess.run([sys.executable, *command, "shapes", *overrides], capture_output=True, text=True, timeout=300)


def test_without_ray_the_numbers_are_the_same(undisturbed: Run, tmp_path: Path) -> None:
    """Two processes train as Ray's two workers do, and as one process does on the same pairs."""
    whole, overrides = undisturbed
    folders = {}
    for processes in (1, 2):
        mine = [f"storage.url={tmp_path}/{processes}", "train.micro_batch_size=16", "train.profile_steps=[3, 4]"]
        result = direct(*overrides, *mine, processes=processes)
        assert result.returncode == 0, result.stderr
        assert "step 30/30" in result.stderr
        folders[processes] = tmp_path / str(processes) / "shapes"
    assert losses(folders[2]) == losses(whole)  # to the bit
    assert losses(folders[1]) == pytest.approx(losses(whole), rel=1e-5)
    ledgers = [read_ledger(RunFolder(locate(str(folder)))) for folder in (whole, *folders.values())]
    expected, *found = ({step: sorted(keys) for step, keys in ledger.items()} for ledger in ledgers)
    assert found == [expected, expected]
    for folder in folders.values():
        assert (folder / "checkpoints" / "step-00000030" / "state.json").exists()
        assert (folder / "profile" / "steps-3-4.json.gz").stat().st_size > 1000


def test_no_more_is_decoded_ahead_than_a_batch_and_the_units_that_the_recipe_says(
    overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = ["scaling.num_workers=1", "train.micro_batch_size=2", "data.prefetch_batches=3"]
    job = prepare(load_recipe("shapes", [*overrides, *mine]), Console())
    layout, wanted = job.layout(1), list[int]()
    decode = pipelines.direct._unit
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    monkeypatch.setattr(pipelines.direct, "_unit", lambda job, unit: wanted.append(unit) or decode(job, unit))
    batches = pipelines.direct.direct_batches(job, layout, 0, 0)
    assert next(batches).units == layout.units(0, 0)
    deadline = time.monotonic() + 10
    while len(wanted) < 2 * 16 + 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(wanted) == 2 * 16 + 2  # this batch, the next, and three units but for the one to be asked for next
    batches.close()


def test_more_processes_than_the_batch_can_be_shared_by_are_refused_in_one_sentence(
    overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ConfigError, match=r"^3 processes of torchrun: 1 problem\n  optim.global_batch_size: 32 is not"):
        pipelines.direct.run_direct(load_recipe("shapes", overrides), Console())


def test_a_mistake_is_one_sentence(overrides: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert pipelines.direct.main(["shapes", *overrides, "scaling.use_gpu=true", "scaling.num_workers=1"]) == 2
    assert "scaling.use_gpu: torch sees no GPU here" in capsys.readouterr().err
