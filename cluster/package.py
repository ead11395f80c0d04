"""What of a project folder a job is sent: its code and recipes; no data, weights, runs, caches, or secrets."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from shlex import quote
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zipfile import ZipInfo

MOST_MIB = 95.0
"""Ray's job server takes requests of 100 MiB at most, however large its package store is."""
_GIT_SECONDS = 120.0

_CACHES = (
    *(".git", ".hg", ".svn", ".venv", "venv", "node_modules", "__pycache__", "*.egg-info", ".ipynb_checkpoints"),
    *(".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", ".tox", ".nox", ".idea", ".vscode"),
    *("*.pyc", ".DS_Store", "build", "dist"),
)
_DATA = (
    *("checkpoints", "mlruns", "mlartifacts", "mlflow-artifacts", "wandb", "/data", "/runs", "/quickstart"),
    *("*.parquet", "*.tar", "*.tar.*", "*.tgz", "*.arrow", "*.tfrecord", "*.npy", "*.npz", "*.db", "*.sqlite"),
    *("*.safetensors", "*.pt", "*.pth", "*.ckpt", "*.onnx", "*.bin"),
)
_SECRETS = (
    *(".env", ".env.*", "*.env", ".envrc", "*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.ppk"),
    *("id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", "*.kdbx", "*.ovpn", "*.gpg", "*.asc", "*.tfstate*", "*.tfvars"),
    *(".netrc", "_netrc", ".pgpass", ".pypirc", ".npmrc", ".git-credentials", ".htpasswd", ".dockercfg", ".boto"),
    *(".databrickscfg", ".s3cfg", "rclone.conf", "kubeconfig", "*.kubeconfig", "credentials", "credentials.*"),
    *(".credentials*", "client_secret*", "service-account*", "service_account*", "secret", "secret.*", "secrets"),
    *("secrets.*", "*.secret", "*.secrets", "*-secret.y*ml", "*-secrets.y*ml", "*_secret.y*ml", "*_secrets.y*ml"),
    *("token", "*.token", "auth_token*", "*_token", "*-token", "hf_token*", "passwords.*", "*.passwd"),
    *(".aws", ".ssh", ".gnupg", ".azure", ".gcloud", ".kube", ".docker", ".clippy-job", "*credentials*.json"),
)
_NO_SECRETS = ("*.example", "*.sample", "*.template", "*.pub", "*.py", "*.pyi", "*.md")
"""Of code such as credentials.py, what it holds tells, not how it is called."""
_PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----(\\n|\r?\n)\s*[A-Za-z0-9+/=]{16}")
_LOOKED_INTO_BYTES = 1 << 20
_SHOWN = 5


@dataclass(frozen=True)
class Package:
    """Files of a folder, by their path in it."""

    folder: Path
    sizes: Mapping[str, int]
    withheld: tuple[str, ...]
    """What was left out because it looks like a secret, or is a link that leads out of the folder."""
    ignored_by: str
    """Whose rules were followed beside our own."""

    @property
    def total_bytes(self) -> int:
        """Of all files, as they lie."""
        return sum(self.sizes.values())

    def largest(self, count: int = _SHOWN) -> list[tuple[str, int]]:
        """The largest files, the largest first."""
        return sorted(self.sizes.items(), key=lambda entry: (-entry[1], entry[0]))[:count]

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "files": len(self.sizes),
            "bytes": self.total_bytes,
            "largest": [{"file": name, "bytes": size} for name, size in self.largest()],
            "withheld": list(self.withheld),
        }

    def as_text(self) -> str:
        """Two or three lines."""
        from pipelines.inspection.units import bytes_text

        files = f"{len(self.sizes)} file{'s' * (len(self.sizes) != 1)}"
        lines = [f"package: {files}, {bytes_text(self.total_bytes)} ({self.ignored_by})"]
        lines.append(f"  largest: {_listed(self.largest())}" if self.sizes else "  nothing to send")
        if self.withheld:
            more = f", and {len(self.withheld) - _SHOWN} more" if len(self.withheld) > _SHOWN else ""
            named = ", ".join(self.withheld[:_SHOWN])
            lines.append(f"  left out, as they look like secrets or lead out of this folder: {named}{more}")
        return "\n".join(lines)

    def check_size(self, most_mib: float) -> None:
        """Raises ValueError, with the largest files and what helps, above so many MiB."""
        if self.total_bytes > most_mib * 2**20:
            from pipelines.inspection.units import bytes_text

            raise ValueError(
                f"the package would be {bytes_text(self.total_bytes)} in {len(self.sizes)} files, above {most_mib:g} "
                f"MiB; the largest are {_listed(self.largest())}: leave them out with .gitignore or --exclude, keep "
                f"data and weights on object storage, or allow more with --max-mib, {MOST_MIB:g} at most"
            )

    def write(self, file: Path, more: Mapping[str, bytes] | None = None) -> None:
        """As a zip, the same bytes for the same files; ``more`` are further files, that only their owner may read."""
        from zipfile import ZIP_DEFLATED, ZipFile

        with ZipFile(file, "w", ZIP_DEFLATED) as archive:
            for name in sorted(self.sizes):
                path = self.folder / name
                mode = 0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644
                archive.writestr(_entry(name, mode), path.read_bytes())
            for name, content in (more or {}).items():
                archive.writestr(_entry(name, 0o600), content)


