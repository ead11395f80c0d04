"""Training without Ray: alone or under torchrun, the same run folder and the same numbers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.direct import main
from pipelines.ledger import read_ledger
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


def test_a_mistake_is_one_sentence(overrides: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shapes", *overrides, "scaling.use_gpu=true", "scaling.num_workers=1"]) == 2
    assert "scaling.use_gpu: torch sees no GPU here" in capsys.readouterr().err
