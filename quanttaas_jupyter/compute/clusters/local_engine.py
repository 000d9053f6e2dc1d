"""The resident engine of this machine, as clients see it: its folder, whether it lives, how it is started.

One engine serves a user and environment. Clients hand it studies through tickets in its folder, which only this user
can write: a ticket carries the SHA-256 of ``study.json``, so that a store shared with others cannot make the engine
run what this user never asked for.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import uuid
from functools import lru_cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ...core.config import load_config
from ...core.errors import QuantTaaSError

CLUSTER = "local"


def folder() -> Path:
    """The engine's folder: one for each environment and version of this package."""
    path = Path(load_config().runtime_dir) / _environment()
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        (path / "inbox").mkdir(exist_ok=True, mode=0o700)
    except OSError as error:
        raise QuantTaaSError(
            f"the engine's folder {path} cannot be written: {error.strerror}; set QUANTTAAS_RUNTIME_DIR"
        ) from None
    return path


def lock() -> FileLock:
    """The lock that a living engine holds."""
    return FileLock(folder() / "engine.lock")


def is_alive() -> bool:
    """Whether an engine runs."""
    trial = lock()
    try:
        trial.acquire(timeout=0)
    except Timeout:
        return True
    trial.release()
    return False


def start() -> None:
    """Start an engine if none runs; in its own session, so that nothing done to a kernel reaches it."""
    if is_alive():
        return
    place = folder()
    with (place / "engine.log").open("ab") as output:
        subprocess.Popen(
            [sys.executable, "-m", "quanttaas_jupyter.engine"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=place,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )


def hand_over(store: str, study: str, sha256: str, is_resume: bool = False) -> None:
    """Leave a ticket for the engine, and start one if none runs."""
    ticket = {"store": store, "study": study, "sha256": sha256, "resume": is_resume}
    place = folder() / "inbox"
    temporary = place / f".{uuid.uuid4().hex}"
    temporary.write_text(json.dumps(ticket), encoding="utf-8")
    os.replace(temporary, place / study)
    start()


def tickets() -> list[dict[str, Any]]:
    """Tickets that wait in the inbox."""
    found = []
    for path in sorted((folder() / "inbox").iterdir()):
        if path.name.startswith("."):
            continue
        try:
            found.append(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            path.unlink(missing_ok=True)
    return found


def drop_ticket(study: str) -> None:
    """Take a ticket out of the inbox."""
    (folder() / "inbox" / study).unlink(missing_ok=True)


def has_ticket(study: str) -> bool:
    """Whether a ticket for the study waits."""
    return (folder() / "inbox" / study).exists()


def read_log() -> str:
    """What engines of this environment printed; empty before the first one."""
    path = folder() / "engine.log"
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


@lru_cache(maxsize=1)
def _environment() -> str:
    """Names the interpreter and the source of this package, so that an upgrade never meets an engine of before."""
    root = Path(__file__).resolve().parents[2]
    stamps = sorted((str(p.relative_to(root)), p.stat().st_mtime_ns) for p in root.rglob("*.py"))
    return hashlib.sha256(f"{sys.prefix}{sys.version}{root}{stamps}".encode()).hexdigest()[:16]
