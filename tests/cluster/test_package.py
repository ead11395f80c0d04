"""What of a folder is sent with a job: never a secret, nothing that git ignores, no more than the limit."""

from __future__ import annotations

import os
import subprocess
import tempfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster import package
from cluster.package import find_package

SECRETS = (
    *(".env", ".env.local", "prod.env", "server.pem", "tls.key", "id_rsa", "id_ed25519.old", ".netrc", ".pypirc"),
    *("credentials", "credentials.json", "my-credentials.json", "client_secret_1.json", "service-account.json"),
    *("secrets.yaml", "db-secret.yml", "auth_token", "hf_token.txt", "deploy.token", "kubeconfig", "terraform.tfstate"),
    *("SECRETS.YAML", "Server.PEM"),
)
DATA = ("0001.parquet", "shard.tar", "model.safetensors", "state.pt", "mlflow.db", "x.pyc")
CODE = (
    "train.py",
    "recipe.yaml",
    "credentials.py",
    "tokenizer.json",
    "secrets.py",
    "keys.md",
    "id.txt",
    ".env.example",
)
FOLDERS = ("", "configs", "deploy/prod", "a b/ü")
NEVER = (".git", ".venv", "node_modules", "__pycache__", "checkpoints", "mlruns", ".aws", ".ssh", "data", "runs")


def put(root: Path, name: str, content: bytes = b"x") -> None:
    """A file, with the folders above it."""
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(content)


def git(root: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True)


def sent(root: Path, **options: list[str]) -> set[str]:
    """What is in the package's zip."""
    with tempfile.TemporaryDirectory() as scratch:
        find_package(root, **options).write(Path(scratch) / "package.zip")
        return set(zipfile.ZipFile(Path(scratch) / "package.zip").namelist())


