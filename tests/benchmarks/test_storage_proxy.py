"""The proxy that tests and benchmarks put before storage: true to the byte, counting, late and faulty as told."""

from __future__ import annotations

import http.client
import os
import statistics
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from types import ModuleType
from urllib.parse import urlsplit

import pyarrow as pa
import pytest
import s3fs
from pyarrow.fs import AwsDefaultS3RetryStrategy, FileSelector, S3FileSystem

CONTENT = os.urandom(3 * 2**20 + 17)


@pytest.fixture(scope="module")
def stored(s3: str) -> str:
    """The path of an object of ``CONTENT``, put there without the proxy."""
    with arrow(s3).open_output_stream("bucket/proxied/object") as stream:
        stream.write(CONTENT)
    return "bucket/proxied/object"


def arrow(endpoint: str) -> S3FileSystem:
    return S3FileSystem(
        retry_strategy=AwsDefaultS3RetryStrategy(10),  # Arrow's own choice waits for seconds
        access_key="test",
        secret_key="test",
        endpoint_override=urlsplit(endpoint).netloc,
        scheme="http",
        region="us-east-1",
        allow_bucket_creation=True,
    )


def requests(url: str, path: str, count: int, method: str = "GET") -> Iterator[tuple[str, bytes]]:
    """So many requests without a retry: the status, or the name of the error, and what came of the body."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    for _ in range(count):
        body = b""
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            body = answer.read()
            yield str(answer.status), body
        except (http.client.IncompleteRead, ConnectionError) as error:
            connection.close()
            yield type(error).__name__, getattr(error, "partial", b"")
    connection.close()


def test_arrow_reads_and_writes_the_same_bytes_and_every_request_is_counted(
    storage_proxy: ModuleType, s3: str, stored: str
) -> None:
    with storage_proxy.start_proxy(s3) as url:
        through = arrow(url)
        with through.open_input_file(stored) as file:
            assert file.read_at(1000, 2**20 + 5) == CONTENT[2**20 + 5 : 2**20 + 1005]
            assert file.read_at(2**21, 3) == CONTENT[3 : 2**21 + 3]
        counts = storage_proxy.read_counts(url, reset=True)
        assert (counts["get_range"], counts["head"], counts["list"], counts["put"]) == (2, 1, 0, 0)
        assert counts["bytes"] == 1000 + 2**21
        through.get_file_info(FileSelector("bucket/proxied"))
        counts = storage_proxy.read_counts(url, reset=True)
        assert counts["list"] == counts["requests"] > 0
        large = bytes(CONTENT * 5)  # more than one part: an upload in pieces
        with through.open_output_stream("bucket/proxied/written") as stream:
            stream.write(large)
        assert storage_proxy.read_counts(url)["put"] > 1
        with arrow(s3).open_input_file("bucket/proxied/written") as file:
            assert file.read() == large


def test_s3fs_reads_and_writes_the_same_bytes(storage_proxy: ModuleType, s3: str, stored: str) -> None:
    with storage_proxy.start_proxy(s3) as url:
        through = s3fs.S3FileSystem(endpoint_url=url, key="test", secret="test", skip_instance_cache=True)
        assert through.cat_file(stored) == CONTENT
        assert through.cat_file(stored, start=5, end=9) == CONTENT[5:9]
        through.pipe_file("bucket/proxied/by_s3fs", CONTENT)
        assert "bucket/proxied/by_s3fs" in through.ls("bucket/proxied")
        counts = storage_proxy.read_counts(url)
        assert (counts["get"], counts["get_range"]) == (1, 1)
        assert min(counts["put"], counts["list"]) >= 1
    with arrow(s3).open_input_file("bucket/proxied/by_s3fs") as file:
        assert file.read() == CONTENT


class Handler(BaseHTTPRequestHandler):
    """Answers every GET with ``CONTENT``, and keeps the connection."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT)

    def log_message(self, *_: object) -> None:
        pass


def test_a_server_on_a_socket_file_is_reached_too(storage_proxy: ModuleType, tmp_path: Path) -> None:
    with ThreadingUnixStreamServer(str(tmp_path / "socket"), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with storage_proxy.start_proxy(f"unix:{tmp_path}/socket", fail_every=3, faults=("truncate",)) as url:
            came = list(requests(url, "/bucket/object", 4))
        server.shutdown()
    assert [body for _, body in came] == [CONTENT, CONTENT, CONTENT[: len(CONTENT) // 2], CONTENT]


def test_every_request_waits_as_long_as_told(storage_proxy: ModuleType, s3: str, stored: str) -> None:
    def seconds(url: str) -> float:
        started, taken = time.perf_counter(), []
        for status, _ in requests(url, f"/{stored}", 7, "HEAD"):
            assert status == "200"
            taken.append(time.perf_counter() - started)
            started = time.perf_counter()
        return statistics.median(taken)

    with storage_proxy.start_proxy(s3) as direct, storage_proxy.start_proxy(s3, delay_ms=200) as delayed:
        assert 0.15 < seconds(delayed) - seconds(direct) < 0.4


def test_faults_fall_on_every_nth_request_in_turn(storage_proxy: ModuleType, s3: str, stored: str) -> None:
    faults = ("503", "reset", "truncate", "slowdown")
    with storage_proxy.start_proxy(s3, fail_every=3, faults=faults) as url:
        came = list(requests(url, f"/{stored}", 14))
        assert [what for what, _ in came] == [
            *("200", "200", "503", "200", "200", "ConnectionResetError", "200", "200", "IncompleteRead"),
            *("200", "200", "503", "200", "200"),
        ]
        assert all(body == CONTENT for what, body in came if what == "200")
        assert b"<Code>ServiceUnavailable</Code>" in came[2][1]
        assert came[8][1] == CONTENT[: len(CONTENT) // 2]
        assert b"<Code>SlowDown</Code>" in came[11][1]
        assert storage_proxy.read_counts(url)["faults"] == dict.fromkeys(faults, 1)


def test_truncation_waits_for_a_read_of_an_object(storage_proxy: ModuleType, s3: str, stored: str) -> None:
    with storage_proxy.start_proxy(s3, fail_every=2, faults=("truncate",)) as url:
        assert [what for what, _ in requests(url, f"/{stored}", 2, "HEAD")] == ["200", "200"]
        assert [what for what, _ in requests(url, "/bucket/proxied/absent", 1)] == ["404"]
        assert [what for what, _ in requests(url, f"/{stored}", 1)] == ["IncompleteRead"]
        assert storage_proxy.read_counts(url)["faults"]["truncate"] == 1


def test_errors_and_slow_down_are_what_a_client_retries(storage_proxy: ModuleType, s3: str, stored: str) -> None:
    with storage_proxy.start_proxy(s3, fail_every=3, faults=("503", "slowdown")) as url:
        through = arrow(url)
        for _ in range(4):
            with through.open_input_stream(stored) as stream:
                assert pa.py_buffer(stream.read()).equals(pa.py_buffer(CONTENT))
        counts = storage_proxy.read_counts(url)
        assert sum(counts["faults"].values()) == counts["requests"] // 3 >= 2
