"""What storage answers, in the words that a person gets: the real client against a server that gives S3's errors."""

from __future__ import annotations

import json
import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import CompletedProcess

import pyarrow.fs as pafs
import pytest
import s3fs

from pipelines import shards
from pipelines.columns import DataError
from pipelines.index import index_dataset
from pipelines.sections import DatasetConfig
from pipelines.shards import open_shard, read_footer
from pipelines.storage import locate


@contextmanager
def answering(status: int, code: str, headers: dict[str, str] | None = None) -> Iterator[tuple[str, list[str]]]:
    """The URL of a server that answers everything with one of S3's errors, and the requests it got."""
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            checked = " checked" if "x-amz-checksum-mode" in self.headers else ""
            requests.append(f"{self.command} {self.path}{checked}")
            body = f"<Error><Code>{code}</Code><Message>m</Message></Error>".encode()
            self.send_response(status)
            for name, value in {
                "Content-Type": "application/xml",
                "Content-Length": str(len(body)),
                **(headers or {}),
            }.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        server.server_close()


def read(endpoint: str) -> None:
    location = locate("s3://bucket/folder/a.parquet", {"endpoint_url": endpoint, "anon": True})
    read_footer(open_shard(location, 10_000), location)


def index(endpoint: str) -> None:
    index_dataset(DatasetConfig(url="s3://bucket/folder", storage_options={"endpoint_url": endpoint, "anon": True}))


@pytest.mark.parametrize("action", [read, index])
@pytest.mark.parametrize(
    ("status", "code", "sentence"),
    [
        (403, "AccessDenied", "access denied"),
        (403, "InvalidAccessKeyId", "credentials are not accepted|access denied"),
        (301, "PermanentRedirect", "another region"),
    ],
)
def test_lasting_errors_are_one_sentence_at_once(
    action: Callable[[str], None], status: int, code: str, sentence: str
) -> None:
    headers = {"x-amz-bucket-region": "eu-west-3"} if status == 301 else {}
    failure = pytest.raises(DataError, match=rf"s3://bucket/folder.*: .*({sentence})")
    with answering(status, code, headers) as (endpoint, requests), failure:
        action(endpoint)
    assert len(requests) <= 4


def test_what_is_not_there_is_told_apart() -> None:
    with answering(404, "NoSuchBucket") as (endpoint, _), pytest.raises(DataError, match="there is no such bucket"):
        index(endpoint)
    with answering(404, "NoSuchKey") as (endpoint, requests), pytest.raises(FileNotFoundError):
        read(endpoint)
    assert len(requests) == 1


def test_passing_errors_are_tried_again_and_then_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "ATTEMPTS", 2)
    strategy = pafs.AwsStandardS3RetryStrategy
    monkeypatch.setattr(pafs, "AwsStandardS3RetryStrategy", lambda max_attempts: strategy(max_attempts=2))  # not 5
    failure = pytest.raises(DataError, match=r"a\.parquet: cannot be read after 2 attempts")
    with answering(503, "SlowDown") as (endpoint, requests), failure:
        read(endpoint)
    assert len(requests) >= 4  # the client's own attempts, twice


def test_a_local_folder_without_permission_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        index_dataset(DatasetConfig(url=str(tmp_path / "nowhere")))


ONE_ATTEMPT = {"config_kwargs": {"retries": {"total_max_attempts": 1}}}
"""An option that Arrow's client does not know, so that s3fs takes its place."""


def test_storage_through_s3fs_that_does_not_answer_is_one_sentence(
    s3: str, monkeypatch: pytest.MonkeyPatch, clippy_command: Callable[..., CompletedProcess[str]]
) -> None:
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.setattr(shards, "ATTEMPTS", 2)
    nobody = {"endpoint_url": "http://127.0.0.1:9", **ONE_ATTEMPT}
    location = locate("s3://bucket/folder/a.tar", nobody)
    for action in (location.read_bytes, location.exists, location.list, lambda: location.write_bytes(b"a")):
        with pytest.raises(OSError, match="Could not connect"):
            action()
    result = clippy_command("data", "index", "s3://bucket/folder", f"data.storage_options={json.dumps(nobody)}")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert "s3://bucket/folder: cannot be read" in result.stderr


def test_storage_through_s3fs_is_that_of_arrow(s3: str) -> None:
    ours = locate("s3://bucket/through-s3fs/a", {"endpoint_url": s3, **ONE_ATTEMPT})
    ours = pickle.loads(pickle.dumps(ours))  # as Ray hands it to a decoder
    theirs = locate("s3://bucket/through-s3fs/a", {"endpoint_url": s3})
    assert not isinstance(ours.filesystem, type(theirs.filesystem))
    with pytest.raises(FileNotFoundError):
        ours.read_bytes()
    ours.write_bytes(b"0123456789" * 1000)
    assert theirs.read_bytes() == ours.read_bytes() == b"0123456789" * 1000
    with ours.filesystem.open_input_file(ours.path) as file:
        assert file.read_at(5, 7) == b"78901"
    assert [info.base_name for info in ours.parent.list()] == ["a"]
    with pytest.raises(FileNotFoundError):
        ours.parent.read_bytes()  # a folder
    ours.parent.remove_folder()
    assert not theirs.exists()


@pytest.mark.parametrize("options", [{"profile": "there-is-none"}, {"endpont_url": "http://host"}])
def test_options_that_cannot_be_are_one_sentence(options: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"s3://bucket/folder: cannot be opened: .*(there-is-none|endpont_url)"):
        locate("s3://bucket/folder", options)


def test_byte_ranges_are_read_without_the_checksums_that_s3_has_of_whole_objects_only() -> None:
    with answering(403, "AccessDenied") as (endpoint, requests), pytest.raises(DataError):
        read(endpoint)
    assert requests
    assert not [request for request in requests if request.endswith(" checked")]