def find_package(folder: Path, exclude: Sequence[str] = (), include: Sequence[str] = ()) -> Package:
    """The files of ``folder`` that a job needs.

    Left out is what .gitignore names (where git is installed), data, weights, runs, caches and secrets by their usual
    names, files that hold a private key, links that lead out of the folder, and what ``exclude`` names; what
    ``include`` names comes along whatever it is called. Patterns are of a file or a folder, as in .gitignore.
    """
    names, ignored_by = _candidates(folder)
    sizes, withheld = {}, []
    for name in names:
        path = folder / name
        if not path.is_file() or _matches(name, exclude):
            continue
        if not _matches(name, include):
            if _matches(name, (*_CACHES, *_DATA)) or _in_environment(folder, name):
                continue
            target = _target(path, folder)
            if target is None or _is_called_secret(name) or _is_called_secret(target) or _holds_key(path):
                withheld.append(name)
                continue
        sizes[name] = path.stat().st_size
    return Package(folder, sizes, tuple(sorted(withheld)), ignored_by)


def _entry(name: str, mode: int) -> ZipInfo:
    from zipfile import ZIP_DEFLATED, ZipInfo

    entry = ZipInfo(name)  # as of 1980: the same files make the same package
    entry.external_attr = (stat.S_IFREG | mode) << 16
    entry.compress_type = ZIP_DEFLATED
    return entry


def _candidates(folder: Path) -> tuple[list[str], str]:
    """Names below ``folder``, and by whose rules."""
    try:
        listed = _git_files(folder)
    except OSError:
        listed = None
    if listed is not None:
        return listed, "without what git ignores"
    if (folder / ".gitignore").exists():
        return list(_walk(folder, folder)), "git is not here, so .gitignore was not followed"
    return list(_walk(folder, folder)), "no git repository"


def _git_files(folder: Path) -> list[str] | None:
    """What git tracks or would track, nested repositories too; None where there is no repository.

    Raises ValueError where there is one and git does not read it, for then nobody knows what it ignores, or where git
    takes too long.
    """
    command = ["git", "-C", str(folder), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        result = subprocess.run(command, capture_output=True, timeout=_GIT_SECONDS, env={**os.environ, "LC_ALL": "C"})
    except subprocess.TimeoutExpired:
        raise ValueError(
            f"git takes longer than {_GIT_SECONDS:g} s to list {folder}, of which a job is sent the code; have git "
            "ignore its large folders, or submit from a clone on a faster disk"
        ) from None
    if distrusted := re.search(rb"dubious ownership in repository at '(.+)'", result.stderr):
        place = distrusted[1].decode(errors="surrogateescape")
        raise ValueError(
            f"git does not read {place}, which belongs to another user, so what it ignores would be sent; run: "
            f"git config --global --add safe.directory {quote(place)}"
        )
    if result.returncode:
        return None
    names = []
    for name in sorted(set(result.stdout.decode(errors="surrogateescape").split("\0")) - {""}):
        inner = folder / name
        if inner.is_dir() and not inner.is_symlink():  # a repository of its own
            names += [f"{name.rstrip('/')}/{more}" for more in _git_files(inner) or []]
        else:
            names.append(name)
    return names


def _walk(root: Path, folder: Path) -> Iterator[str]:
    """Files below ``folder``, by their path in ``root``; what is never sent is not entered, for it may be huge."""
    for entry in sorted(folder.iterdir()):
        name = entry.relative_to(root).as_posix()
        if entry.is_dir() and not entry.is_symlink():
            if not _matches(name, (*_CACHES, *_DATA)) and not (entry / "pyvenv.cfg").exists():
                yield from _walk(root, entry)
        else:
            yield name


def _matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a pattern names the file or a folder that it is in; with a slash, by the path from the root."""
    parts = PurePosixPath(name).parts
    paths = ["/".join(parts[: depth + 1]) for depth in range(len(parts))]
    for pattern in patterns:
        anchored = "/" in pattern.rstrip("/")
        wanted = pattern.strip("/").lower()
        if any(fnmatchcase(one.lower(), wanted) for one in (paths if anchored or pattern[:1] == "/" else parts)):
            return True
    return False


def _in_environment(folder: Path, name: str) -> bool:
    """Whether it belongs to a virtual environment, whatever that is called."""
    return any((folder / parent / "pyvenv.cfg").exists() for parent in PurePosixPath(name).parents if parent.name)


def _is_called_secret(name: str) -> bool:
    folder, _, last = name.rpartition("/")
    return _matches(folder, _SECRETS) or (_matches(last, _SECRETS) and not _matches(last, _NO_SECRETS))


def _holds_key(path: Path) -> bool:
    return path.stat().st_size <= _LOOKED_INTO_BYTES and _PRIVATE_KEY.search(path.read_bytes()) is not None


def _target(path: Path, folder: Path) -> str | None:
    """What a link in ``folder`` leads to, by its path there; None where that is outside."""
    place, root = path.resolve(), folder.resolve()
    return place.relative_to(root).as_posix() if place.is_relative_to(root) else None


def _listed(files: Sequence[tuple[str, int]]) -> str:
    from pipelines.inspection.units import bytes_text

    return ", ".join(f"{name} {bytes_text(size)}" for name, size in files)
