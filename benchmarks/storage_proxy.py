"""A proxy in front of object storage on this machine: adds latency and faults, and counts requests by kind.

    python benchmarks/storage_proxy.py --upstream http://127.0.0.1:9000 --delay-ms 50
    python benchmarks/storage_proxy.py --upstream http://127.0.0.1:9000 --fail-every 20 --fault 503,reset,truncate

Its first line on standard output is its URL, which takes the place of the upstream's as ``endpoint_url``. Every
``--fail-every``-th request, counted as they arrive, is answered by the next of the faults in turn: ``503`` and
``slowdown`` are S3's error documents, ``reset`` breaks the connection off half-way through the body, ``truncate``
promises the whole body, sends half and closes. ``truncate`` waits for the next read of an object if the request is
none. ``GET /-/counts`` tells what came, ``POST /-/reset`` tells it too and starts from zero.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import select
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import cycle
from typing import Any
from urllib.parse import parse_qs, urlsplit

FAULTS = ("503", "slowdown", "reset", "truncate")
KINDS = ("get", "get_range", "head", "list", "put", "post", "delete", "other")
_OBJECT_READS = ("get", "get_range")
_PIECE = 2**20
Address = tuple[str, int] | str
"""Host and port, or the path of a socket file."""
_ERRORS = {"503": ("ServiceUnavailable", "Service Unavailable"), "slowdown": ("SlowDown", "Slow Down")}


@contextmanager
def start_proxy(
    upstream: str, *, delay_ms: float = 0, fail_every: int = 0, faults: Sequence[str] = ("503",), port: int = 0
) -> Iterator[str]:
    """Run the proxy as a process of its own for as long as the context lasts; gives its URL."""
    command = [sys.executable, __file__, "--upstream", upstream, "--delay-ms", str(delay_ms)]
    command += ["--fail-every", str(fail_every), "--fault", ",".join(faults), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            if not url:
                raise RuntimeError(f"the proxy did not start: {' '.join(command)}")
            yield url
        finally:
            process.terminate()


def read_counts(url: str, *, reset: bool = False) -> dict[str, Any]:
    """Since the last reset: requests by kind, ``requests`` in all, ``bytes`` of objects read, ``faults`` by kind."""
    request = urllib.request.Request(f"{url}/-/{'reset' if reset else 'counts'}", method="POST" if reset else "GET")
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def connect(address: Address) -> socket.socket:
    """A connection to (host, port), or to a socket file."""
    if not isinstance(address, str):
        return socket.create_connection(address)
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(address)
    return sock


class ConnectionEnded(Exception):
    """The other side closed the connection in the middle of a message."""


class Connection:
    """A socket with what was received of it too early."""

    def __init__(self, sock: socket.socket) -> None:
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self._early = bytearray()
        self._pipe: tuple[int, int] | None = None
        self._buffer = memoryview(b"")

    def read_until(self, mark: bytes) -> bytes:
        """Up to and with ``mark``; empty if the other side closed before the first byte."""
        while (end := self._early.find(mark)) < 0:
            received = self.sock.recv(65536)
            if not received and self._early:
                raise ConnectionEnded
            if not received:
                return b""
            self._early += received
        return self._take(end + len(mark))

    def read(self, length: int) -> bytes:
        """Exactly so many bytes."""
        while len(self._early) < length:
            received = self.sock.recv(_PIECE)
            if not received:
                raise ConnectionEnded
            self._early += received
        return self._take(length)

    def relay(self, length: int | None, target: socket.socket) -> int:
        """Send the next ``length`` bytes (None: all until the end) on to ``target``; returns how many."""
        early = self._take(len(self._early) if length is None else min(length, len(self._early)))
        target.sendall(early)
        done = len(early)
        while length is None or done < length:
            moved = self._move(_PIECE if length is None else min(_PIECE, length - done), target)
            if not moved and length is None:
                return done
            if not moved:
                raise ConnectionEnded
            done += moved
        return done

    def _move(self, most: int, target: socket.socket) -> int:
        """Send on what has come, up to ``most`` bytes; 0 at the end."""
        if not hasattr(os, "splice"):
            self._buffer = self._buffer or memoryview(bytearray(_PIECE))
            received = self.sock.recv_into(self._buffer[:most])
            target.sendall(self._buffer[:received])
            return received
        if self._pipe is None:  # through a pipe Linux moves pages, at a quarter of the CPU of a copy
            self._pipe = os.pipe()
            fcntl.fcntl(self._pipe[1], fcntl.F_SETPIPE_SZ, _PIECE)
        received = left = os.splice(self.sock.fileno(), self._pipe[1], most)
        while left:
            left -= os.splice(self._pipe[0], target.fileno(), left)
        return received

    def close(self) -> None:
        """Give everything back."""
        self.sock.close()
        for end in self._pipe or ():
            os.close(end)
        self._pipe = None

    def was_closed(self) -> bool:
        """Whether the other side hung up, or said something unasked, while nothing was under way."""
        return bool(select.select([self.sock], [], [], 0)[0])

    def reset(self) -> None:
        """Break the connection off with RST instead of FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def _take(self, length: int) -> bytes:
        taken = bytes(self._early[:length])
        del self._early[:length]
        return taken


