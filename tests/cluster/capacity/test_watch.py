"""What a run takes of the machine: its own processes and theirs, not those of others."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from cluster.capacity.watch import watch_usage

BUSY = "import time; began = time.process_time()\nwhile time.process_time() - began < 0.4: pass"


def test_own_processes_count_and_others_do_not() -> None:
    command = [sys.executable, "-S", "-c", BUSY]
    with watch_usage(os.getpid(), seconds=0.05) as ours:
        subprocess.run(command, check=True)
    other = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
    with watch_usage(other.pid, seconds=0.05) as theirs:
        subprocess.run(command, check=True)
        other.communicate(b"\n")
    assert ours.core_seconds >= 0.3
    assert theirs.core_seconds <= 0.15
    for usage in ours, theirs:
        assert usage.core_seconds + usage.idle_seconds <= 1.1 * usage.seconds * (os.cpu_count() or 1)
        assert not usage.worker_peaks


def test_a_speed_is_scaled_to_the_whole_machine() -> None:
    with watch_usage(os.getpid()) as usage:
        pass
    usage.seconds, usage.core_seconds, usage.idle_seconds = 10.0, 6.0, 4.0
    assert usage.cores_left == 1.0
    assert usage.alone(100.0) == pytest.approx(100.0 * (os.cpu_count() or 1))