def at(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


places = st.builds(at, st.sampled_from(FOLDERS), st.sampled_from((*SECRETS, *DATA, *CODE)))
hidden = st.builds(at, st.sampled_from(NEVER), st.sampled_from(CODE))


@settings(max_examples=30, deadline=None)
@given(names=st.sets(st.one_of(places, hidden), min_size=1, max_size=12), tracked=st.booleans())
def test_code_goes_and_secrets_data_and_caches_stay(names: set[str], tracked: bool) -> None:
    """Also those that somebody has given to git."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in names:
            put(root, name)
        if tracked:
            git(root, "init", "-q")
            git(root, "add", "-f", ".")
        package = find_package(root)
        wanted = {name for name in names if Path(name).name in CODE and name.split("/")[0] not in NEVER}
        assert set(package.sizes) == wanted
        secret = {name for name in names if Path(name).name in SECRETS or name.split("/")[0] in (".aws", ".ssh")}
        assert set(package.withheld) == secret


def test_what_git_ignores_stays_in_nested_repositories_too(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    put(tmp_path, ".gitignore", b"scratch/\n*.log\n")
    put(tmp_path, "library/.gitignore", b"/generated\n")
    for name in ("a.py", "scratch/b.py", "c.log", "library/d.py", "library/generated/e.py", "gone.py"):
        put(tmp_path, name)
    git(tmp_path, "add", ".")
    (tmp_path / "gone.py").unlink()
    put(tmp_path, "other/.gitignore", b"ignored.py\n")
    put(tmp_path, "other/f.py")
    put(tmp_path, "other/ignored.py")
    git(tmp_path / "other", "init", "-q")
    assert sent(tmp_path) == {
        ".gitignore",
        "a.py",
        "library/.gitignore",
        "library/d.py",
        "other/.gitignore",
        "other/f.py",
    }


def test_a_git_that_does_not_end_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "commands/git", b"#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "commands/git").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "commands"), prepend=os.pathsep)
    monkeypatch.setattr(package, "_GIT_SECONDS", 0.2)
    with pytest.raises(ValueError, match=rf"git takes longer than 0.2 s to list {tmp_path}.*have git ignore"):
        find_package(tmp_path)


def test_a_repository_that_git_does_not_trust_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or what it ignores would be sent."""
    git(tmp_path, "init", "-q")
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(ValueError, match=f"git config --global --add safe.directory {tmp_path}"):
        find_package(tmp_path)
    (tmp_path / "inner").mkdir()
    with pytest.raises(ValueError, match=f"git config --global --add safe.directory {tmp_path}$"):
        find_package(tmp_path / "inner")


def test_keys_in_files_of_any_name_and_links_out_of_the_folder_stay(tmp_path: Path) -> None:
    begin = b"-----BEGIN %s PRIVATE KEY-----"  # so that this file is sent
    key = begin % b"RSA" + b"\nMIIEowIBAAKCAQEAx0\n-----END RSA PRIVATE KEY-----\n"
    root = tmp_path / "project"
    put(root, "notes.txt", b"see below\n" + key)
    put(root, "robot.json", b'{"private_key": "' + begin % b"EC" + b'\\nMIIEvQIBADANBgkqhki"}')
    put(root, "about-keys.py", b'HEADER = "-----BEGIN PRIVATE KEY-----"\n')
    put(tmp_path, "outside.txt")
    (root / "link.txt").symlink_to(tmp_path / "outside.txt")
    (root / "inner.txt").symlink_to(root / "about-keys.py")
    put(root, ".env", b"PASSWORD=1234")
    (root / "settings").symlink_to(".env")
    put(root, "weird/pyvenv.cfg")
    put(root, "weird/lib/x.py")
    put(root, ".clippy-job/environment.json")  # of a job that this folder was sent with
    package = find_package(root)
    assert set(package.sizes) == {"about-keys.py", "inner.txt"}
    assert package.withheld == (
        ".clippy-job/environment.json",
        ".env",
        "link.txt",
        "notes.txt",
        "robot.json",
        "settings",
    )
    assert "look like secrets or lead out of this folder: .clippy-job/environment.json, .env," in package.as_text()


def test_patterns_leave_out_and_take_in(tmp_path: Path) -> None:
    for name in ("a.py", "secrets.toml", "docs/a.md", "docs/deep/b.md", "weights/tiny.pt"):
        put(tmp_path, name)
    assert sent(tmp_path) == {"a.py", "docs/a.md", "docs/deep/b.md"}
    assert sent(tmp_path, exclude=["docs"], include=["secrets.toml"]) == {"a.py", "secrets.toml"}
    assert sent(tmp_path, exclude=["docs/deep", "a.py"], include=["*.pt"]) == {"docs/a.md", "weights/tiny.pt"}


def test_above_the_limit_the_largest_files_are_named(tmp_path: Path) -> None:
    for number in range(8):
        put(tmp_path, f"part-{number}.txt", b"x" * (number + 1) * 100_000)
    package = find_package(tmp_path)
    package.check_size(3.5)
    with pytest.raises(
        ValueError, match=r"3\.4 MiB in 8 files, above 2 MiB; the largest are part-7\.txt 781 KiB, part-6"
    ):
        package.check_size(2)
    with pytest.raises(ValueError, match=r"\.gitignore or --exclude, .* object storage, or allow more with --max-mib"):
        package.check_size(2)


def test_the_same_files_make_the_same_package_whose_further_files_are_private(tmp_path: Path) -> None:
    put(tmp_path / "project", "run.sh")
    (tmp_path / "project" / "run.sh").chmod(0o755)
    for name in ("one.zip", "two.zip"):
        find_package(tmp_path / "project").write(tmp_path / name, {"more.json": b"{}"})
        (tmp_path / "project" / "run.sh").touch()
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        modes = {entry.filename: entry.external_attr >> 16 & 0o777 for entry in archive.infolist()}
    assert modes == {"run.sh": 0o755, "more.json": 0o600}


def test_this_project_is_sent_whole() -> None:
    root = Path(__file__).parents[2]
    listed = subprocess.run(["git", "-C", str(root), "ls-files", "*.py", "*.yaml"], capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("no git here")
    assert set(listed.stdout.split()) <= set(find_package(root).sizes)
