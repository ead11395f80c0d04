"""A Ray cluster of several raylets on this machine, a training on it, and ways to find and kill what belongs to it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.ledger import read_ledger
from pipelines.run_folder import RunFolder
from pipelines.storage import Location, locate

TRAINER = "trainer"
"""A resource that each node for a training worker has one of."""


@dataclass
class Lab:
    """The cluster, and where data and runs lie."""

    cluster: Any
    data: Path
    runs: Path
    overrides: list[str]
    nodes: list[Any] = field(default_factory=list)
    """One for each training worker."""

    def add_node(self) -> Any:
        """A node with room for one training worker."""
        node = self.cluster.add_node(num_cpus=1, resources={TRAINER: 1})
        self.nodes.append(node)
        return node

    def remove_node(self) -> None:
        """Kill all processes of the node that was added last, as a machine that is gone."""
        self.cluster.remove_node(self.nodes.pop(), allow_graceful=False)

    def raylets(self) -> set[int]:
        """Process ids of this cluster's raylets."""
        nodes = [self.cluster.head_node, *self.nodes]
        return {info.process.pid for node in nodes for info in node.all_processes.get("raylet", [])}

    def pids(self, title: str) -> list[int]:
        """This cluster's processes of that title, such as ``ray::TrainController``, oldest first."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                command, status = (folder / "cmdline").read_bytes(), (folder / "status").read_text()
            except OSError:
                continue
            if command.startswith(title.encode()) and int(status.split("PPid:\t")[1].split()[0]) in self.raylets():
                found.append(int(folder.name))
        return sorted(found)


@contextmanager
def start_lab(scratch: Path, workers: int, overrides: list[str]) -> Iterator[Lab]:
    """A head node that decodes, and ``workers`` nodes that train."""
    from ray.cluster_utils import Cluster

    from pipelines.shapes import generate

    data = scratch / "data"
    if not data.exists():
        generate(str(data), rows=600, workers=1, row_group_rows=32, single_rows=24, multi_rows=24, camouflage_rows=24)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 3, "include_dashboard": False})
    lab = Lab(cluster, data, scratch / "runs", overrides)
    try:
        for _ in range(workers):
            lab.add_node()
        cluster.wait_for_nodes()
        yield lab
    finally:
        cluster.shutdown()


class Run:
    """``clippy train`` as a process of its own, on the lab's cluster."""

    def __init__(self, lab: Lab, name: str, *more: str, folder: Location | None = None) -> None:
        """``folder``: where it can be read from, if not from the lab's runs."""
        self.name, self.folder = name, RunFolder(folder or locate(str(lab.runs / name)))
        lab.runs.mkdir(exist_ok=True)
        self._log = lab.runs / f"{name}.log"
        self._arguments = [
            *lab.overrides,
            f"name={name}",
            f"data.url={lab.data}/train",
            f"storage.url={lab.runs}",
            f"scaling.ray_address={lab.cluster.address}",
            f"scaling.resources_per_worker={{CPU: 1, {TRAINER}: 1}}",
            "train.ledger=true",
            *more,
        ]
        self.start()

    def start(self) -> None:
        """Start it, or start it again."""
        with self._log.open("a") as log:
            command = [sys.executable, "-m", "cluster.cli", "train", "shapes", *self._arguments]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def printed(self) -> str:
        """All that it printed."""
        return self._log.read_text()

    def step(self) -> int:
        """The step that it printed last."""
        return ([0] + [int(step) for step in re.findall(r"^step (\d+)/", self.printed(), re.MULTILINE)])[-1]

    def went_on_from(self) -> list[int]:
        """The steps from which it was started again."""
        again = re.findall(r"started again on .* at step (\d+)|^resuming at step (\d+)", self.printed(), re.MULTILINE)
        return [int(one or other) for one, other in again]

    def wait_for(self, condition: Callable[[], bool], what: str, seconds: float = 240) -> None:
        """Until it is so. Raises RuntimeError, with the end of the log, if the run ends or time runs out before."""
        deadline = time.monotonic() + seconds
        while not condition():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name}: {what} did not come\n{self.printed()[-3000:]}")
            time.sleep(0.05)

    def finish(self, seconds: float = 400) -> None:
        """Wait for its good end. Raises RuntimeError with the end of the log."""
        if self.process.wait(timeout=seconds):
            raise RuntimeError(f"{self.name}: ended with {self.process.returncode}\n{self.printed()[-3000:]}")

    def kill(self) -> None:
        """As a machine that is switched off would."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def losses(self) -> dict[int, float]:
        """By step."""
        return {record["step"]: record["loss"] for record in self.folder.read_metrics()}

    def ledger(self) -> dict[int, list[str]]:
        """Keys by step, of what counts in the end."""
        return read_ledger(self.folder)
