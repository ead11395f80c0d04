"""Ray Tune told to write and print little: what a person sees of a study is the study's own."""

from __future__ import annotations

import io
import logging
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

from ray.tune.execution import class_cache

from pipelines.console import Console

_HARMLESS = "worker processes have been started on node"
"""Ray wonders that a small machine runs many processes that mostly wait."""


@contextmanager
def quiet_tune(console: Console) -> Iterator[str]:
    """A folder for what Tune insists on writing, gone afterwards; what Ray prints meanwhile goes to the console."""
    os.environ |= {
        "RAY_AIR_NEW_OUTPUT": "0",  # the new one prints tables of its own, however quiet it is told to be
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # progress is reported between validations
        "TUNE_DISABLE_SIGINT_HANDLER": "1",  # ours saves checkpoints first
        "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    }
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what failed is said by us
    # Tune would put the credentials into the environment that it has Ray make for trials, which Ray logs.
    class_cache.ENV_VARS_TO_PROPAGATE -= {name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")}
    with tempfile.TemporaryDirectory(prefix="clippy-tune-") as folder, redirect_stdout(_Prints(console)):
        yield folder


class _Prints(io.TextIOBase):
    """Standard output for what Ray prints by itself, such as that it ended a process for want of memory."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def write(self, text: str) -> int:
        """Whole lines, without their colours."""
        for line in re.sub(r"\x1b\[\d+m", "", text).splitlines():
            if line.strip() and _HARMLESS not in line:
                self._console.line(line)
        return len(text)
