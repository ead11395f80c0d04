"""A cluster for KubeRay: a RayJob that brings its own, or a RayCluster that stays up; ``ray.io/v1``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster.node_groups import NodeGroup, NodeGroups
from cluster.spec import RAY_VERSION, ClusterSpec
from pipelines.recipe import Recipe

Manifest = dict[str, Any]

_RAY_USER, _RAY_GROUP = 1000, 100
"""Of Ray's images, and of the Dockerfile."""
_RECIPE_FOLDER, _RECIPE_FILE = "/etc/clippy", "recipe.yaml"
_GPU = "nvidia.com/gpu"
_LABELS = {"app.kubernetes.io/name": "clippy-on-ray"}
_SMALL = {"cpu": "500m", "memory": "1Gi"}
"""For pods and containers that only pass on what others do."""
_SHARED_MEMORY = "shared-memory"
_MORE_SHARED_MEMORY = 2 * 2**30
"""Beside the object store, for NCCL and the loop."""
_PORTS = {"gcs": 6379, "dashboard": 8265, "client": 10001}


def ray_job(recipe: Recipe, spec: ClusterSpec, groups: NodeGroups) -> list[Manifest]:
    """The recipe as a ConfigMap, and the RayJob that trains it."""
    name, job = spec.name_for(recipe.name), spec.job
    config = f"{name}-recipe"
    command = f"clippy train {_RECIPE_FOLDER}/{_RECIPE_FILE} scaling.ray_address=auto"
    body = {
        "entrypoint": command,
        "submissionMode": "K8sJobMode",
        "submitterPodTemplate": _submitter(spec),
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": job.ttl_seconds,
        "backoffLimit": job.retries,
        **({"activeDeadlineSeconds": int(3600 * job.deadline_hours)} if job.deadline_hours else {}),
        "suspend": spec.queue is not None,
        "rayClusterSpec": _cluster_spec(spec, groups, config),
    }
    recipe_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(spec, config, queued=False),
        "data": {_RECIPE_FILE: recipe.to_yaml()},
    }
    return [recipe_map, _object("RayJob", _metadata(spec, name), body)]


def ray_cluster(recipe: Recipe, spec: ClusterSpec, groups: NodeGroups) -> list[Manifest]:
    """The RayCluster that holds the recipe, for jobs that are submitted to it."""
    body = _cluster_spec(spec, groups) | {"suspend": spec.queue is not None}
    return [_object("RayCluster", _metadata(spec, spec.name_for(recipe.name)), body)]


def job_heading(recipe: Recipe, spec: ClusterSpec, file: str) -> list[str]:
    """How to use the file of ``ray_job``."""
    name, to = spec.name_for(recipe.name), f"-n {spec.namespace}"
    return [
        f"{recipe.name} as a RayJob: a cluster of its own, one training, and away again.",
        *_first_steps(spec),
        f"kubectl apply -f {file}",
        f"kubectl {to} get rayjob {name}",
        f"kubectl {to} logs --follow job/{name}",
        f"kubectl delete -f {file}       # ends it; applied again it goes on from its last checkpoint",
    ]


def cluster_heading(recipe: Recipe, spec: ClusterSpec, file: str) -> list[str]:
    """How to use the file of ``ray_cluster``."""
    name, to = spec.name_for(recipe.name), f"-n {spec.namespace}"
    secret = spec.token_secret or name
    token = f"kubectl {to} get secret {secret} -o jsonpath='{{.data.auth_token}}' | base64 -d"
    return [
        f"A RayCluster for jobs such as {recipe.name}; it stays up until it is deleted.",
        *_first_steps(spec),
        f"kubectl apply -f {file}",
        f"kubectl {to} port-forward service/{name}-head-svc 8265:8265 &",
        "export RAY_AUTH_MODE=token",
        f'export RAY_AUTH_TOKEN="$({token})"',
        "clippy cluster submit --address http://127.0.0.1:8265 --no-install -- train RECIPE",
        f"kubectl delete -f {file}",
    ]


def _first_steps(spec: ClusterSpec) -> list[str]:
    """What both need before."""
    access = "the service account's" if spec.service_account else "those of secrets" if spec.secrets else "the nodes'"
    return [
        "Written by clippy cluster render kuberay, for KubeRay 1.6 and later: change the spec and render again.",
        f"Credentials for the object store are {access}.",
        "",
        f"docker build -t {spec.tagged_image} . && docker push {spec.tagged_image}",
        *([f"It waits, suspended, in Kueue's queue {spec.queue}.", ""] if spec.queue else []),
    ]


def _object(kind: str, metadata: Manifest, spec: Manifest) -> Manifest:
    return {"apiVersion": "ray.io/v1", "kind": kind, "metadata": metadata, "spec": spec}


def _metadata(spec: ClusterSpec, name: str, queued: bool = True) -> Manifest:
    queue = {"kueue.x-k8s.io/queue-name": spec.queue} if spec.queue is not None and queued else {}
    return {"name": name, "namespace": spec.namespace, "labels": _LABELS | queue}


