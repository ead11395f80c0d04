"""A cluster: everything of it that a recipe does not say, as one strict YAML file. Imports neither torch nor ray."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from clippy.config import Section, read_text
from pipelines.credentials import secret_names

RAY_VERSION = version("ray")
"""Of this installation: nodes and driver of a cluster must run the same."""

_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_REFERENCE = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[-._a-zA-Z0-9]+")
_LONGEST_NAME = 47
"""Of a RayJob, which gives its cluster a longer one."""


class Toleration(Section):
    """A taint of Kubernetes nodes that pods put up with."""

    key: str
    operator: Literal["Exists", "Equal"] = "Exists"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None


class NodesSpec(Section):
    """Nodes of one kind: pods on Kubernetes, machines with ``ray up``."""

    machine: str | None = None
    """Machine type, such as m7i.16xlarge; null is the usual one of ``cluster/capacity/hardware.yaml``. On Kubernetes
    pods are cut to its size, and ``node_selector`` says where they go."""
    cpus: int | None = Field(None, gt=0)
    """Of a node; null is what the recipe needs, or nearly all of the machine's."""
    memory_gib: float | None = Field(None, gt=0)
    node_selector: dict[str, str] = Field(default_factory=dict)
    """Labels of the Kubernetes nodes to run on."""
    tolerations: tuple[Toleration, ...] = ()
    """Beside the taint of NVIDIA's GPUs, which training with GPUs always puts up with."""


class HeadSpec(NodesSpec):
    """The head: the dashboard, the driver and Ray's own servers; no training and no decoding."""

    cpus: int | None = Field(4, gt=0)
    memory_gib: float | None = Field(16, gt=0)


class WorkersSpec(NodesSpec):
    """Nodes of which there are several."""

    min_nodes: int | None = Field(None, ge=0)
    """At the start, and at least; null is as many as the recipe needs."""
    max_nodes: int | None = Field(None, ge=0)
    """What the autoscaler may start at most; null is as many as the recipe takes."""

    @model_validator(mode="after")
    def _in_order(self) -> WorkersSpec:
        if self.min_nodes is not None and self.max_nodes is not None and self.min_nodes > self.max_nodes:
            raise ValueError(f"max_nodes: {self.max_nodes} is below min_nodes {self.min_nodes}")
        return self


class TrainingSpec(WorkersSpec):
    """Nodes for training workers, with GPUs where the recipe uses them."""

    gpu: str = "H100"
    """A kind of ``cluster/capacity/hardware.yaml``, which says what machine has it."""
    gpus_per_node: int | None = Field(None, gt=0)
    """Null is the machine's, or as many as the recipe needs if that is fewer."""


class AutoscalerSpec(Section):
    """Ray's autoscaler, version 2."""

    enabled: bool | None = None
    """Null is on, unless the cluster waits in a queue: Kueue reserves a fixed number of nodes."""
    idle_seconds: int = Field(300, ge=0)
    """After which a node beyond ``min_nodes`` goes."""


class JobSpec(Section):
    """A RayJob: a cluster that comes for one run and goes with it."""

    ttl_seconds: int = Field(600, ge=0)
    """For which it stays when the run has ended."""
    retries: int = Field(1, ge=0)
    """Times that a new cluster goes on with the run when the head was lost."""
    deadline_hours: float | None = Field(None, gt=0)
    """After which the run is ended; null is never."""


class VolumeSpec(Section):
    """A volume that all pods share."""

    claim: str
    """Name of a PersistentVolumeClaim that many nodes may mount."""
    path: str = Field(pattern="^/")
    """Where it is mounted."""


class CloudSpec(Section):
    """Where ``ray up`` starts machines."""

    region: str | None = None
    """Null is us-west-2 on AWS and us-central1 on Google Cloud."""
    zones: tuple[str, ...] = ()
    """Zones of the region; none are its first two on AWS, its first on Google Cloud."""
    project: str | None = None
    """Of Google Cloud."""
    machine_image: str | None = None
    """With Docker and, on GPUs, NVIDIA's driver; null is Ray's own choice on AWS. Google Cloud needs one."""
    ssh_user: str = "ubuntu"
    disk_gib: int = Field(300, gt=0)
    token_file: str = "~/.ray/auth_token"
    """On the machine that runs ``ray up``; it is copied to every node. ``ray get-auth-token --generate`` writes it."""


