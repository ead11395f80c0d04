"""The command line: instant help, results on standard output, and one sentence with exit code 2 for every mistake."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

Command = Callable[..., subprocess.CompletedProcess[str]]


def test_help_is_instant(clippy_process: Command) -> None:
    clippy_process("--help")  # once to compile
    started = time.perf_counter()
    result = clippy_process("--help")
    assert time.perf_counter() - started < 1
    assert result.returncode == 0
    for verb in ("quickstart", "train", "evaluate", "report", "runs", "recipe", "data"):
        assert verb in result.stdout


def test_help_imports_no_verb_s_work() -> None:
    code = (
        "import sys\n"
        "from cluster.cli import parse\n"
        "try:\n"
        "    parse(['cluster', 'submit', '--help'])\n"
        "finally:\n"
        "    print('IMPORTED', *sys.modules)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    imported = set(result.stdout.partition("IMPORTED")[2].split())
    work = {"cluster.package", "cluster.jobs", "cluster.submission", "cluster.spec", "pipelines.recipe"}
    assert "cluster.job_verbs" in imported
    assert not imported & {*work, "pydantic", "ruamel", "requests", "ray", "torch"}


def test_recipe_show_prints_yaml_that_runs_again(clippy_command: Command, tmp_path: Path) -> None:
    first = clippy_command("recipe", "show", "shapes", "train.steps=7", "optim.warmup_steps=1")
    (tmp_path / "mine.yaml").write_text(first.stdout)
    again = clippy_command("recipe", "show", str(tmp_path / "mine.yaml"))
    assert again.stdout == first.stdout
    as_json = json.loads(clippy_command("recipe", "show", "shapes", "train.steps=51", "--json").stdout)
    assert as_json["train"]["steps"] == 51
    assert "shapes" in json.loads(clippy_command("recipe", "list", "--json").stdout)


def test_data_shapes_and_index(clippy_command: Command, tmp_path: Path) -> None:
    out = str(tmp_path / "shapes")
    made = clippy_command("data", "shapes", out, "--rows", "40", "--seed", "3", "--workers", "2", "--json")
    assert json.loads(made.stdout)["rows"]["train"] == 40
    again = clippy_command("data", "shapes", out, "--rows", "40", "--seed", "4")
    assert again.returncode == 2
    assert "seed" in again.stderr
    index = json.loads(clippy_command("data", "index", f"{out}/train", "--json").stdout)
    assert (index["usable_rows"], index["columns"]["image"]) == (40, "jpg")


def missing_shard(shapes: Path, folder: Path) -> list[str]:
    """A copy of the training shards whose second one vanished after it was indexed."""
    folder.mkdir()
    for file in sorted((shapes / "train").glob("0*.parquet")):
        (folder / file.name).write_bytes(file.read_bytes())
    from pipelines.index import index_dataset
    from pipelines.sections import DatasetConfig

    index_dataset(DatasetConfig(url=str(folder)))
    (folder / "00001.parquet").unlink()
    return [f"data.url={folder}"]


def no_images(shapes: Path, folder: Path) -> list[str]:
    folder.mkdir()
    pq.write_table(pa.table({"url": ["http://x"], "caption": ["a"]}), folder / "00000.parquet")
    return [f"data.url={folder}"]


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (
            missing_shard,
            "00001.parquet: this shard is in the manifest but is gone; restore it, or run: clippy data index",
        ),
        (no_images, "00000.parquet: has no image column"),
        (lambda *_: ["data.url=/no/such/folder"], "data.url: /no/such/folder does not exist"),
        (lambda *_: ["train.stepz=3"], "train.stepz (from the command line): no such field; did you mean 'steps'?"),
        (lambda *_: ["train.steps=soon"], 'train.steps (from the command line): must be a whole number (got "soon")'),
        (lambda *_: ["scaling.num_workers=3"], "optim.global_batch_size: 32 is not divisible by scaling.num_workers 3"),
        (lambda *_: ["model.image.name=vit_tini_patch16_224"], "model.image.name: timm has no 'vit_tini_patch16_224'"),
        (lambda *_: ["model.text.tokenizer=./nowhere"], "model.text.tokenizer: './nowhere' is neither"),
        (lambda *_: ["tracking.uri=http://127.0.0.1:9"], "tracking.uri: no MLflow store answers at http://127.0.0.1:9"),
    ],
)
def test_mistakes_of_training_are_one_sentence(
    clippy_command: Command,
    overrides: list[str],
    shapes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[Path, Path], list[str]],
    sentence: str,
) -> None:
    monkeypatch.setattr("pipelines.tracking._PAUSES_AT_THE_START", (0, 0))
    result = clippy_command("train", "shapes", *overrides, *spoil(shapes, tmp_path / "spoiled"))
    assert result.returncode == 2, result.stderr
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr
    assert not list((tmp_path / "runs").rglob("checkpoints"))


def test_a_mistake_that_shows_once_ray_runs_is_one_sentence_too(clippy_process: Command, overrides: list[str]) -> None:
    result = clippy_process("train", "shapes", *overrides, "tracking.enabled=false", "scaling.use_gpu=true")
    assert result.returncode == 2, result.stderr
    assert "need 2 GPU, and this machine has" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_cluster_that_does_not_answer_is_one_sentence(
    clippy_command: Command, overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # or this process would stay with the Ray of other tests
    result = clippy_command("train", "shapes", *overrides, "tracking.enabled=false", "scaling.ray_address=127.0.0.1:1")
    assert result.returncode == 2
    assert "scaling.ray_address: no Ray cluster answers" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["evaluate", "nowhere"], "nowhere: neither a run, a checkpoint nor a model folder"),
        (["report", "nowhere"], "no run lies here"),
        (["recipe", "show", "shapez"], "did you mean 'shapes'?"),
        (["data", "shapes", "out", "--rows", "0"], "rows"),
        (["data", "index", "nowhere"], "nowhere does not exist"),
        (["data", "index", "x", "train.steps=1"], "only data.* fields matter here"),
        (["trane"], "invalid choice: 'trane'"),
        ([], "the following arguments are required"),
    ],
)
def test_other_mistakes_too(clippy_command: Command, tmp_path: Path, arguments: list[str], sentence: str) -> None:
    result = clippy_command(*arguments)
    assert result.returncode == 2
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr


def test_what_others_print_does_not_reach_who_reads_the_json() -> None:
    code = (
        "from cluster.verbs import print_result, result_alone\n"
        "with result_alone(True):\n"
        "    print('(raylet) a warning')\n"
        "    print_result({'steps': 3}, True, '')\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) == {"steps": 3}
    assert "(raylet) a warning" in result.stderr
