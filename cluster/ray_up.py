"""A cluster of machines for ``ray up``, on AWS or Google Cloud: Ray starts them, and starts itself in a container."""

from __future__ import annotations

from shlex import quote
from typing import Any, Literal

from cluster.node_groups import NodeGroup, NodeGroups
from cluster.spec import ClusterSpec
from pipelines.recipe import Recipe

Cloud = Literal["aws", "gcp"]
Config = dict[str, Any]

_REGIONS = {"aws": "us-west-2", "gcp": "us-central1"}
_FIRST_ZONES = {"aws": ("a", "b"), "gcp": ("-a",)}
_TOKEN = "/home/ray/.ray/auth_token"
"""In the container."""
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_CLIENTS = {"aws": "boto3", "gcp": "google-api-python-client"}
"""What Ray's autoscaler calls the cloud with; its images have it."""
_START = "ulimit -n 65536; export RAY_USAGE_STATS_ENABLED=0; ray start"
_HEAD_START = f"{_START} --head --port=6379 --autoscaling-config=~/ray_bootstrap_config.yaml --dashboard-host=127.0.0.1"
_WORKER_START = f"{_START} --address=$RAY_HEAD_IP:6379"


def ray_up(recipe: Recipe, spec: ClusterSpec, groups: NodeGroups, cloud: Cloud) -> Config:
    """The configuration of ``ray up``. Raises ValueError for fields of the spec that machines cannot have."""
    _check(spec, cloud)
    return {
        "cluster_name": spec.name_for(recipe.name),
        "max_workers": sum(group.max_nodes for group in groups.workers),
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": spec.autoscaler.idle_seconds / 60,
        "provider": _provider(spec, cloud),
        "auth": {"ssh_user": spec.cloud.ssh_user},
        "docker": {
            "image": spec.tagged_image,
            "container_name": "ray",
            "pull_before_run": True,
            "run_options": ["--ulimit nofile=65536:65536", *_environment(spec)],
        },
        "head_node_type": groups.head.name,
        "available_node_types": {group.name: _node_type(spec, group, cloud) for group in groups.all},
        "file_mounts": {_TOKEN: spec.cloud.token_file},
        "initialization_commands": [],
        "setup_commands": [],
        "head_setup_commands": [f"python -m pip show --quiet {_CLIENTS[cloud]} || pip install {_CLIENTS[cloud]}"],
        "worker_setup_commands": [],
        "head_start_ray_commands": [
            "ray stop",
            f"{_HEAD_START} --object-store-memory={groups.head.object_store_bytes}",
        ],
        "worker_start_ray_commands": ["ray stop", _WORKER_START],
    }


def heading(recipe: Recipe, spec: ClusterSpec, cloud: Cloud, file: str) -> list[str]:
    """How to use the file."""
    account = (
        f"The workers use the object store as {spec.service_account}, the head by the account that Ray gives it."
        if spec.service_account
        else "The workers have no account for the object store: cluster.service_account gives them one."
    )
    image = ["Ray's own machine image may have a driver too old for torch: cluster.cloud.machine_image names another."]
    return [
        f"A cluster for {recipe.name}, started by ray up on {cloud}.",
        "Written by clippy cluster render ray-up: change the spec and render again.",
        account,
        *([] if spec.cloud.machine_image else image),
        "",
        f"docker build -t {spec.tagged_image} . && docker push {spec.tagged_image}",
        f"ray get-auth-token --generate       # once: {spec.cloud.token_file}",
        f"ray up {file}",
        f"ray dashboard {file} &",
        "RAY_AUTH_MODE=token clippy cluster submit --address http://127.0.0.1:8265 --no-install -- train RECIPE",
        f"ray down {file}",
    ]


def _check(spec: ClusterSpec, cloud: Cloud) -> None:
    fields = ("secrets", "queue", "volumes", "token_secret", "image_pull_secret")
    told = [name for name in fields if getattr(spec, name)]
    groups = {"head": spec.head, "decode": spec.decode, "training": spec.training}
    told += [f"{name}.node_selector" for name, group in groups.items() if group.node_selector]
    told += [f"{name}.tolerations" for name, group in groups.items() if group.tolerations]
    if told:
        raise ValueError(
            f"{', '.join(told)}: means something on Kubernetes, and ray up starts machines; leave it out (for the "
            "object store, give the machines a service_account)"
        )
    if not spec.autoscales:
        raise ValueError("autoscaler.enabled: ray up starts workers by its autoscaler; leave it on")
    if cloud == "gcp" and spec.cloud.project is None:
        raise ValueError("cloud.project: ray up needs the project's id on Google Cloud; set cluster.cloud.project")
    if cloud == "gcp" and spec.cloud.machine_image is None:
        raise ValueError(
            "cloud.machine_image: Google Cloud needs one that has Docker, and NVIDIA's driver for GPUs, as in "
            "projects/PROJECT/global/images/family/FAMILY; set cluster.cloud.machine_image"
        )


def _environment(spec: ClusterSpec) -> list[str]:
    values = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": _TOKEN, **spec.environment}
    return [f"--env {quote(f'{name}={value}')}" for name, value in values.items()]


def _provider(spec: ClusterSpec, cloud: Cloud) -> Config:
    region = spec.cloud.region or _REGIONS[cloud]
    zones = spec.cloud.zones or tuple(region + end for end in _FIRST_ZONES[cloud])
    where: Config = {"type": cloud, "region": region, "availability_zone": ",".join(zones)}
    if cloud == "aws":
        return where | {"cache_stopped_nodes": False}
    return where | {"project_id": spec.cloud.project}


def _node_type(spec: ClusterSpec, group: NodeGroup, cloud: Cloud) -> Config:
    head = group.name == "head"
    resources = {"CPU": 0} if head else {"CPU": group.cpus} | ({"GPU": group.gpus} if group.gpus else {})
    machine = _aws_machine(spec, group) if cloud == "aws" else _gcp_machine(spec, group)
    nodes = {} if head else {"min_workers": group.min_nodes, "max_workers": group.max_nodes}
    return {**nodes, "resources": resources, "node_config": machine}


def _workers_account(spec: ClusterSpec, group: NodeGroup) -> str | None:
    """Ray gives the head an account of its own, with the right to start machines."""
    return None if group.name == "head" else spec.service_account


def _aws_machine(spec: ClusterSpec, group: NodeGroup) -> Config:
    cloud = spec.cloud
    disk = {"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": cloud.disk_gib, "VolumeType": "gp3"}}
    machine: Config = {"InstanceType": group.machine, "BlockDeviceMappings": [disk]}
    if cloud.machine_image is not None:
        machine["ImageId"] = cloud.machine_image
    if (account := _workers_account(spec, group)) is not None:
        machine["IamInstanceProfile"] = {"Arn" if account.startswith("arn:") else "Name": account}
    return machine


def _gcp_machine(spec: ClusterSpec, group: NodeGroup) -> Config:
    cloud = spec.cloud
    source = {"diskSizeGb": cloud.disk_gib, "sourceImage": cloud.machine_image}
    disk = {"boot": True, "autoDelete": True, "type": "PERSISTENT", "initializeParams": source}
    machine: Config = {"machineType": group.machine, "disks": [disk]}
    if group.gpus:  # machines with GPUs cannot be moved while they run
        machine["scheduling"] = [{"onHostMaintenance": "TERMINATE"}]
    if (account := _workers_account(spec, group)) is not None:
        machine["serviceAccounts"] = [{"email": account, "scopes": [_SCOPE]}]
    return machine
