"""Folders and object stores as one thing: a pyarrow filesystem and a path inside it. Nothing is seen half-written."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

# Arrow's S3 client would take a tenth of a core-second for each 100 MB to be ready for checksums that S3 does not send
# with a byte range. Each process reads this when it opens or is handed a client; what the user sets stays.
os.environ.setdefault("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")


@dataclass(frozen=True)
class Location:
    """A folder or file: ``path`` inside ``filesystem``, and ``url`` as the user wrote it."""

    url: str
    filesystem: pafs.FileSystem
    path: str

    def __truediv__(self, name: str) -> Location:
        """The entry ``name`` inside this folder."""
        return Location(f"{self.url.rstrip('/')}/{name}", self.filesystem, f"{self.path.rstrip('/')}/{name}")

    @property
    def parent(self) -> Location:
        """The folder that this lies in."""
        return Location(self.url.rpartition("/")[0], self.filesystem, self.path.rpartition("/")[0])

    @property
    def is_local(self) -> bool:
        """Whether this is a folder or file of this machine."""
        return isinstance(self.filesystem, pafs.LocalFileSystem)

    @property
    def _is_gcs(self) -> bool:
        return isinstance(self.filesystem, pafs.GcsFileSystem)

    def exists(self) -> bool:
        """Whether something lies here."""
        return self.filesystem.get_file_info(self.path).type != pafs.FileType.NotFound

    def read_bytes(self) -> bytes:
        """The whole file. Raises FileNotFoundError."""
        with self.filesystem.open_input_stream(self.path) as stream:
            return stream.read()

    def read_text(self) -> str:
        """The whole file as UTF-8."""
        return self.read_bytes().decode()

    def write_bytes(self, data: bytes) -> None:
        """Write the file so that it appears whole or not at all."""
        if self.is_local:
            _replace(Path(self.path), data)
        else:  # an object appears when its upload is complete
            with self.filesystem.open_output_stream(self.path) as stream:
                stream.write(data)

    def write_text(self, text: str) -> None:
        """``write_bytes`` of UTF-8."""
        self.write_bytes(text.encode())

    def list(self) -> list[pafs.FileInfo]:
        """Entries directly inside, sorted by name; none if there is no such folder."""
        selector = pafs.FileSelector(self.path, recursive=self._is_gcs, allow_not_found=True)
        found = self.filesystem.get_file_info(selector)
        if self._is_gcs:
            found = _directly_inside(self.path, found)
        return sorted(found, key=lambda info: info.base_name)

    def remove_folder(self) -> None:
        """Remove the folder with all it holds, if it is there."""
        if not self.exists():
            return
        try:
            self.filesystem.delete_dir(self.path)
        except FileNotFoundError:  # Google's store: the files are gone, and the folder was nothing but they
            if self.exists():
                raise


def _directly_inside(folder: str, everything: list[pafs.FileInfo]) -> list[pafs.FileInfo]:
    """Files and folders of a folder: Arrow lists none of Google's that is but a part of names (its issue 35993)."""
    found = {}
    for info in everything:
        name, _, rest = info.path.removeprefix(f"{folder}/").strip("/").partition("/")
        if rest or info.type == pafs.FileType.Directory:
            found[name] = pafs.FileInfo(f"{folder}/{name}", pafs.FileType.Directory)
        elif name:
            found[name] = info
    return list(found.values())


