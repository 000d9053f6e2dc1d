"""Resident engine of this machine, as clients see it: its folder, its lock, its tickets and its start.

One engine serves one user and environment. Clients submit studies through tickets in its folder, which only this user
can write to. A ticket carries the SHA-256 of ``study.json``, so that other users of a shared store cannot make the
engine run code that this user never submitted.
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
    """Return the engine's folder, created if missing; each environment and version of this package has its own."""
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
    """Return the lock that a running engine holds."""
    return FileLock(folder() / "engine.lock")


def is_alive() -> bool:
    """Return whether an engine runs."""
    trial = lock()
    try:
        trial.acquire(timeout=0)
    except Timeout:
        return True
    trial.release()
    return False


def start() -> None:
    """Start an engine if none runs, in its own session, so that signals to a kernel do not reach it."""
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


def submit(store: str, study_id: str, sha256: str, is_resume: bool = False) -> None:
    """Write a ticket for the engine, and start an engine if none runs."""
    ticket = {"store": store, "study": study_id, "sha256": sha256, "resume": is_resume}
    place = folder() / "inbox"
    temporary = place / f".{uuid.uuid4().hex}"
    temporary.write_text(json.dumps(ticket), encoding="utf-8")
    os.replace(temporary, place / study_id)
    start()


def tickets() -> list[dict[str, Any]]:
    """Return the tickets in the inbox; unreadable ones are removed."""
    waiting = []
    for path in sorted((folder() / "inbox").iterdir()):
        if path.name.startswith("."):
            continue
        try:
            waiting.append(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            path.unlink(missing_ok=True)
    return waiting


def drop_ticket(study_id: str) -> None:
    """Remove a ticket from the inbox."""
    (folder() / "inbox" / study_id).unlink(missing_ok=True)


def has_ticket(study_id: str) -> bool:
    """Return whether the inbox holds a ticket for the study."""
    return (folder() / "inbox" / study_id).exists()


def read_log() -> str:
    """Return the output of the engines of this environment; an empty string before the first one."""
    path = folder() / "engine.log"
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


@lru_cache(maxsize=1)
def _environment() -> str:
    """Return a hash of the interpreter and this package's source, so that an upgrade never meets an old engine."""
    root = Path(__file__).resolve().parents[2]
    stamps = sorted((str(p.relative_to(root)), p.stat().st_mtime_ns) for p in root.rglob("*.py"))
    return hashlib.sha256(f"{sys.prefix}{sys.version}{root}{stamps}".encode()).hexdigest()[:16]