@dataclass(frozen=True)
class Head:
    """First line and headers of a request or an answer, raw and by lower-case name."""

    raw: bytes
    first: list[str]
    headers: dict[str, str]

    @classmethod
    def parse(cls, raw: bytes) -> Head:
        lines = raw.decode("latin-1").split("\r\n")
        pairs = (line.partition(":")[::2] for line in lines[1:] if line)
        return cls(raw, lines[0].split(" ", 2), {name.lower(): value.strip() for name, value in pairs})

    @property
    def keeps_alive(self) -> bool:
        """Whether the connection lives on after this message."""
        said = self.headers.get("connection", "").lower()
        return said != "close" and ("HTTP/1.1" in (self.first[0], self.first[-1]) or said == "keep-alive")

    @property
    def is_chunked(self) -> bool:
        return self.headers.get("transfer-encoding", "").lower() == "chunked"

    @property
    def length(self) -> int | None:
        """Content-Length, where there is one."""
        return int(self.headers["content-length"]) if "content-length" in self.headers else None

    @property
    def kind(self) -> str:
        """Of a request: one of KINDS."""
        method, url = self.first[0], urlsplit(self.first[1])
        _, _, key = url.path.strip("/").partition("/")
        if method == "GET" and not key:
            asked = parse_qs(url.query, keep_blank_values=True)
            return "list" if not asked or asked.keys() & {"list-type", "prefix", "delimiter"} else "other"
        if method == "GET":
            return "get_range" if "range" in self.headers else "get"
        return method.lower() if method.lower() in KINDS else "other"