def _cluster_spec(spec: ClusterSpec, groups: NodeGroups, recipe_map: str | None = None) -> Manifest:
    """What RayCluster and RayJob share; the driver, on the head, finds the recipe of that ConfigMap."""
    auth = {"mode": "token"} | ({"secretName": spec.token_secret} if spec.token_secret else {})
    scaling: Manifest = {"enableInTreeAutoscaling": spec.autoscales}
    if spec.autoscales:
        scaling["autoscalerOptions"] = {
            "version": "v2",
            "idleTimeoutSeconds": spec.autoscaler.idle_seconds,
            "securityContext": _container_security(),
            "resources": _resources(_SMALL),
        }
    return {
        "rayVersion": RAY_VERSION,
        "authOptions": auth,
        **scaling,
        "headGroupSpec": {
            "rayStartParams": {"num-cpus": "0", **_start_parameters(groups.head)},
            "template": _head_template(spec, groups.head, recipe_map),
        },
        "workerGroupSpecs": [
            {
                "groupName": group.name,
                "replicas": group.min_nodes,
                "minReplicas": group.min_nodes,
                "maxReplicas": group.max_nodes,
                "rayStartParams": _start_parameters(group),
                "template": _node(spec, group, "ray-worker", reaches_kubernetes=False),
            }
            for group in groups.workers
        ],
    }


def _start_parameters(group: NodeGroup) -> dict[str, str]:
    return {"object-store-memory": str(group.object_store_bytes)}


def _head_template(spec: ClusterSpec, head: NodeGroup, recipe_map: str | None) -> Manifest:
    template = _node(spec, head, "ray-head", reaches_kubernetes=spec.autoscales)
    (container,) = template["spec"]["containers"]
    container["ports"] = [{"name": name, "containerPort": port} for name, port in _PORTS.items()]
    if recipe_map is not None:
        container["volumeMounts"].append({"name": "recipe", "mountPath": _RECIPE_FOLDER, "readOnly": True})
        template["spec"]["volumes"].append({"name": "recipe", "configMap": {"name": recipe_map}})
    return template


def _node(spec: ClusterSpec, group: NodeGroup, name: str, reaches_kubernetes: bool) -> Manifest:
    """The pod of a node of Ray."""
    amounts = {"cpu": str(group.cpus), "memory": _mebibytes(group.memory_gib)}
    tolerations = [toleration.model_dump(exclude_none=True) for toleration in group.spec.tolerations]
    if group.gpus:
        amounts[_GPU] = str(group.gpus)
        tolerations.insert(0, {"key": _GPU, "operator": "Exists", "effect": "NoSchedule"})
    memory = {"medium": "Memory", "sizeLimit": f"{(group.object_store_bytes + _MORE_SHARED_MEMORY) >> 20}Mi"}
    volumes: list[Manifest] = [{"name": _SHARED_MEMORY, "emptyDir": memory}]
    mounts = [{"name": _SHARED_MEMORY, "mountPath": "/dev/shm"}]
    for number, volume in enumerate(spec.volumes):
        volumes.append({"name": f"volume-{number}", "persistentVolumeClaim": {"claimName": volume.claim}})
        mounts.append({"name": f"volume-{number}", "mountPath": volume.path})
    container = _container(spec, name, amounts) | {"env": _environment(spec), "volumeMounts": mounts}
    told = {
        "serviceAccountName": spec.service_account,
        "nodeSelector": dict(group.spec.node_selector),
        "tolerations": tolerations,
    }
    body = _pod(spec, container, reaches_kubernetes) | {"volumes": volumes}
    body |= {name: value for name, value in told.items() if value}
    return {"metadata": {"labels": _LABELS}, "spec": body}


def _pod(spec: ClusterSpec, container: Manifest, reaches_kubernetes: bool = False) -> Manifest:
    pull = {"imagePullSecrets": [{"name": spec.image_pull_secret}]} if spec.image_pull_secret else {}
    security = {
        "runAsNonRoot": True,
        "runAsUser": _RAY_USER,
        "runAsGroup": _RAY_GROUP,
        "fsGroup": _RAY_GROUP,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    return {
        "automountServiceAccountToken": reaches_kubernetes,
        **pull,
        "securityContext": security,
        "containers": [container],
    }


def _container(spec: ClusterSpec, name: str, amounts: Mapping[str, str]) -> Manifest:
    return {
        "name": name,
        "image": spec.tagged_image,
        "imagePullPolicy": "IfNotPresent",
        "resources": _resources(amounts),
        "securityContext": _container_security(),
    }


def _environment(spec: ClusterSpec) -> list[Manifest]:
    """Plain variables, and references to those that are secret."""
    plain = {"RAY_USAGE_STATS_ENABLED": "0", **spec.environment}
    references = {name: reference.split("/") for name, reference in spec.secrets.items()}
    return [
        *({"name": name, "value": value} for name, value in plain.items()),
        *(
            {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}
            for name, (secret, key) in references.items()
        ),
    ]


def _submitter(spec: ClusterSpec) -> Manifest:
    """The pod that hands the job in and follows its log."""
    container = _container(spec, "ray-job-submitter", _SMALL)
    return {"spec": {"restartPolicy": "Never", **_pod(spec, container)}}


def _resources(amounts: Mapping[str, str]) -> Manifest:
    """The same asked for and allowed, so that a pod is the last to be evicted."""
    return {"requests": dict(amounts), "limits": dict(amounts)}


def _mebibytes(gib: float) -> str:
    return f"{int(gib)}Gi" if gib == int(gib) else f"{int(gib * 1024)}Mi"


def _container_security() -> Manifest:
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