class ClusterSpec(Section):
    """A cluster; every field has a default, and sizes follow from the recipe."""

    name: str | None = None
    """Null is the recipe's."""
    image: str = "clippy-on-ray"
    """Container image, built from the Dockerfile; without a tag it gets Ray's version."""
    image_pull_secret: str | None = None
    namespace: str = "default"
    service_account: str | None = None
    """With the right to read and write the object store: a ServiceAccount on Kubernetes, an instance profile on AWS,
    the e-mail of a service account on Google Cloud."""
    token_secret: str | None = None
    """Secret whose ``auth_token`` is Ray's token; null has KubeRay make one for each cluster."""
    secrets: dict[str, str] = Field(default_factory=dict)
    """Environment variable -> ``SECRET/KEY`` of Kubernetes, such as ``{AWS_ACCESS_KEY_ID: s3/access-key}``."""
    environment: dict[str, str] = Field(default_factory=dict)
    """Environment variables of every node; no secrets."""
    queue: str | None = None
    """Kueue's LocalQueue; what waits in it starts suspended."""
    volumes: tuple[VolumeSpec, ...] = ()
    head: HeadSpec = HeadSpec()
    decode: WorkersSpec = WorkersSpec()
    """Nodes without GPUs that read and decode."""
    training: TrainingSpec = TrainingSpec()
    autoscaler: AutoscalerSpec = AutoscalerSpec()
    job: JobSpec = JobSpec()
    cloud: CloudSpec = CloudSpec()

    @field_validator("name")
    @classmethod
    def _short_label(cls, name: str | None) -> str | None:
        if name is not None and (not _LABEL.fullmatch(name) or len(name) > _LONGEST_NAME):
            raise ValueError(
                f"must be lower-case letters, digits and hyphens, a letter first, at most {_LONGEST_NAME} of them "
                f"(got {name!r})"
            )
        return name

    @field_validator("image")
    @classmethod
    def _ray_of_this_version(cls, image: str) -> str:
        name, tag = _split_tag(image)
        if not name or (tag is not None and not re.fullmatch(rf"{re.escape(RAY_VERSION)}([-.+_].*)?", tag)):
            raise ValueError(
                f"the tag must be Ray's version here, {RAY_VERSION}, or begin with it, as in {name or 'NAME'}:"
                f"{RAY_VERSION} (got {image!r}): nodes and driver must run the same Ray"
            )
        return image

    @field_validator("secrets")
    @classmethod
    def _references(cls, secrets: dict[str, str]) -> dict[str, str]:
        wrong = [name for name, reference in secrets.items() if not _REFERENCE.fullmatch(reference)]
        if wrong:
            raise ValueError(
                f"{', '.join(wrong)}: must name a Kubernetes Secret and its key as SECRET/KEY, not hold the secret"
            )
        return secrets

    @field_validator("environment")
    @classmethod
    def _no_secrets(cls, environment: dict[str, str]) -> dict[str, str]:
        found = list(secret_names(environment))
        if found:
            raise ValueError(
                f"{', '.join(found)}: looks like a credential, and manifests are no place for one; put it into a "
                "Kubernetes Secret and name that in secrets, or give the nodes a service_account"
            )
        return environment

    @model_validator(mode="after")
    def _queued_clusters_do_not_scale(self) -> ClusterSpec:
        if self.queue is not None and self.autoscaler.enabled:
            raise ValueError(
                f"autoscaler.enabled: Kueue reserves a fixed number of nodes for what waits in queue {self.queue!r}; "
                "leave it out, or leave queue out"
            )
        return self

    @model_validator(mode="after")
    def _variables_have_one_value(self) -> ClusterSpec:
        twice = [name for name in self.secrets if name in self.environment]
        if twice:
            raise ValueError(
                f"secrets: {', '.join(twice)}: has a value in environment too; leave it out of one of them"
            )
        return self

    @property
    def autoscales(self) -> bool:
        """Whether the number of nodes may change."""
        return self.queue is None if self.autoscaler.enabled is None else self.autoscaler.enabled

    @property
    def tagged_image(self) -> str:
        """The image with its tag."""
        name, tag = _split_tag(self.image)
        return f"{name}:{tag or RAY_VERSION}"

    def name_for(self, recipe_name: str) -> str:
        """The cluster's name. Raises ValueError where the recipe's cannot be one."""
        if self.name is not None:
            return self.name
        name = re.sub(r"[^a-z0-9]+", "-", recipe_name.lower()).strip("-")
        if not _LABEL.fullmatch(name) or len(name) > _LONGEST_NAME:
            raise ValueError(
                f"name: {recipe_name!r} makes no name for Kubernetes, which is a letter and at most "
                f"{_LONGEST_NAME - 1} letters, digits and hyphens; set cluster.name"
            )
        return name


def _split_tag(image: str) -> tuple[str, str | None]:
    """Name and tag; the colon of a registry's port begins no tag."""
    folder, slash, last = image.rpartition("/")
    name, colon, tag = last.partition(":")
    return folder + slash + name, tag if colon else None


def load_spec(file: str | None, overrides: Sequence[str] = ()) -> ClusterSpec:
    """The spec of that file, or one of defaults, with ``a.b=c`` overrides on top. Raises ConfigError."""
    if file is None:
        return ClusterSpec.build("cluster", {}, overrides)
    return ClusterSpec.load(file, read_text(Path(file)), overrides)
