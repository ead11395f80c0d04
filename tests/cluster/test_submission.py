"""What a job is told to run, and what is refused before anything is sent."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.job_server import connect, read_usage
from cluster.jobs import Job, requirements
from cluster.submission import read_command

Command = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).parents[2]
SHARED = ("data.url=s3://b/pairs", "storage.url=s3://b/runs", "tracking.uri=https://mlflow.example", "eval.every=null")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of its own, no cluster, and nothing in the environment that names one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)


def test_a_training_uses_the_cluster_it_runs_on_and_the_folders_that_were_meant(tmp_path: Path) -> None:
    submission = read_command(["train", "shapes", "train.steps=60", "--json"])
    assert submission.words == (
        *("train", "shapes", "train.steps=60"),
        *(f'data.url="{tmp_path}/data/shapes/train"', f'eval.url="{tmp_path}/data/shapes"'),
        *(f'storage.url="{tmp_path}/runs"', "scaling.ray_address=auto", "--json"),
    )
    assert submission.recipe is not None
    assert submission.recipe.train.steps == 60
    assert set(submission.local) == {"data.url", "storage.url"}
    with pytest.raises(ValueError, match=r"only this machine has storage\.url runs, data\.url data/shapes/train; name"):
        submission.check_places({})


def test_the_files_of_a_job_are_its_recipe_s_and_those_that_it_builds_on(tmp_path: Path) -> None:
    (tmp_path / "studies").mkdir()
    (tmp_path / "own.yaml").write_text("base: shapes\nname: own\n")
    (tmp_path / "mine.yaml").write_text("base: own.yaml\nname: mine\n")
    study = "name: s\nspace: {optim.eps: {choice: [1e-6]}}\nmetrics: [{metric: loss}]\nbudget: {trials: 1}\n"
    (tmp_path / "studies" / "s.yaml").write_text(study + "base: {base: ../mine.yaml, eval: {every: 100}}\n")
    assert read_command(["train", "./mine.yaml"]).files == ("mine.yaml", "own.yaml")
    assert read_command(["tune", "studies/s.yaml"]).files == ("studies/s.yaml", "mine.yaml", "own.yaml")
    assert read_command(["tune", "shapes-pooling"]).files == ()
    assert read_command(["tune", "shapes-pooling", "base=mine.yaml"]).files == ("mine.yaml", "own.yaml")
    (tmp_path / "mine.yaml").write_text("base: ../own.yaml\nname: mine\n")
    (tmp_path.parent / "own.yaml").write_text("base: shapes\n")
    with pytest.raises(ValueError, match=r"RECIPE: \.\./own\.yaml: a job gets the files of this folder"):
        read_command(["train", "mine.yaml"])


def test_places_that_all_see_are_left_as_they_are() -> None:
    submission = read_command(["clippy", "train", "shapes", *SHARED])
    submission.check_places({})
    assert submission.words[-2:] == (f'eval.url="{Path.cwd()}/data/shapes"', "scaling.ray_address=auto")


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("tracking.uri=sqlite:///mlflow.db", "tracking.uri sqlite:///mlflow.db"),
        ("tracking.uri=http://localhost:5000", "tracking.uri http://localhost:5000"),
        ("storage.url=/tmp/runs", "storage.url /tmp/runs"),
        ("tracking.uri=postgresql://localhost/mlflow", "tracking.uri postgresql://localhost/mlflow"),
        ("data.storage_options.endpoint_url=http://127.0.0.1:9000", "data.storage_options.endpoint_url http://127"),
        (
            "data.storage_options.endpoint_url=localhost:9000",
            "data.storage_options.endpoint_url https://localhost:9000",
        ),
        (
            "storage.storage_options={client_kwargs: {endpoint_url: 'http://[::1]:9000'}}",
            r"storage.storage_options.client_kwargs.endpoint_url http://\[::1\]:9000",
        ),
        ("model.text.pretrained=/models/t5", "model.text.pretrained /models/t5"),
    ],
)
def test_places_of_this_machine_alone_are_named(override: str, named: str) -> None:
    with pytest.raises(ValueError, match=f"only this machine has .*{named}"):
        read_command(["train", "shapes", *SHARED, override]).check_places({})


def test_an_endpoint_without_a_scheme_is_a_server_and_not_a_folder() -> None:
    submission = read_command(["train", "shapes", *SHARED, "data.storage_options.endpoint_url=minio.example:9000"])
    submission.check_places({})
    assert "minio.example:9000" not in " ".join(submission.words[7:])


def test_an_account_of_databricks_is_no_folder() -> None:
    submission = read_command(["train", "shapes", *SHARED, "tracking.uri=databricks"])
    submission.check_places({"MLFLOW_TRACKING_URI": "databricks"})
    assert not [word for word in submission.words if word.startswith("tracking.uri=") and "/databricks" in word]
    assert read_command(["evaluate", "openai/clip", "--mlflow-uri", "databricks"]).words[2:4] == (
        "--mlflow-uri",
        "databricks",
    )


def test_a_sqlite_file_is_the_one_that_was_meant(tmp_path: Path) -> None:
    words = read_command(["train", "shapes", *SHARED, "tracking.uri='sqlite:///a #b.db'"]).words
    assert f'tracking.uri="sqlite:///{tmp_path}/a #b.db"' in words
    words = read_command(["evaluate", "openai/clip", "--mlflow-uri=sqlite:///b.db"]).words
    assert f"--mlflow-uri=sqlite:///{tmp_path}/b.db" in words


def test_servers_that_options_and_variables_name_count_too(tmp_path: Path) -> None:
    importing = [
        "data",
        "import",
        "s3://b/a",
        "s3://b/b",
        "--dest-storage-option",
        "endpoint_url=http://localhost:9000",
    ]
    assert read_command(importing).local == {"dest_storage.storage_options.endpoint_url": "http://localhost:9000"}
    indexing = read_command(["data", "index", "s3://b/pairs", "data.manifest=m.parquet"])
    assert indexing.local == {"data.manifest": "m.parquet"}
    assert indexing.words[-1] == f'data.manifest="{tmp_path}/m.parquet"'
    shared = read_command(["data", "index", "s3://b/pairs"])
    shared.check_places(
        {"AWS_ENDPOINT_URL": "minio.example:9000", "MLFLOW_TRACKING_URI": "https://m.example", "X": "y"}
    )
    with pytest.raises(ValueError, match=r"has --env AWS_ENDPOINT_URL https://localhost:9000; name"):
        shared.check_places({"AWS_ENDPOINT_URL": "localhost:9000"})
    with pytest.raises(ValueError, match=r"has --env STORAGE_EMULATOR_HOST https://127\.0\.0\.1:4443; name"):
        shared.check_places({"STORAGE_EMULATOR_HOST": "127.0.0.1:4443"})
    with pytest.raises(ValueError, match=r"has --env MLFLOW_TRACKING_URI http://localhost:5000; name"):
        shared.check_places({"MLFLOW_TRACKING_URI": "http://me:hunter2@localhost:5000"})


def test_a_quickstart_s_own_places_count_too(tmp_path: Path) -> None:
    quick = read_command(["quickstart", "storage.url=other", "tracking.uri=http://localhost:5000"])
    assert f'storage.url="{tmp_path}/other"' in quick.words
    assert quick.local == {"--out": "quickstart", "storage.url": "other", "tracking.uri": "http://localhost:5000"}


def test_other_commands(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    words = read_command(["evaluate", "model", "--data=voc", "--benchmark", "voc"]).words
    assert words == (
        *("evaluate", f"{tmp_path}/model", f"--data={tmp_path}/voc", "--benchmark", "voc"),
        *("--ray-address", "auto"),
    )
    importing = read_command(["data", "import", "s3://b/{00..11}.tar", "s3://b/pairs"])
    assert importing.words == ("data", "import", "s3://b/{00..11}.tar", "s3://b/pairs", "--ray-address", "auto")
    assert not importing.local
    assert read_command(["evaluate", "openai/clip", "--data", "s3://b/voc", "--out", "s3://b/o"]).local == {}
    assert read_command(["data", "index", "s3://b/pairs"]).words == ("data", "index", "s3://b/pairs")
    quick = read_command(["quickstart", "train.steps=60"])
    assert quick.words == (
        "quickstart",
        "train.steps=60",
        "scaling.ray_address=auto",
        "--out",
        f"{tmp_path}/quickstart",
    )
    assert quick.local == {"--out": "quickstart"}


def test_a_study_s_folders_and_demand_are_those_of_its_base_recipe(tmp_path: Path) -> None:
    submission = read_command(["tune", "shapes-pooling", "budget.trials=2", "storage.url=s3://b/runs", "--json"])
    assert submission.words == (
        *("tune", "shapes-pooling", "budget.trials=2", "storage.url=s3://b/runs"),
        *(f'data.url="{tmp_path}/data/shapes/train"', f'eval.url="{tmp_path}/data/shapes"'),
        *("scaling.ray_address=auto", "--json"),
    )
    assert set(submission.local) == {"data.url", "eval.url"}
    assert submission.recipe is not None


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--"], "COMMAND: say what the job runs, after --"),
        (["--", "tune", "shapes-poolin"], "did you mean 'shapes-pooling'?"),
        (["--", "tune", "list"], "clippy tune list runs here"),
        (["--", "report", "runs/x"], "clippy report runs/x runs here; jobs are train, tune,"),
        (["--", "trane", "shapes"], "invalid choice: 'trane'"),
        (["--", "train", "shapes", "train.stepz=3"], "no such field; did you mean 'steps'?"),
        (["--", "evaluate", "m", "--ray-address", "x:1"], "a job runs on the cluster that it is submitted to"),
        (["--env", "NOT_SET_ANYWHERE", "--", "train", "shapes"], "--env: NOT_SET_ANYWHERE is not set here"),
        (["--env", "TOKEN=hunter2", "--", "train", "shapes"], "--env: TOKEN=... would leave the value in the shell's"),
        (["--max-mib", "500", "--", "train", "shapes"], "--max-mib: must be above 0 and at most 95 (got 500)"),
        (["--", "tune", "show", "shapes-pooling"], "clippy tune show runs here"),
        (
            ["--", "data", "import", "s3://b/p", "s3://b/q", "--storage-option", "secret=hunter2"],
            "storage_options: secret: credentials do not belong",
        ),
        (["--", "data", "import", "https://me:hunter2@h/p.tar", "s3://b/q"], "source: carries credentials"),
        (["--", "data", "index", "s3://me:hunter2@b/p"], "url: carries credentials"),
        (
            ["--", "evaluate", "m", "--mlflow-uri", "http://me:hunter2@h"],
            "--mlflow-uri: carries credentials, and Ray shows",
        ),
        (["--", "evaluate", "https://me:hunter2@h/model"], "CHECKPOINT: carries credentials"),
        (["--", "data", "import", "s3://b/p", "s3://b/q", "--quality", "300"], "quality (from the command line)"),
        (["--image", "x", "--env", "HOME", "--", "train", "shapes"], "--env: goes with a package, not with --image"),
        (["--image", "x", "--", "train", "mine.yaml"], "--image: the image would not have mine.yaml"),
        (["--", "train", "../mine.yaml"], "RECIPE: ../mine.yaml: a job gets the files of this folder"),
        (["--", "train", "shapes"], "--address: names no cluster, and none runs here"),
        (["--address", "ray://h:1", "--", "train", "shapes"], "'ray://h:1' is no address of a job server"),
        (
            ["--address", "http://127.0.0.1:9", "--", "train", "shapes"],
            "no Ray job server answers at http://127.0.0.1:9",
        ),
    ],
)
def test_mistakes_are_one_sentence(
    clippy_command: Command, tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    for file in (tmp_path / "mine.yaml", tmp_path.parent / "mine.yaml"):
        file.write_text("base: shapes\nname: mine\n")
    result = clippy_command("cluster", "submit", *arguments)
    assert result.returncode == 2
    assert sentence in result.stderr
    assert "hunter2" not in result.stderr
    assert "Traceback" not in result.stderr


def test_a_token_file_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/no/such/token")
    with pytest.raises(ValueError, match=r"RAY_AUTH_TOKEN_PATH: /no/such/token cannot be read \(No such file"):
        connect("http://127.0.0.1:9")


def test_an_address_that_is_wrong_is_named_by_where_it_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(ValueError, match=r"^RAY_ADDRESS: 'auto' is no address of a job server"):
        connect(None)
    with pytest.raises(ValueError, match=r"^--address: 'ray://h:1' is no address of a job server"):
        connect("ray://me:hunter2@h:1")


def test_what_pip_installs_is_the_project_s_and_changes_with_its_constraints(tmp_path: Path) -> None:
    lines = requirements(ROOT)
    assert any(line.startswith("ray[") for line in lines)
    assert lines[-2] == "-c ${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}/constraints.txt"
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    (tmp_path / "constraints.txt").write_text("torch==1\n")
    assert requirements(tmp_path)[:-1] == lines[:-1]
    assert requirements(tmp_path)[-1] != lines[-1]
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'mine'\ndependencies = []\n")
    with pytest.raises(ValueError, match="submit from the project's folder, or add --no-install"):
        requirements(tmp_path)


def test_what_is_used_of_a_node_is_read() -> None:
    text = "1.0/4.0 CPU (1.0 used of 2.0 reserved in placement groups)\n0B/2.10GiB memory\n0.5/1.0 GPU"
    assert read_usage(text) == {"CPU": 1.0, "GPU": 0.5}


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ("Job failed with exit code 2, last available logs (truncated):\nstep 1\nclippy: no\n\n", "clippy: no"),
        (
            "setup failed.\nTraceback\n  ERROR: Cannot install x\n  more\nERROR: y",
            "setup failed. ERROR: Cannot install x",
        ),
        ("Job supervisor died.", "Job supervisor died."),
        ("", "it left no message"),
    ],
)
def test_a_failed_job_s_error_is_a_line(message: str, error: str) -> None:
    assert Job("j", "FAILED", "clippy train", message, None, None).error == error
