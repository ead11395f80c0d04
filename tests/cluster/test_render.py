"""``clippy cluster render`` for every target: the same bytes, no secret, nodes that hold the recipe, one sentence."""

from __future__ import annotations

import re
import tomllib
from math import floor
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from cluster.capacity.hardware import load_hardware
from cluster.manifests import as_yaml
from cluster.node_groups import plan_groups
from cluster.spec import RAY_VERSION, ClusterSpec
from pipelines.recipe import load_recipe
from tests.cluster.rendered import ELASTIC, ON_CPUS, ON_GPUS, QUEUED, Command

ROOT = Path(__file__).parents[2]
TARGETS = (("kuberay",), ("kuberay", "--standing"), ("ray-up", "--cloud", "aws"))
SECRET = "wJalrXUtnFEMI"


def test_the_same_command_writes_the_same_bytes(
    clippy_command: Command, clippy_process: Command, tmp_path: Path
) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    made = clippy_command("cluster", "render", "kuberay", *QUEUED, "--out", str(first))
    assert (made.returncode, made.stdout) == (0, f"{first}\n")
    again = clippy_process("cluster", "render", "kuberay", *QUEUED, "--out", str(second), PYTHONHASHSEED="7")
    assert again.returncode == 0, again.stderr
    name = re.compile(r"(first|second)\.yaml")
    assert name.sub("", first.read_text()) == name.sub("", second.read_text())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.yaml", "second.yaml"]


@pytest.mark.parametrize("target", TARGETS, ids=" ".join)
@pytest.mark.parametrize(
    ("field", "option"),
    [
        ("data.storage_options", f"data.storage_options={{key: a, secret: {SECRET}}}"),
        ("storage.storage_options", f"storage.storage_options={{client_kwargs: {{aws_session_token: {SECRET}}}}}"),
        ("tracking.uri", f"tracking.uri=https://me:{SECRET}@mlflow.example"),
        ("data.url", f"data.url=https://store.example/pairs?X-Amz-Credential=a&X-Amz-Signature={SECRET}"),
        ("model.text.pretrained", f"model.text.pretrained=https://me:{SECRET}@store.example/t5"),
        ("environment", f"cluster.environment={{MLFLOW_TRACKING_PASSWORD: {SECRET}}}"),
        ("environment", f"cluster.environment={{HTTPS_PROXY: 'http://me:{SECRET}@proxy.example'}}"),
        ("secrets", f"cluster.secrets={{AWS_SECRET_ACCESS_KEY: {SECRET}}}"),
    ],
)
def test_a_secret_is_refused_and_shown_nowhere(
    clippy_command: Command, tmp_path: Path, target: tuple[str, ...], field: str, option: str
) -> None:
    refused = clippy_command("cluster", "render", *target, *ON_CPUS, option, "--out", str(tmp_path / "out.yaml"))
    assert refused.returncode == 2
    assert f"{field}: " in refused.stderr
    assert SECRET not in refused.stderr + refused.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--recipe", "shapes"), "data.url: 'data/shapes/train' is a folder of one machine"),
        (("--recipe", "shapes"), "tracking.uri: the nodes need an MLflow server"),
        (
            (*ON_GPUS, "data.url=/mnt/shared", "cluster.volumes=[{claim: c, path: /mnt/shar}]"),
            "'/mnt/shared' is a folder",
        ),
        (
            (*ON_GPUS, "model.text.pretrained=/models/t5"),
            "'/models/t5' is a file or folder of one machine; give a name",
        ),
        (
            (*ON_GPUS, "data.url=/mnt/shared/../home", "cluster.volumes=[{claim: c, path: /mnt/shared}]"),
            "'/mnt/shared/../home' is a folder of one machine",
        ),
        (
            (*ON_GPUS, "cluster.secrets={A_URL: s/u}", "cluster.environment={A_URL: x}"),
            "secrets: A_URL: has a value in environment too; leave it out of one of them",
        ),
        (
            (*ON_GPUS, "tracking.uri=http://localhost:5000"),
            "tracking.uri: 'http://localhost:5000' is a server of one machine, which a cluster's nodes do not reach",
        ),
        (
            (*ON_GPUS, "data.storage_options.endpoint_url=127.0.0.1:9000"),
            "data.storage_options.endpoint_url: 'https://127.0.0.1:9000' is a server of one machine",
        ),
        (
            (*ON_GPUS, "cluster.environment={AWS_ENDPOINT_URL: 'http://localhost:9000'}"),
            "environment.AWS_ENDPOINT_URL: 'http://localhost:9000' is a server of one machine",
        ),
        (
            (*ON_GPUS, "cluster.training.gpus=4"),
            "training.gpus (from the command line): no such field; did you mean 'gpu'",
        ),
        ((*ON_GPUS, "cluster.training.gpu=H10"), "no figures for a GPU named 'H10'; did you mean 'H100'?"),
        ((*ON_GPUS, "cluster.training.gpu=V100-32"), "V100-32 has no matrix unit for bfloat16"),
        ((*ON_GPUS, "cluster.training.max_nodes=3"), "training.max_nodes: 3 hold 24 workers, 8 each, and scaling"),
        ((*ON_GPUS, "cluster.training.machine=mine"), "training.machine: there are no figures for 'mine'; say what"),
        ((*ON_GPUS, "cluster.training.machine=m7i.16xlarge"), "training.machine: m7i.16xlarge has no GPU"),
        ((*ON_GPUS, "scaling.resources_per_worker={CPU: 200}"), "a worker needs 200 CPU, 1 GPU on one node"),
        ((*ON_GPUS, "scaling.resources_per_worker={disk: 1}"), "disk: nodes are made with CPU, GPU and memory alone"),
        (
            (*ELASTIC, "cluster.decode.max_nodes=0"),
            "8 workers and 900 decoders need 908 CPU, and a cluster of 4 training",
        ),
        ((*ON_GPUS, "data.prefetch_batches=10000"), "data.prefetch_batches: 320"),
        ((*ON_GPUS, "cluster.image=ours:latest"), f"the tag must be Ray's version here, {RAY_VERSION}"),
        ((*ON_GPUS, "name=1st.run"), "name: '1st.run' makes no name for Kubernetes"),
        ((*ON_GPUS, "cluster.name=My_run"), "name: must be lower-case letters"),
        ((*ON_GPUS, "cluster.queue=a", "cluster.autoscaler.enabled=true"), "autoscaler.enabled: Kueue reserves"),
        ((*ON_GPUS, "cluster.decode={min_nodes: 3, max_nodes: 2}"), "max_nodes: 2 is below min_nodes 3"),
        ((*ON_GPUS, "--spec", "nowhere.yaml"), "nowhere.yaml"),
        ((*ON_GPUS, "train.stepz=1"), "did you mean 'steps'?"),
    ],
)
def test_a_mistake_is_one_sentence(
    clippy_command: Command, tmp_path: Path, options: tuple[str, ...], sentence: str
) -> None:
    refused = clippy_command("cluster", "render", "kuberay", *options, "--out", str(tmp_path / "out.yaml"))
    assert refused.returncode == 2
    assert sentence in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not list(tmp_path.iterdir())


