"""A Ray that is started here leaves nothing behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SESSION = """
import os, psutil, ray
from pipelines.local_ray import ray_session
from pipelines.sections import ScalingConfig

shutdown, ray.shutdown = ray.shutdown, lambda: None  # now and then it does not end all that Ray started
with ray_session(ScalingConfig()):
    worker = psutil.Process(ray.get(ray.remote(lambda: os.getpid()).remote()))
ended, left = psutil.wait_procs([worker], timeout=10)
shutdown()
assert not left, left
"""


@pytest.mark.ray
def test_a_worker_that_ray_does_not_end_is_ended() -> None:
    repository = Path(__file__).parents[2]
    told = subprocess.run(
        [sys.executable, "-c", SESSION], cwd=repository, stderr=subprocess.PIPE, text=True, timeout=120, check=False
    )
    assert told.returncode == 0, told.stderr
