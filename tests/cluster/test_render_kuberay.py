"""``clippy cluster render kuberay``: manifests that KubeRay's published schemas take, sized for the recipe."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.kuberay import autoscaling_config
from ray.autoscaler._private.util import validate_config

from cluster.spec import RAY_VERSION
from pipelines.recipe import Recipe
from tests.cluster.rendered import ELASTIC, ON_CPUS, ON_GPUS, OWN_NODES, QUEUED, Command, render

CASES = {"cpus": ON_CPUS, "gpus": ON_GPUS, "elastic": ELASTIC, "queued": QUEUED, "own nodes": OWN_NODES}


def closed(schema: Any) -> Any:
    """The schema, refusing fields that it does not name, which Kubernetes would drop without a word."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: closed(part) for name, part in schema.items()}
    free = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if isinstance(schema.get("properties"), dict) and not free:
        found["additionalProperties"] = False
    return found


@pytest.fixture(scope="module")
def schemas() -> dict[str, Any]:
    """KubeRay's, by kind; an object's own metadata are Kubernetes', and no schema of KubeRay's names their fields."""
    found = {}
    for kind, name in (("RayCluster", "rayclusters"), ("RayJob", "rayjobs")):
        with gzip.open(Path(__file__).parent / "crds" / f"{name}.json.gz") as file:
            schema = closed(json.load(file))
        schema["properties"]["metadata"] = {"type": "object"}
        found[kind] = jsonschema.Draft7Validator(schema)
    return found


def of_kind(documents: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    return next(document for document in documents if document["kind"] == kind)


def pods(cluster: dict[str, Any]) -> dict[str, Any]:
    """Specifications of the pods of a cluster's spec, by group."""
    workers = {group["groupName"]: group["template"]["spec"] for group in cluster["workerGroupSpecs"]}
    return {"head": cluster["headGroupSpec"]["template"]["spec"], **workers}


def containers(value: Any) -> Iterator[dict[str, Any]]:
    """Every container of a manifest."""
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from containers(part)
    if isinstance(value, dict) and "image" in value:
        yield value


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_manifests_are_what_kuberay_takes(clippy_command: Command, schemas: dict[str, Any], options: Any) -> None:
    for more, kinds in ((), ["ConfigMap", "RayJob"]), (("--standing",), ["RayCluster"]):
        text, documents = render(clippy_command, "kuberay", *options, *more)
        assert list(yaml.safe_load_all(text)) == documents  # YAML 1.1, which Kubernetes reads
        assert [document["kind"] for document in documents] == kinds
        for error in schemas[kinds[-1]].iter_errors(documents[-1]):
            pytest.fail(f"{error.json_path}: {error.message}")
        assert documents[-1]["apiVersion"] == "ray.io/v1"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "rayClusterSpec", "workerGroups"), []),
        (("spec", "rayClusterSpec", "autoscalerOptions", "version"), "v3"),
        (("spec", "rayClusterSpec", "authOptions", "token"), "x"),
        (("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "securityContext", "runAsNonroot"), True),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "template", "spec", "containers", 0, "ressources"), {}),
        (("spec", "ttlSecondsAfterFinished"), "600"),
    ],
)
def test_the_schemas_refuse_what_is_wrong(
    clippy_command: Command, schemas: dict[str, Any], path: tuple[Any, ...], value: Any
) -> None:
    job = of_kind(render(clippy_command, "kuberay", *ON_GPUS)[1], "RayJob")
    assert schemas["RayJob"].is_valid(job)
    node = job
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = value
    assert not schemas["RayJob"].is_valid(job)


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_every_pod_is_bounded_and_not_root(clippy_command: Command, options: Any) -> None:
    documents = render(clippy_command, "kuberay", *options)[1]
    cluster = of_kind(documents, "RayJob")["spec"]["rayClusterSpec"]
    for container in containers(documents):
        assert container["image"].endswith(f":{RAY_VERSION}")
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
    parameters = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for (name, pod), group in zip(pods(cluster).items(), parameters, strict=True):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        shared = next(v for v in pod["volumes"] if v.get("emptyDir", {}).get("medium") == "Memory")
        store = int(group["rayStartParams"]["object-store-memory"])
        assert int(shared["emptyDir"]["sizeLimit"].removesuffix("Mi")) * 2**20 >= store
        assert {"name": shared["name"], "mountPath": "/dev/shm"} in pod["containers"][0]["volumeMounts"]
        assert ("nvidia.com/gpu" in pod["containers"][0]["resources"]["limits"]) == (
            name == "training" and options is not ON_CPUS
        )
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"  # no training there
    assert cluster["rayVersion"] == RAY_VERSION
    assert cluster["authOptions"]["mode"] == "token"


