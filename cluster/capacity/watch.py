"""What a run takes of this machine, and what others leave it, from ``/proc``; on Linux alone."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread

_TICKS = os.sysconf("SC_CLK_TCK")
_WORKER = b"ray::RayTrainWorker"


@dataclass
class Usage:
    """Of the processes below one, while they were watched."""

    seconds: float = 0.0
    core_seconds: float = 0.0
    """That they computed."""
    idle_seconds: float = 0.0
    """Core seconds in which nobody did."""
    worker_peaks: dict[int, int] = field(default_factory=dict)
    """Most resident memory of each of Ray Train's workers, by process id."""

    @property
    def cores_left(self) -> float:
        """Cores that others left: those that the run used, and those that nobody did."""
        return (self.core_seconds + self.idle_seconds) / max(self.seconds, 1e-9)

    def alone(self, speed: float) -> float:
        """What a speed that was measured meanwhile would be on a machine without others."""
        return speed * (os.cpu_count() or 1) / self.cores_left


@contextmanager
def watch_usage(root: int, seconds: float = 0.25) -> Iterator[Usage]:
    """Watch process ``root`` and all that it starts while the block runs."""
    usage, done, watcher = Usage(), Event(), _Watcher(root)

    def watch() -> None:
        while not done.wait(seconds):
            watcher.look(usage)

    thread = Thread(target=watch, daemon=True, name="usage")
    watcher.look(usage)
    thread.start()
    try:
        yield usage
    finally:
        done.set()
        thread.join()
        watcher.look(usage)


class _Watcher:
    """Adds up what the processes of a family did since it looked first."""

    def __init__(self, root: int) -> None:
        self._family = {root}
        self._started, self._idle = time.monotonic(), _idle_seconds()
        self._first: dict[int, float] = {pid: spent for pid, (_, spent) in _processes().items()}
        self._last: dict[int, float] = {}

    def look(self, usage: Usage) -> None:
        """Bring the usage up to now."""
        processes = _processes()
        grown = True
        while grown:  # parents may be listed after their children
            born = {pid for pid, (parent, _) in processes.items() if parent in self._family} - self._family
            self._family |= born
            grown = bool(born)
        for pid in self._family & processes.keys():
            self._last[pid] = processes[pid][1]
            if (peak := _worker_peak(pid)) is not None:
                usage.worker_peaks[pid] = peak
        usage.core_seconds = sum(spent - self._first.get(pid, 0.0) for pid, spent in self._last.items())
        usage.idle_seconds = _idle_seconds() - self._idle
        usage.seconds = time.monotonic() - self._started


def _processes() -> dict[int, tuple[int, float]]:
    """Parent and core seconds of every process."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        found[int(folder.name)] = int(fields[1]), (int(fields[11]) + int(fields[12])) / _TICKS
    return found


def _idle_seconds() -> float:
    """Of all cores since the machine started."""
    fields = Path("/proc/stat").read_text().partition("\n")[0].split()
    return (int(fields[4]) + int(fields[5])) / _TICKS


def _worker_peak(pid: int) -> int | None:
    try:
        if not Path(f"/proc/{pid}/cmdline").read_bytes().startswith(_WORKER):
            return None
        return 1024 * int(Path(f"/proc/{pid}/status").read_text().split("VmHWM:")[1].split()[0])
    except (OSError, IndexError):  # it ended meanwhile
        return None
