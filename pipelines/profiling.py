"""A trace of torch's profiler for a few steps of a run."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from pipelines.run_folder import RunFolder

PROFILE = "profile"


class StepProfiler:
    """Traces the steps ``first`` to ``last``; open the file in Perfetto or ``chrome://tracing``."""

    def __init__(self, folder: RunFolder, steps: tuple[int, int]) -> None:
        self._first, self._last = steps
        self._file = folder.location / PROFILE / f"steps-{self._first}-{self._last}.json.gz"
        self._running: profile | None = None

    def begin(self, step: int) -> str | None:
        """A step begins; the URL of the trace once it is written."""
        if step == self._first:
            kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
            self._running = profile(activities=kinds)
            self._running.start()
        return self.end() if step > self._last else None

    def end(self) -> str | None:
        """Write what was traced, if anything."""
        if self._running is None:
            return None
        self._running.stop()
        with tempfile.TemporaryDirectory(prefix="profile-") as folder:
            trace = Path(folder) / "trace.json.gz"
            self._running.export_chrome_trace(str(trace))
            self._file.write_bytes(trace.read_bytes())
        self._running = None
        return self._file.url
