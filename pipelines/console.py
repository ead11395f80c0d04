"""What a person sees of long work: one line that moves on a terminal, plain lines in a log. All on stderr."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from typing import TextIO


class Console:
    """Messages and progress on ``stream``; standard output stays free for results."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._live = False
        self._block_rows = 0
        self._last = 0.0

    @property
    def is_terminal(self) -> bool:
        """Whether a person watches."""
        return self._stream.isatty()

    def line(self, text: str) -> None:
        """A message that stays."""
        self.clear()
        print(text, file=self._stream, flush=True)

    def progress(self, text: str) -> None:
        """The latest state of something: replaces the last one on a terminal, is a line of its own in a log."""
        if not self.is_terminal:
            self.line(text)
            return
        width = shutil.get_terminal_size().columns  # a line that wrapped could not be taken back
        self._stream.write(f"\r\x1b[2K{text[: width - 1]}")
        self._stream.flush()
        self._live = True

    def block(self, lines: Sequence[str]) -> None:
        """Lines that replace the last block on a terminal, until something else is said; a log does without them."""
        if not self.is_terminal:
            return
        self.clear()
        size = shutil.get_terminal_size()
        shown = [line[: size.columns - 1] for line in lines[: size.lines - 1]]
        self._stream.write("".join(f"{line}\n" for line in shown))
        self._stream.flush()
        self._block_rows = len(shown)

    def count(self, what: str, done: int, total: int) -> None:
        """Progress of countable work: at once on a terminal, every five seconds and at the end in a log."""
        if self.is_terminal or done == total or time.monotonic() - self._last > 5:
            self._last = time.monotonic()
            self.progress(f"{what} {done}/{total}")

    def clear(self) -> None:
        """End the moving line; take a block back."""
        if self._block_rows:
            self._stream.write(f"\x1b[{self._block_rows}F\x1b[J")
            self._block_rows = 0
        if self._live:
            self._stream.write("\n")
            self._live = False


def duration(seconds: float) -> str:
    """'1 h 5 min', '3 min 20 s', '8 s'."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"