def test_the_job_trains_the_recipe_as_it_was_given(clippy_command: Command) -> None:
    recipe_map, job = render(clippy_command, "kuberay", *ON_GPUS, "optim.learning_rate=1e-3")[1]
    recipe = Recipe.load("recipe.yaml", recipe_map["data"]["recipe.yaml"])
    assert recipe.optim.learning_rate == 1e-3
    assert recipe.data.url == "s3://bucket/pairs"
    spec = job["spec"]
    assert spec["entrypoint"] == "clippy train /etc/clippy/recipe.yaml scaling.ray_address=auto"
    head = pods(spec["rayClusterSpec"])["head"]
    volume = next(volume for volume in head["volumes"] if volume.get("configMap"))
    assert volume["configMap"]["name"] == recipe_map["metadata"]["name"]
    mount = next(m for m in head["containers"][0]["volumeMounts"] if m["name"] == volume["name"])
    assert mount["mountPath"] == "/etc/clippy"
    assert (spec["shutdownAfterJobFinishes"], spec["suspend"], spec["ttlSecondsAfterFinished"]) == (True, False, 600)


def test_nodes_follow_from_the_recipe(clippy_command: Command) -> None:
    cluster = of_kind(render(clippy_command, "kuberay", *ELASTIC)[1], "RayJob")["spec"]["rayClusterSpec"]
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    assert (groups["training"]["minReplicas"], groups["training"]["maxReplicas"]) == (1, 4)  # 8 to 32 GPUs, 8 each
    assert groups["decode"]["replicas"] * 60 + 182 - 8 >= 900  # cores of the first training node are there too
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["autoscalerOptions"]["version"] == "v2"


@pytest.mark.parametrize("options", [ON_CPUS, ELASTIC, OWN_NODES], ids=["cpus", "elastic", "own nodes"])
def test_rays_autoscaler_reads_the_same_nodes_from_it(clippy_command: Command, options: Any) -> None:
    cluster = render(clippy_command, "kuberay", *options, "--standing")[1][0]
    config = autoscaling_config._derive_autoscaling_config_from_ray_cr(cluster)
    validate_config(config)
    nodes = config["available_node_types"]
    assert nodes.pop(config["head_node_type"])["resources"]["CPU"] == 0
    for group in cluster["spec"]["workerGroupSpecs"]:
        limits, node = group["template"]["spec"]["containers"][0]["resources"]["limits"], nodes[group["groupName"]]
        assert node["resources"]["CPU"] == int(limits["cpu"])
        assert node["resources"].get("GPU", 0) == int(limits.get("nvidia.com/gpu", 0))
        assert node["resources"]["memory"] > 2 * int(group["rayStartParams"]["object-store-memory"])
        assert (node["min_workers"], node["max_workers"]) == (group["minReplicas"], group["maxReplicas"])


def test_a_queued_job_waits_and_does_not_scale(clippy_command: Command) -> None:
    for more in (), ("--standing",):
        text, documents = render(clippy_command, "kuberay", *QUEUED, *more)
        found = documents[-1]
        assert "# It waits, suspended, in Kueue's queue team.\n" in text
        assert found["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team"
        assert found["metadata"]["namespace"] == "training"
        assert found["spec"]["suspend"] is True
        cluster = found["spec"].get("rayClusterSpec", found["spec"])
        assert cluster["enableInTreeAutoscaling"] is False
        assert cluster["authOptions"] == {"mode": "token", "secretName": "token"}
        for group in cluster["workerGroupSpecs"]:
            assert group["replicas"] == group["minReplicas"] == group["maxReplicas"]
    assert cluster["workerGroupSpecs"][0]["replicas"] == 4


def test_credentials_are_named_and_not_held(clippy_command: Command) -> None:
    text, documents = render(clippy_command, "kuberay", *QUEUED)
    for container in containers(of_kind(documents, "RayJob")["spec"]["rayClusterSpec"]):
        variables = {entry["name"]: entry for entry in container["env"]}
        reference = {"secretKeyRef": {"name": "s3", "key": "secret-key"}}
        assert variables["AWS_SECRET_ACCESS_KEY"] == {"name": "AWS_SECRET_ACCESS_KEY", "valueFrom": reference}
        assert variables["SWITCH"]["value"] == "on"
        assert {"name": "volume-0", "mountPath": "/mnt/shared"} in container["volumeMounts"]
    assert "kubectl -n training logs --follow job/queued" in text
    pod = pods(of_kind(render(clippy_command, "kuberay", *OWN_NODES)[1], "RayJob")["spec"]["rayClusterSpec"])
    assert {each["serviceAccountName"] for each in pod.values()} == {"trainer"}
    assert pod["decode"]["tolerations"][0]["key"] == "spot"
    assert pod["training"]["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
