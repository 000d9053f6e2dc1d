"""Ray cluster on this machine alone: a head on loopback, started as a daemon that outlives the kernel."""

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
"""Seconds to wait for the head to answer; chosen, not tuned. A slow machine needs more."""
# Ray replaces 127.0.0.1 by an address of the network; on Linux all of 127.0.0.0/8 is loopback.
_HOST = "127.0.0.2" if sys.platform == "linux" else "127.0.0.1"
_ENGINE_SECONDS = 5.0
"""Seconds that engines have to give their studies back before they are killed; chosen, not tuned."""
_STOP_SECONDS = 15.0
"""Seconds that the head has to stop before it is killed; chosen, not tuned."""
_POLL = 0.2
"""Seconds between two requests to a starting head; chosen, not tuned."""


def start(cpus: int | None = None, token: bool = True) -> ClusterConfig:
    """Start a head on loopback unless one runs, and return its configuration.

    Args:
        cpus: Processors that Ray may use; None for all.
        token: Whether the cluster requires a token. Without one, everybody who can reach this machine over the network
            can run code as this user: Ray listens on all interfaces.

    Raises:
        MissingDependency: Ray is not installed.
        ClusterError: The head did not start; the message names its log.
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
    """Stop the head with all processes on it, and return whether one ran; other Ray clusters of this machine stay."""
    values = _values()
    if values is None:
        return False
    head = psutil.Process(values["pid"])
    family = [head, *head.children(recursive=True)]
    # Engines first: without the cluster they could not give their studies back.
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
    """Return the configuration of the running head, or None."""
    values = _values()
    return _config(values) if values else None


def gcs_address() -> str | None:
    """Return the address at which further nodes of this machine join the head, or None if no head runs."""
    values = _values()
    return str(values["gcs"]) if values else None


def _values() -> dict[str, Any] | None:
    try:
        values: dict[str, Any] = json.loads((_folder() / "head.json").read_text(encoding="utf-8"))
        # The system may have given the process id to another process.
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
    """Return the environment for the head: jobs run this interpreter, and no other Ray cluster is named."""
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
    """Return free ports of the ephemeral range; Ray keeps lower ports for its workers."""
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
            # A request without a token is answered with 401 or 403, which also means that the head is up.
            if requests.get(f"{address}/api/version", timeout=2).status_code in (200, 401, 403):
                return
        time.sleep(_POLL)
    stop()
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    raise ClusterError(f"the local cluster did not come up: {lines[-1] if lines else 'no message'}; see {log}")
