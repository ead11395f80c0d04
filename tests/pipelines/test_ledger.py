"""The ledger tells what the weights have seen: steps that were taken back and done again count once."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.ledger import LedgerFile, read_ledger
from pipelines.run_folder import RunFolder
from pipelines.storage import locate


def test_an_attempt_takes_back_the_steps_after_its_start(tmp_path: Path) -> None:
    folder = RunFolder(locate(str(tmp_path)))
    for rank in (0, 1):
        first = LedgerFile(folder, attempt=1, start=0, rank=rank)
        for step in range(1, 8):
            first.add(step, [f"{step}-{rank}"])
            if step in (4, 7):
                first.flush()
    again = LedgerFile(folder, attempt=2, start=5, rank=0)  # one worker is left, and takes both parts
    for step in (6, 7, 8):
        again.add(step, [f"{step}-0", f"{step}-1"])
    again.flush()
    again.flush()  # with nothing new
    expected = {step: [f"{step}-0", f"{step}-1"] for step in range(1, 9)}
    assert {step: sorted(keys) for step, keys in read_ledger(folder).items()} == expected


def test_what_could_not_be_written_is_written_later(tmp_path: Path) -> None:
    blocked = tmp_path / "ledger"
    blocked.write_text("a file where the folder should be")
    ledger = LedgerFile(RunFolder(locate(str(tmp_path))), attempt=1, start=0, rank=0)
    ledger.add(1, ["a"])
    with pytest.raises(OSError, match="ledger"):
        ledger.flush()
    blocked.unlink()
    ledger.add(2, ["b"])
    ledger.flush()
    assert read_ledger(RunFolder(locate(str(tmp_path)))) == {1: ["a"], 2: ["b"]}
