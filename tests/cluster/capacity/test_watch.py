"""What a run takes of the machine: its own processes and theirs, not those of others."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.capacity.watch import Usage, Watched, _Sample, count_lines, watch

BUSY = "import time; began = time.process_time()\nwhile time.process_time() - began < 0.4: pass"


def test_own_processes_count_and_others_do_not() -> None:
    command = [sys.executable, "-S", "-c", BUSY]
    with watch(os.getpid(), seconds=0.05) as ours:
        subprocess.run(command, check=True)
    other = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
    with watch(other.pid, seconds=0.05) as theirs:
        subprocess.run(command, check=True)
    other.communicate(b"\n")
    own, others = ours.during(0, time.time()), theirs.during(0, time.time())
    assert own.core_seconds >= 0.25
    assert others.core_seconds <= 0.15
    assert own.owned_seconds <= 1.1 * own.seconds * (os.cpu_count() or 1) + 0.1
    assert not ours.worker_peaks


def test_work_is_timed_while_the_count_grows(tmp_path: Path) -> None:
    samples = [(0, 0, 0, 0), (1, 1, 1, 0), (2, 2, 1, 10), (3, 3, 1, 10), (4, 4, 1.5, 20), (5, 9, 2, 30), (6, 9, 4, 30)]
    watched = Watched(samples=[_Sample(*sample) for sample in samples])
    assert watched.counted() == (20, Usage(3, 7, 1))  # neither the start nor the end of the run
    assert watched.during(4.7, 9) == Usage(1, 0, 2)
    assert Usage(3, 7, 1).alone(80.0) == pytest.approx(10.0 * (os.cpu_count() or 1))
    with pytest.raises(ValueError, match="before it could be watched"):
        Watched(samples=watched.samples[:3]).counted()
    count = count_lines(str(tmp_path / "metrics.jsonl"))
    assert count() == 0
    (tmp_path / "metrics.jsonl").write_text("{}\n{}\n{")
    assert count() == 2
