"""What the tests of ``clippy cluster render`` share: recipes that clusters can run, and the command."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any

Command = Callable[..., subprocess.CompletedProcess[str]]

PLACES = ("data.url=s3://bucket/pairs", "storage.url=s3://bucket/runs", "tracking.uri=https://mlflow.example")
ON_CPUS = ("--recipe", "shapes", *PLACES)
ON_GPUS = ("--recipe", "hqitp-clippy", *PLACES)
ELASTIC = (*ON_GPUS, "scaling.num_workers=[8, 32]", "scaling.decode_cores=900")
QUEUED = (
    *(*ELASTIC, "cluster.name=queued", "cluster.queue=team", "cluster.namespace=training"),
    "cluster.secrets={AWS_ACCESS_KEY_ID: s3/access-key, AWS_SECRET_ACCESS_KEY: s3/secret-key}",
    "cluster.environment={AWS_ENDPOINT_URL: 'https://minio.example:9000', SWITCH: 'on', RATE: '1e-3', NUMBER: '010'}",
    *("cluster.token_secret=token", "cluster.image_pull_secret=registry", "cluster.image=registry.example:5000/clippy"),
    "cluster.volumes=[{claim: shared, path: /mnt/shared}]",
    "cluster.job={ttl_seconds: 60, retries: 0, deadline_hours: 1.5}",
)
OWN_NODES = (
    *(*ON_GPUS, "cluster.service_account=trainer", "cluster.training.gpu=A100-80", "cluster.training.gpus_per_node=4"),
    "cluster.training.node_selector={nvidia.com/gpu.product: NVIDIA-A100-SXM4-80GB}",
    "cluster.decode={min_nodes: 2, max_nodes: 6, cpus: 30, memory_gib: 100.5}",
    "cluster.decode.tolerations=[{key: spot, operator: Equal, value: 'true', effect: NoSchedule}]",
)


def render(command: Command, *arguments: str) -> tuple[str, list[dict[str, Any]]]:
    """What ``clippy cluster render`` writes, as text and, by ``--json``, as values; each command is run once."""
    if arguments not in _RENDERED:
        written = command("cluster", "render", *arguments)
        assert written.returncode == 0, written.stderr
        _RENDERED[arguments] = written.stdout, command("cluster", "render", *arguments, "--json").stdout
    text, values = _RENDERED[arguments]
    return text, json.loads(values)["manifests"]


_RENDERED: dict[tuple[str, ...], tuple[str, str]] = {}
