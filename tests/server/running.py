"""A real Jupyter server in a process of its own, with the extension, and a client that speaks to it."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

ROOT = Path(__file__).resolve().parents[2]
BASE = "/some/base"


@dataclass
class Answer:
    """What the server said."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Client:
    """Asks as a browser with this token would; ``headers`` go with every request."""

    address: str
    token: str
    pid: int
    headers: dict[str, str] = field(default_factory=dict)

    def ask(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None, **query: Any
    ) -> Answer:
        url = f"{self.address}/quanttaas/{path}" + (f"?{urlencode(query)}" if query else "")
        data = json.dumps(body).encode() if body is not None else None
        told = {"Authorization": f"token {self.token}"} if self.token else {}
        request = urllib.request.Request(url, data, {**told, **self.headers, **(headers or {})}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return Answer(answer.status, answer.headers, answer.read())
        except urllib.error.HTTPError as error:
            return Answer(error.code, dict(error.headers.items()), error.read())

    def get(self, path: str, headers: Mapping[str, str] | None = None, **query: Any) -> Answer:
        return self.ask("GET", path, None, headers, **query)

    def post(self, path: str, body: Any = None, **query: Any) -> Answer:
        return self.ask("POST", path, {} if body is None else body, **query)


@contextmanager
def server(folder: Path, *options: str, code: str = "", **environment: str) -> Iterator[Client]:
    """Start a server that answers.

    Args:
        folder: Its home, empty.
        options: Of the command line.
        code: Python that runs in it before it starts.
        environment: Variables beside this process's own.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    config = folder / "jupyter_server_config.d"
    config.mkdir(parents=True, exist_ok=True)
    hook = ROOT / "labextension" / "jupyter-config" / config.name / "quanttaas_jupyter.json"
    (config / hook.name).write_text(hook.read_text())
    run = f"{code}\nfrom jupyter_server.serverapp import main; main()"
    settings = {
        **os.environ,
        "JUPYTER_CONFIG_DIR": str(folder),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        **environment,
    }
    given = [
        *(f"--port={port}", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}"),
        *("--no-browser", "--allow-root", f"--ServerApp.base_url={BASE}", *options),
    ]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-c", run, *given], env=settings, stdout=log, stderr=log)
    client = Client(f"http://127.0.0.1:{port}{BASE}", token, process.pid)
    try:
        deadline = time.monotonic() + 60
        while not _answers(client):
            assert process.poll() is None, (folder / "server.log").read_text()
            assert time.monotonic() < deadline, (folder / "server.log").read_text()
            time.sleep(0.1)
        yield client
    finally:
        process.terminate()
        process.wait(30)


def _answers(client: Client) -> bool:
    request = urllib.request.Request(f"{client.address}/api/status", headers={"Authorization": f"token {client.token}"})
    try:
        with urllib.request.urlopen(request, timeout=5):
            return True
    except OSError:
        return False
