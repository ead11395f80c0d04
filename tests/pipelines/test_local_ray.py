"""A Ray that is started here leaves nothing behind, and a cluster that is connected to keeps what it has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = """
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
CLUSTER = """
import os, psutil, ray
from ray.cluster_utils import Cluster
from pipelines.local_ray import ray_session
from pipelines.sections import ScalingConfig

class Detached:
    def pid(self):
        return os.getpid()

cluster = Cluster(initialize_head=True)
with ray_session(ScalingConfig(ray_address=cluster.address)):
    actor = ray.remote(num_cpus=0)(Detached).options(name="stays", lifetime="detached").remote()
    worker = psutil.Process(ray.get(actor.pid.remote()))
ended, left = psutil.wait_procs([worker], timeout=2)
cluster.shutdown()
assert left, "it was the cluster's"
"""


@pytest.mark.ray
@pytest.mark.parametrize("session", [HERE, CLUSTER], ids=["a_ray_started_here_is_ended", "a_clusters_is_left_alone"])
def test_workers_that_outlive_a_session(session: str) -> None:
    repository = Path(__file__).parents[2]
    told = subprocess.run(
        [sys.executable, "-c", session], cwd=repository, stderr=subprocess.PIPE, text=True, timeout=120, check=False
    )
    assert told.returncode == 0, told.stderr
