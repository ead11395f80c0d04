"""What a run takes of this machine, and what others leave it, from ``/proc``; on Linux alone."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread

_TICKS = os.sysconf("SC_CLK_TCK")
_WORKER = b"ray::RayTrainWorker"


@dataclass(frozen=True)
class Usage:
    """Of the processes of a run, over some time."""

    seconds: float
    core_seconds: float
    """That they computed."""
    idle_seconds: float
    """Core seconds in which nobody did."""

    @property
    def owned_seconds(self) -> float:
        """Core seconds that others left to the run: those it used, and those that nobody did."""
        return self.core_seconds + self.idle_seconds

    def alone(self, amount: float) -> float:
        """So much work done meanwhile as work a second of a machine without others."""
        return amount * (os.cpu_count() or 1) / max(self.owned_seconds, 1e-9)


@dataclass(frozen=True)
class _Sample:
    time: float
    core_seconds: float
    idle_seconds: float
    count: int


@dataclass
class Watched:
    """What was seen of a run."""

    worker_peaks: dict[int, int] = field(default_factory=dict)
    """Most resident memory of each of Ray Train's workers, by process id."""
    samples: list[_Sample] = field(default_factory=list)

    def during(self, start: float, end: float) -> Usage:
        """Between two times in seconds since the epoch, to the nearest samples."""
        nearest = [min(self.samples, key=lambda sample: abs(sample.time - moment)) for moment in (start, end)]
        return self._between(*nearest)

    def counted(self) -> tuple[int, Usage]:
        """How far the count went from when it first was above zero until it was at its highest, and the usage then.

        Raises ValueError where it did not go on.
        """
        most = self.samples[-1].count
        start = next((sample for sample in self.samples if sample.count > 0), self.samples[-1])
        end = next(sample for sample in self.samples if sample.count == most)
        if end.count <= start.count:
            raise ValueError("the run was over before it could be watched")
        return end.count - start.count, self._between(start, end)

    @staticmethod
    def _between(start: _Sample, end: _Sample) -> Usage:
        return Usage(
            end.time - start.time, end.core_seconds - start.core_seconds, end.idle_seconds - start.idle_seconds
        )


@contextmanager
def watch(root: int, count: Callable[[], int] = lambda: 0, seconds: float = 0.25) -> Iterator[Watched]:
    """Watch process ``root`` and all that it starts while the block runs, and a number that grows with their work."""
    watched, done, family = Watched(), Event(), _Family(root)

    def look() -> None:
        family.look(watched, count())
        while not done.wait(seconds):
            family.look(watched, count())

    thread = Thread(target=look, daemon=True, name="watch")
    thread.start()
    try:
        yield watched
    finally:
        done.set()
        thread.join()
        family.look(watched, count())


def count_lines(file: str) -> Callable[[], int]:
    """Counts the lines of a file that may not be there yet."""

    def count() -> int:
        try:
            return Path(file).read_bytes().count(b"\n")
        except OSError:
            return 0

    return count


class _Family:
    """A process and its descendants, and what each had computed when it was seen last."""

    def __init__(self, root: int) -> None:
        self._members = {root}
        self._spent: dict[int, float] = {}

    def look(self, watched: Watched, count: int) -> None:
        """Add a sample."""
        processes = _processes()
        grown = True
        while grown:  # parents may be listed after their children
            born = {pid for pid, (parent, _) in processes.items() if parent in self._members} - self._members
            self._members |= born
            grown = bool(born)
        for pid in self._members & processes.keys():
            self._spent[pid] = processes[pid][1]
            if (peak := _worker_peak(pid)) is not None:
                watched.worker_peaks[pid] = peak
        watched.samples.append(_Sample(time.time(), sum(self._spent.values()), _idle_seconds(), count))


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
