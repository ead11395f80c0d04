"""``clippy cluster render ray-up``: what Ray's own schema takes, after Ray has put its defaults below it."""

from __future__ import annotations

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from cluster.spec import RAY_VERSION
from tests.cluster.rendered import ELASTIC, ON_CPUS, ON_GPUS, Command, render

GCP = ("cluster.cloud.project=ours", "cluster.cloud.machine_image=projects/p/global/images/family/f")
CASES = {
    "aws": ("--cloud", "aws", *ON_GPUS),
    "aws, elastic": ("--cloud", "aws", *ELASTIC, "cluster.service_account=clippy", "cluster.training.gpu=A100-80"),
    "aws, cpus": ("--cloud", "aws", *ON_CPUS, "cluster.cloud={region: eu-west-1, machine_image: ami-1}"),
    "gcp": ("--cloud", "gcp", *ON_GPUS, *GCP),
    "gcp, elastic": ("--cloud", "gcp", *ELASTIC, *GCP, "cluster.service_account=clippy@ours.iam.gserviceaccount.com"),
}


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_ray_takes_the_configuration(clippy_command: Command, options: tuple[str, ...]) -> None:
    text, (config,) = render(clippy_command, "ray-up", *options)
    assert yaml.safe_load(text) == config
    prepared = prepare_config(config)
    validate_config(prepared)
    commands = [command for name, value in prepared.items() if name.endswith("_commands") for command in value]
    assert not [command for command in commands if "ray-wheels" in command]  # none of Ray's defaults is left
    assert prepared["docker"]["image"].endswith(f":{RAY_VERSION}")
    nodes = prepared["available_node_types"]
    assert nodes["head"]["resources"] == {"CPU": 0}
    assert prepared["max_workers"] == sum(nodes[name]["max_workers"] for name in nodes if name != "head")
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]


def test_the_token_is_on_every_node_and_in_no_file(clippy_command: Command) -> None:
    _, (config,) = render(clippy_command, "ray-up", *CASES["aws"], "cluster.cloud.token_file=~/tokens/ours")
    ((inside, outside),) = config["file_mounts"].items()
    assert outside == "~/tokens/ours"
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert f"--env RAY_AUTH_TOKEN_PATH={inside}" in config["docker"]["run_options"]


def test_machines_are_those_of_the_cloud(clippy_command: Command) -> None:
    _, (aws,) = render(clippy_command, "ray-up", *CASES["aws, elastic"])
    training = aws["available_node_types"]["training"]
    assert training["node_config"]["InstanceType"] == "p4de.24xlarge"
    assert (training["min_workers"], training["max_workers"], training["resources"]["GPU"]) == (1, 4, 8)
    assert training["node_config"]["IamInstanceProfile"] == {"Name": "clippy"}
    _, (gcp,) = render(clippy_command, "ray-up", *CASES["gcp, elastic"])
    machine = gcp["available_node_types"]["training"]["node_config"]
    assert (machine["machineType"], machine["scheduling"]) == ("a3-highgpu-8g", [{"onHostMaintenance": "TERMINATE"}])
    assert machine["serviceAccounts"][0]["email"].startswith("clippy@")
    assert gcp["provider"]["project_id"] == "ours"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("aws", "cluster.queue=team", "cluster.secrets={A_B: s/k}"), "secrets, queue: means something on Kubernetes"),
        (("aws", "cluster.head.node_selector={a: b}"), "head.node_selector: means something on Kubernetes"),
        (("gcp",), "cloud.project: ray up needs the project's id"),
        (("gcp", "cluster.cloud.project=ours"), "cloud.machine_image: Google Cloud needs one"),
        (("gcp", *GCP, "cluster.training.gpu=A10G"), "training.gpu: no machine with A10G is known on gcp"),
        (("aws", "cluster.training.gpu=RTX3090"), "no machine with RTX3090 is known on aws"),
        (
            ("aws", "cluster.training.gpus_per_node=16"),
            "training.gpus_per_node: p5.48xlarge has 8, not 16; leave it out",
        ),
        (("aws", "cluster.autoscaler.enabled=false"), "autoscaler.enabled: ray up starts workers by its autoscaler"),
    ],
)
def test_what_machines_cannot_have_is_refused(clippy_command: Command, options: tuple[str, ...], sentence: str) -> None:
    refused = clippy_command("cluster", "render", "ray-up", "--cloud", options[0], *ON_GPUS, *options[1:])
    assert refused.returncode == 2
    assert sentence in refused.stderr