def hold(descriptor: int, taken: Exception) -> None:
    """Lock an open file or folder for this process until it is closed or the process ends, however that does.

    Raises ``taken`` if another process of this disk holds it. A filesystem without locks holds nothing.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise taken from None
    except OSError:
        pass


def reason(error: Exception) -> str:
    """An error of storage in one sentence: what is wrong and what helps, where that is known."""
    return explain(error) or (str(error).splitlines() or [type(error).__name__])[0]


def is_absence(error: Exception) -> bool:
    """Whether an error of storage says that there is no such file."""
    return isinstance(error, FileNotFoundError) or any(sign in str(error) for sign in _NOT_FOUND)


def is_of_storage(error: Exception) -> bool:
    """Whether an error of reading a file there is comes from the object store, and says nothing of what lies there."""
    told = any(sign in str(error) for sign in ("AWS Error", "google::cloud"))
    return not is_absence(error) and (told or isinstance(error, ConnectionError | TimeoutError | PermissionError))


_NOT_FOUND = ("NO_SUCH_KEY", "RESOURCE_NOT_FOUND", "NoSuchKey")


def explain(error: Exception) -> str | None:
    """What is wrong and what helps, for an error of storage that no patience mends; None for any other."""
    text = str(error)
    for signs, sentence in _LASTING:
        if any(sign in text for sign in signs):
            return sentence
    if isinstance(error, PermissionError):
        return "access denied; check the permissions or the credentials in the environment"
    return None


_LASTING = (
    (("NO_SUCH_BUCKET", "NoSuchBucket", "bucket does not exist"), "there is no such bucket; check name and endpoint"),
    (
        ("PermanentRedirect", "AuthorizationHeaderMalformed", "HTTP status 301", "configured region"),
        "the bucket lies in another region; set storage_options.region or AWS_REGION to its own",
    ),
    (
        ("INVALID_ACCESS_KEY_ID", "InvalidAccessKeyId", "SIGNATURE_DOES_NOT_MATCH", "SignatureDoesNotMatch"),
        "the credentials are not accepted; check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    ),
    (
        ("ACCESS_DENIED", "AccessDenied", "HTTP status 403", "Forbidden", "ExpiredToken"),
        "access denied; check credentials and policy, or set storage_options.anon=true for a public bucket",
    ),
)


_GCS_PATIENCE = timedelta(seconds=60)


def locate(url: str, options: Mapping[str, Any] | None = None) -> Location:
    """The location of a folder, a file, or an ``s3://``, ``gs://`` or other fsspec URL.

    ``options`` are fsspec's (``endpoint_url``, ``anon``, ``region``, ``profile``, ...); credentials come from the
    environment. Raises ValueError where the URL or an option is not understood.
    """
    options = dict(options or {})
    protocol, separator, rest = url.partition("://")
    if not separator or protocol == "file":
        return Location(url, pafs.LocalFileSystem(), os.path.abspath(os.path.expanduser(rest or url)))
    path = rest.strip("/")
    if not path:
        raise ValueError(f"{url}: names no bucket; the form is {protocol}://bucket/folder")
    try:
        if protocol == "s3" and set(options) <= {"endpoint_url", "anon", "region"}:
            return Location(url, _arrow_s3(options), path)
        if protocol in ("gs", "gcs") and set(options) <= {"endpoint_url", "anon"}:
            return Location(url, _arrow_gcs(options), path)
        if not options:
            filesystem, path = pafs.FileSystem.from_uri(url)
            return Location(url, filesystem, path)
    except (ValueError, NotImplementedError, ImportError):
        pass  # a protocol or option that Arrow does not know: fsspec may
    import fsspec

    try:  # s3fs for profiles and client settings; gcsfs, adlfs and others where installed
        opened = fsspec.filesystem(protocol, **options)
        if protocol == "s3":
            opened.connect()  # only now an option that it does not know is refused
        filesystem = pafs.PyFileSystem(pafs.FSSpecHandler(_WithOSErrors(opened)))
    except Exception as error:  # a profile that there is not, an unknown option: each library has errors of its own
        raise ValueError(f"{url}: cannot be opened: {error}") from None
    return Location(url, filesystem, path)


class _WithOSErrors:
    """A filesystem of fsspec, or a file of it, whose errors are all OSErrors: those of botocore and others are not."""

    def __init__(self, wrapped: Any) -> None:
        self._wrapped = wrapped

    def isfile(self, path: str) -> bool:
        """fsspec's own takes a file for missing where the object store does not answer, and Arrow asks it."""
        try:
            return bool(self.info(path)["type"] == "file")
        except FileNotFoundError:
            return False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # also while it is unpickled, without what it wraps
            raise AttributeError(name)
        value = getattr(self._wrapped, name)
        return partial(self._call, name, value) if callable(value) else value

    def _call(self, name: str, method: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        try:
            result = method(*arguments, **named)
        except (OSError, TypeError, ValueError, NotImplementedError):
            raise
        except Exception as error:
            raise ConnectionError(str(error) or type(error).__name__) from None
        return _WithOSErrors(result) if name == "open" else result


def _arrow_s3(options: Mapping[str, Any]) -> pafs.S3FileSystem:
    arguments: dict[str, Any] = {"anonymous": bool(options.get("anon", False))}
    endpoint = (
        options.get("endpoint_url") or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    )
    if endpoint:
        scheme, _, host = endpoint.rpartition("://")
        arguments |= {"endpoint_override": host, "scheme": scheme or "https"}
    region = options.get("region") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if region or endpoint:  # without either, Arrow asks the environment and then the bucket
        arguments["region"] = region or "us-east-1"
    # The client itself repeats what was throttled, reset or cut short; reads of shards are repeated above it too.
    arguments["retry_strategy"] = pafs.AwsStandardS3RetryStrategy(max_attempts=5)
    return pafs.S3FileSystem(**arguments)


def _arrow_gcs(options: Mapping[str, Any]) -> pafs.GcsFileSystem:
    """With Google's default credentials, or without any where ``anon`` says so or an emulator is named."""
    emulator = os.environ.get("STORAGE_EMULATOR_HOST")
    endpoint = options.get("endpoint_url") or emulator
    arguments: dict[str, Any] = {"anonymous": bool(options.get("anon", emulator))}
    if endpoint:
        scheme, _, host = endpoint.rpartition("://")
        arguments |= {"endpoint_override": host.rstrip("/"), "scheme": scheme or "https"}
    # Arrow would try for a quarter of an hour, saying nothing; reads of shards are repeated above it too.
    return pafs.GcsFileSystem(retry_time_limit=_GCS_PATIENCE, **arguments)


def _replace(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
