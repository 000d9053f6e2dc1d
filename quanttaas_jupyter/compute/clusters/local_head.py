"""A Ray cluster of this machine alone: a head on loopback, started as a daemon that outlives the kernel."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock

from ...core.config import ClusterConfig, load_config
from ...core.errors import ClusterError, MissingDependency

NAME = "loopback"

_START_SECONDS = 90.0
# Ray takes 127.0.0.1 for a mistake and binds to the network instead; Linux has all of 127.0.0.0/8 on loopback.
_HOST = "127.0.0.2" if sys.platform == "linux" else "127.0.0.1"
_ENGINE_SECONDS = 5.0
_STOP_SECONDS = 15.0
_POLL = 0.2


def start(cpus: int | None = None, token: bool = True) -> ClusterConfig:
    """Start a head on loopback unless one of ours runs; returns how to reach it.

    Args:
        cpus: Processors that Ray may use; None for all.
        token: Whether it asks for a token. Without one everybody who reaches this machine's network can run code as
            this user: Ray listens on all interfaces.

    Raises:
        MissingDependency: Ray is not installed.
        ClusterError: It did not come up; the sentence names its log.
    """
    with FileLock(_folder() / "start.lock"):
        return find() or _started(cpus, token)


def _started(cpus: int | None, token: bool) -> ClusterConfig:
    folder = _folder()
    ports = _free_ports(3)
    dashboard = ports[1]
    log = folder / "head.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*_ray(), "start", "--head", "--block", "--disable-usage-stats", *_loopback(ports, cpus)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**_environment(), **(_token(folder) if token else {"RAY_AUTH_MODE": "disabled"})},
        )
    address = f"http://127.0.0.1:{dashboard}"
    values = {
        "pid": process.pid,
        "begun": psutil.Process(process.pid).create_time(),
        "address": address,
        "gcs": f"{_HOST}:{ports[0]}",
        "token_file": str(folder / "token") if token else None,
    }
    (folder / "head.json").write_text(json.dumps(values), encoding="utf-8")
    _wait_until_up(process, address, log)
    return _config(values)


def stop() -> bool:
    """Stop our head and all that runs on it; whether there was one. Other Ray clusters of this machine stay."""
    values = _values()
    if values is None:
        return False
    head = psutil.Process(values["pid"])
    family = [head, *head.children(recursive=True)]
    # Engines first: with the cluster gone they could not give their studies back.
    engines = [process for process in family if _is_engine(process)]
    for group, patience in ((engines, _ENGINE_SECONDS), ([head], _STOP_SECONDS)):
        for process in group:
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGTERM)
        psutil.wait_procs(group, timeout=patience)
    _, alive = psutil.wait_procs(family, timeout=_ENGINE_SECONDS)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
    (_folder() / "head.json").unlink(missing_ok=True)
    return True


def _is_engine(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return "quanttaas_jupyter.engine" in process.cmdline()
    return False


def find() -> ClusterConfig | None:
    """How to reach our head, if it runs."""
    values = _values()
    return _config(values) if values else None


def gcs_address() -> str | None:
    """Where further nodes of this machine join our head; None where none runs."""
    values = _values()
    return str(values["gcs"]) if values else None


def _values() -> dict[str, Any] | None:
    try:
        values: dict[str, Any] = json.loads((_folder() / "head.json").read_text(encoding="utf-8"))
        # A process id may have been given to another process since.
        is_ours = psutil.Process(values["pid"]).create_time() == values["begun"]
    except (OSError, ValueError, psutil.Error):
        return None
    return values if is_ours else None


def _config(values: dict[str, Any]) -> ClusterConfig:
    return ClusterConfig(address=values["address"], token_file=values["token_file"])


def _folder() -> Path:
    path = Path(load_config().runtime_dir) / "ray"
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


def _ray() -> list[str]:
    script = Path(sys.executable).with_name("ray")
    if not script.exists():
        raise MissingDependency("a local cluster needs Ray: pip install 'quanttaas-jupyter[ray]'")
    return [str(script)]


def _loopback(ports: list[int], cpus: int | None) -> list[str]:
    port, dashboard, client = ports
    options = {
        "node-ip-address": _HOST,
        "port": port,
        "dashboard-host": "127.0.0.1",
        "dashboard-port": dashboard,
        "ray-client-server-port": client,
        "dashboard-agent-listen-port": 0,
        **({"num-cpus": cpus} if cpus else {}),
    }
    return [f"--{name}={value}" for name, value in options.items()]


def _environment() -> dict[str, str]:
    """This process's, with jobs running the interpreter that runs here, and no other cluster named."""
    others = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
    kept = {name: value for name, value in os.environ.items() if name not in others}
    return {**kept, "PATH": os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", "")])}


def _token(folder: Path) -> dict[str, str]:
    path = folder / "token"
    if not path.exists():
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            stream.write(secrets.token_hex(32))
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}


def _free_ports(count: int) -> list[int]:
    """Ports of the upper range: Ray keeps the lower one for its workers."""
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [listener.getsockname()[1] for listener in listeners]


def _wait_until_up(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    import requests

    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(requests.exceptions.RequestException):
            # Without a token it answers 401: it is up all the same.
            if requests.get(f"{address}/api/version", timeout=2).status_code in (200, 401, 403):
                return
        time.sleep(_POLL)
    stop()
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    raise ClusterError(f"the local cluster did not come up: {lines[-1] if lines else 'no message'}; see {log}")
