"""``clippy model``: importing the published layout and describing a model, and one sentence for every mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.clippy.test_released import SMALL, Parts
from tests.cluster.test_cli import Command


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("published") / "clippy_5k.pt"
    torch.save({"epoch": 4, "state_dict": Parts(SMALL).state()}, file)
    return file


def test_an_imported_checkpoint_is_a_model_folder(clippy_command: Command, checkpoint: Path, tmp_path: Path) -> None:
    dest = tmp_path / "models" / "clippy"
    made = clippy_command("model", "import", str(checkpoint), str(dest), "--tokenizer", "bytes", "--json")
    assert made.returncode == 0, made.stderr
    assert sorted(path.name for path in dest.parent.iterdir()) == ["clippy"]
    info = clippy_command("model", "info", str(dest), "--json")
    described = json.loads(info.stdout)
    assert {k: v for k, v in json.loads(made.stdout).items() if k != "model"} == {
        k: v for k, v in described.items() if k != "model"
    }
    assert described["image pooling"] == "max_with_cls"
    assert described["parameters"] == described["image parameters"] + described["text parameters"] + 1
    assert "image pooling" in clippy_command("model", "info", str(dest)).stdout


def test_mistakes_are_one_sentence_and_leave_nothing(clippy_command: Command, checkpoint: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pt"
    torch.save({"conv1.weight": torch.ones(2)}, other)
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"PK nonsense")
    dest = tmp_path / "dest"
    for source, more, sentence in (
        (str(other), (), "not of the published CLIPpy's layout"),
        (str(broken), (), "broken.pt"),
        ("mistyped.pt", (), "SOURCE: mistyped.pt: there is no such file"),  # the hub is not asked
        (str(checkpoint), ("--tokenizer", str(tmp_path / "none")), "model.text.tokenizer"),
    ):
        result = clippy_command("model", "import", source, str(dest), *more)
        assert (result.returncode, result.stdout) == (2, "")
        assert sentence in result.stderr
        assert "Traceback" not in result.stderr
        assert not dest.exists()
    dest.mkdir()
    result = clippy_command("model", "import", str(checkpoint), str(dest), "--tokenizer", "bytes")
    assert result.returncode == 2
    assert "exists already" in result.stderr
    assert clippy_command("model", "info", str(tmp_path)).returncode == 2