class Proxy:
    """Forwards connections to ``upstream``; the counts and the faults that are due."""

    def __init__(self, upstream: Address, delay_seconds: float, fail_every: int, faults: Sequence[str]) -> None:
        self._upstream = upstream
        self._delay = delay_seconds
        self._fail_every = fail_every
        self._faults = tuple(faults)
        self._lock = threading.Lock()
        self._start_from_zero()

    def _start_from_zero(self) -> None:
        self._counts: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self._turn = cycle(self._faults)
        self._due: deque[str] = deque()

    def serve(self, listener: socket.socket) -> None:
        """Accept connections for ever, one thread each."""
        while True:
            client, _ = listener.accept()
            threading.Thread(target=self._serve_client, args=(client,), daemon=True).start()

    def _serve_client(self, sock: socket.socket) -> None:
        client, upstream = Connection(sock), None
        try:
            while raw := client.read_until(b"\r\n\r\n"):
                head = Head.parse(raw)
                body = _read_body(client, head)
                if head.first[1].startswith("/-/"):
                    client.sock.sendall(self._control(head))
                    continue
                kind = head.kind
                fault = self._count(kind)
                time.sleep(self._delay)
                if fault in _ERRORS:
                    client.sock.sendall(_error(fault, head.first[0]))
                    continue
                if upstream is None or upstream.was_closed():
                    if upstream is not None:
                        upstream.close()
                    upstream = Connection(connect(self._upstream))
                upstream.sock.sendall(_without_expect(head) + body)
                upstream = self._answer(client, upstream, head, fault)
                if not head.keeps_alive:
                    return
        except (OSError, ConnectionEnded):
            pass  # whichever side hung up, the other one is told by hanging up too
        finally:
            client.close()
            if upstream is not None:
                upstream.close()

    def _answer(self, client: Connection, upstream: Connection, request: Head, fault: str | None) -> Connection | None:
        """Relay the answer, spoilt where a fault is due; gives the connection to use again, if it can be."""
        answer = Head.parse(upstream.read_until(b"\r\n\r\n") or _raise_ended())
        while answer.first[1].startswith("1"):
            answer = Head.parse(upstream.read_until(b"\r\n\r\n") or _raise_ended())
        bare = request.first[0] == "HEAD" or answer.first[1] in ("204", "304")
        if fault == "truncate" and (bare or answer.length is None or not answer.first[1].startswith("2")):
            with self._lock:  # an error document is no body worth cutting: the next read is
                self._failed[fault] -= 1
                self._due.appendleft(fault)
            fault = None
        if fault == "reset" and (bare or not answer.length):
            client.reset()
            raise ConnectionEnded
        client.sock.sendall(answer.raw)
        if fault is not None:
            assert answer.length is not None
            upstream.relay(answer.length // 2, client.sock)
            if fault == "reset":
                client.reset()
            raise ConnectionEnded
        relayed = 0 if bare else _relay_body(upstream, client.sock, answer)
        if request.kind in _OBJECT_READS:
            with self._lock:
                self._counts["bytes"] += relayed
        if not bare and answer.length is None and not answer.is_chunked:
            raise ConnectionEnded  # the end of this body is the end of the connection
        if answer.keeps_alive:
            return upstream
        upstream.close()
        return None

    def _count(self, kind: str) -> str | None:
        """Note a request; gives the fault with which to answer it."""
        with self._lock:
            self._counts[kind] += 1
            self._counts["requests"] += 1
            if self._fail_every and self._counts["requests"] % self._fail_every == 0:
                self._due.append(next(self._turn))
            if not self._due or (self._due[0] == "truncate" and kind not in _OBJECT_READS):
                return None
            fault = self._due.popleft()
            self._failed[fault] += 1
            return fault

    def _control(self, head: Head) -> bytes:
        with self._lock:
            counts = {name: self._counts[name] for name in ("requests", *KINDS, "bytes")}
            body = json.dumps(counts | {"faults": {name: self._failed[name] for name in FAULTS}}).encode()
            if head.first[:2] == ["POST", "/-/reset"]:
                self._start_from_zero()
            elif head.first[:2] != ["GET", "/-/counts"]:
                return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
        return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def _raise_ended() -> bytes:
    raise ConnectionEnded


def _read_body(client: Connection, head: Head) -> bytes:
    """The body of a request, as it came over the wire."""
    if head.headers.get("expect", "").lower() == "100-continue":
        client.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    if not head.is_chunked:
        return client.read(head.length or 0)
    return b"".join(_chunks(client))


def _chunks(source: Connection) -> Iterator[bytes]:
    """The pieces of a chunked body, with their framing."""
    while True:
        line = source.read_until(b"\r\n") or _raise_ended()
        size = int(line.split(b";")[0], 16)
        yield line
        if size == 0:
            break
        yield source.read(size + 2)
    while (line := source.read_until(b"\r\n") or _raise_ended()) != b"\r\n":
        yield line
    yield line


def _relay_body(source: Connection, target: socket.socket, head: Head) -> int:
    if not head.is_chunked:
        return source.relay(head.length, target)
    relayed = 0
    for piece in _chunks(source):
        target.sendall(piece)
        relayed += len(piece)
    return relayed


def _without_expect(head: Head) -> bytes:
    """The raw head, less the wish for a 100 Continue, which has been granted here."""
    lines = head.raw.split(b"\r\n")
    return b"\r\n".join(line for line in lines if not line.lower().startswith(b"expect:"))


def _error(fault: str, method: str) -> bytes:
    code, reason = _ERRORS[fault]
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>on purpose</Message></Error>'
    head = f"HTTP/1.1 503 {reason}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n"
    return (head + ("" if method == "HEAD" else body)).encode()


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upstream", required=True, help="http:// URL of the storage, or unix:/path of its socket")
    parser.add_argument("--delay-ms", type=float, default=0, help="added to every request (default: 0)")
    parser.add_argument("--fail-every", type=int, default=0, metavar="N", help="every N-th request fails")
    parser.add_argument("--fault", default="503", help=f"of {', '.join(FAULTS)}, or several in turn: 503,reset")
    parser.add_argument("--port", type=int, default=0, help="default: any free one")
    options = parser.parse_args()
    upstream, faults = urlsplit(options.upstream), options.fault.split(",")
    if upstream.scheme != "unix" and (upstream.scheme != "http" or not upstream.hostname):
        parser.error(f"--upstream: {options.upstream!r} is neither an http:// URL nor unix:/path")
    if unknown := set(faults) - set(FAULTS):
        parser.error(f"--fault: {', '.join(sorted(unknown))} is none of {', '.join(FAULTS)}")
    address = upstream.path if upstream.scheme == "unix" else (upstream.hostname or "", upstream.port or 80)
    proxy = Proxy(address, options.delay_ms / 1000, options.fail_every, faults)
    with closing(socket.create_server(("127.0.0.1", options.port), backlog=1024)) as listener:
        print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        proxy.serve(listener)


if __name__ == "__main__":
    main()