def test_the_commands_can_be_typed_as_they_stand(clippy_command: Command, tmp_path: Path) -> None:
    file = tmp_path / "my cluster.yaml"
    assert clippy_command("cluster", "render", "kuberay", *ON_GPUS, "--out", str(file)).returncode == 0
    assert f"# kubectl apply -f '{file}'\n" in file.read_text()


@pytest.mark.parametrize(
    "options",
    [
        ("tracking.uri=null", "cluster.secrets={MLFLOW_TRACKING_URI: mlflow/uri}"),
        ("tracking.uri=sqlite:////mnt/runs/mlflow.db", "cluster.volumes=[{claim: c, path: /mnt/runs}]"),
        ("storage.url=file:///mnt/runs/all", "cluster.volumes=[{claim: c, path: /mnt/runs}]"),
        ("data.storage_options.endpoint_url=minio.example:9000",),
        ("cluster.environment={AWS_ENDPOINT_URL: 'minio.example:9000'}",),
    ],
)
def test_places_that_all_nodes_reach_are_taken(clippy_command: Command, options: tuple[str, ...]) -> None:
    made = clippy_command("cluster", "render", "kuberay", *ON_GPUS, *options)
    assert made.returncode == 0, made.stderr


def test_a_folder_that_is_called_like_a_learned_tokenizer_means_nothing(
    clippy_command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vocabulary").mkdir()
    monkeypatch.chdir(tmp_path)
    made = clippy_command("cluster", "render", "kuberay", *ON_CPUS)
    assert made.returncode == 0, made.stderr


def test_a_spec_is_a_file_and_the_command_line_goes_over_it(clippy_command: Command, tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(f"namespace: ours\nimage: registry.example/clippy:{RAY_VERSION}-2\ntraining: {{gpu: A100-80}}\n")
    made = clippy_command("cluster", "render", "kuberay", "--spec", str(file), *ON_GPUS, "cluster.training.gpu=L4")
    job = list(yaml.safe_load_all(made.stdout))[1]
    container = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]
    assert (job["metadata"]["namespace"], container["image"]) == ("ours", f"registry.example/clippy:{RAY_VERSION}-2")
    assert container["resources"]["limits"]["memory"] == "691Gi"  # g6.48xlarge, not p4de.24xlarge


@settings(deadline=None, max_examples=60)
@given(
    least=st.integers(1, 40),
    more=st.integers(0, 40),
    cpus=st.sampled_from([0.5, 1.0, 3.0, 24.0]),
    gpus=st.sampled_from([0, 1, 2]),
    cores=st.none() | st.integers(1, 2000),
    platform=st.sampled_from(["kuberay", "aws", "gcp"]),
)
def test_nodes_hold_the_workers_and_the_decoders(
    least: int, more: int, cpus: float, gpus: int, cores: int | None, platform: str
) -> None:
    workers = least if not more else [least, least + more]
    resources = f"{{CPU: {cpus}, GPU: {gpus}}}" if gpus else f"{{CPU: {cpus}}}"
    fields = (
        f"scaling.num_workers={workers}",
        f"scaling.use_gpu={str(bool(gpus)).lower()}",
        "train.micro_batch_size=8",
    )
    batch = f"optim.global_batch_size={8 * least * 40 if not more else 8 * 80}"
    decoding = f"scaling.decode_cores={'null' if cores is None else cores}"
    recipe = load_recipe("shapes", [*fields, batch, decoding, f"scaling.resources_per_worker={resources}"])
    groups = {group.name: group for group in plan_groups(recipe, ClusterSpec(), HARDWARE, platform).workers}
    training = groups["training"]
    fitting = min(floor(training.cpus / cpus), training.gpus // gpus if gpus else 10**6)
    assert training.min_nodes * fitting >= least
    assert (training.max_nodes - 1) * fitting < least + more <= training.max_nodes * fitting
    all_cores = sum(group.min_nodes * group.cpus for group in groups.values())
    assert all_cores - least * cpus >= (cores or 2)
    assert bool(training.gpus) == bool(gpus)


HARDWARE = load_hardware()


@given(
    st.dictionaries(
        st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_categories=["Cc"]), max_size=12)
        | st.sampled_from(["on", "No", "1e3", "0x1F", "1:30", "~", "a: b", "a #b", " a", "a ", "two\nlines\n", ".inf"]),
        st.text(st.characters(max_codepoint=0x2FF, exclude_categories=["Cs", "Cc"]), max_size=12)
        | st.sampled_from(
            ["on", "NULL", "1e-3", "012", "1_000", "2026-01-01", "-", "=", "", "two\nlines\n", "a\n\nb\n"]
        )
        | st.integers(-5, 5)
        | st.booleans(),
    )
)
def test_any_text_is_read_back_by_either_yaml(values: dict[str, object]) -> None:
    text = as_yaml([{"values": values}], ["a comment"])
    assert yaml.safe_load(text) == {"values": values}
    assert YAML(typ="safe", pure=True).load(text) == {"values": values}


def test_the_image_is_of_this_ray_and_holds_every_package() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert re.search(r"^ARG RAY_VERSION=(.*)$", dockerfile, re.M)[1] == RAY_VERSION
    assert f"\nray=={RAY_VERSION}\n" in (ROOT / "constraints.txt").read_text()
    assert re.search(r"^FROM rayproject/ray:\$\{RAY_VERSION\}-py311-\$\{PLATFORM\}$", dockerfile, re.M)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {name.split(".")[0] for name in project["tool"]["setuptools"]["packages"]}
    copied = {
        name for line in re.findall(r"^COPY --chown=1000:100 (.*) \S+$", dockerfile, re.M) for name in line.split()
    }
    assert copied >= packages | {"pyproject.toml", "constraints.txt"}
    allowed = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    assert copied == allowed
    assert dockerfile.rstrip().splitlines()[-2].startswith("USER 1000")
