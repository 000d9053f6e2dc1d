"""Resident engine of this machine, as clients see it: its folder, its lock, its tickets and its start.

One engine serves one user and environment. Clients submit studies through tickets in its folder, which only this user
can write to. A ticket carries the SHA-256 of ``study.json``, so that other users of a shared store cannot make the
engine run code that this user never submitted.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ...core.config import load_config
from ...core.errors import ClusterError, QuantTaaSError
from ...core.failures import ending
from ...core.private_files import private_folder
from ...store import MissingKey, plain_files
from ...study_store import door, records, shapes
from . import logs

CLUSTER = "local"

_HANDED = "QUANTTAAS_ENGINE_FOLDER"
"""Variable by which an engine is told its folder."""
_START_SECONDS = 60.0
"""Seconds in which an engine comes up, mostly by importing PyTorch; chosen, not tuned. A slow disk takes half of it."""
_LONGEST_PAUSE = 60.0
"""Seconds between two starts of engines that end at once; the pause doubles up to this. Chosen, not tuned."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Start:
    """An engine that this process started, and when by the monotonic clock."""

    process: subprocess.Popen[bytes]
    begun: float


_starts: list[_Start] = []
"""Starts since an engine was last seen to run."""
_starting = threading.Lock()


def folder() -> Path:
    """Return the engine's folder, created if missing; each environment and version of this package has its own.

    Raises:
        QuantTaaSError: The folder cannot be made this user's own.
    """
    handed = os.environ.get(_HANDED)
    path = Path(handed) if handed else Path(load_config().runtime_dir) / _environment()
    for place in (path.parent, path, path / "inbox"):
        private_folder(place, "set QUANTTAAS_RUNTIME_DIR to a folder of yours")
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
    """Start an engine if none runs, in its own session, so that signals to a kernel do not reach it.

    Raises:
        ClusterError: This package changed on disk since this process loaded it, or engines end at their start.
    """
    _refuse_changed_package()
    with _starting:
        if is_alive():
            _starts.clear()
        elif not _is_under_way():
            _begin(folder())


def _begin(place: Path) -> None:
    logs.rotate(place / "engine.log")
    logs.remove_old_folders(place)
    with (place / "engine.log").open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "quanttaas_jupyter.engine"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=place,
            start_new_session=True,
            # The engine computes no folder of its own: a package that changes meanwhile would give another one.
            env={**os.environ, "PYTHONUNBUFFERED": "1", _HANDED: str(place)},
        )
    _starts.append(_Start(process, time.monotonic()))


def _is_under_way() -> bool:
    """Return whether an engine that this process started has not come up yet.

    Raises:
        ClusterError: The last ones ended at their start, and it is too early for another.
    """
    if not _starts:
        return False
    last = _starts[-1]
    code, age = last.process.poll(), time.monotonic() - last.begun
    if code is None and age < _START_SECONDS:
        return True
    if not code or age > _START_SECONDS:
        _starts.clear()
        return False
    pause = min(_LONGEST_PAUSE, 2.0 ** len(_starts))
    if age < pause:
        said = logs.last_line(folder() / "engine.log") or "it said nothing"
        raise ClusterError(
            f"the engine of this machine ended at its start ({ending(code)}): {said}. It is tried again in "
            f"{pause - age:.0f} s; its log is {folder() / 'engine.log'}"
        )
    return False


def _refuse_changed_package() -> None:
    if _stamp() != _LOADED:
        raise ClusterError(
            "quanttaas-jupyter was changed on disk since this process loaded it, as an upgrade does; restart the kernel"
        )


def submit(store: str, study_id: str, sha256: str, is_resume: bool = False) -> None:
    """Write a ticket for the engine, and start an engine if none runs.

    Raises:
        QuantTaaSError: The ticket cannot be written.
    """
    ticket = {"store": store, "study": study_id, "sha256": sha256, "resume": is_resume}
    place = folder() / "inbox"
    temporary = place / f".{uuid.uuid4().hex}"
    try:
        temporary.write_text(json.dumps(ticket), encoding="utf-8")
        os.replace(temporary, place / study_id)
    except OSError as error:
        raise QuantTaaSError(f"the engine's inbox {place} cannot be written: {error.strerror}") from None
    start()


def tickets() -> list[dict[str, Any]]:
    """Return the tickets in the inbox; what is no ticket is removed, and never keeps the others waiting."""
    waiting = []
    for path in sorted((folder() / "inbox").iterdir()):
        if path.name.startswith("."):
            continue
        try:
            ticket = door.parsed(plain_files.content(path, path.name, door.SMALL), shapes.HANDED)
            door.belongs(ticket, "study", records.checked_id(path.name), shapes.HANDED)
            waiting.append(ticket)
        except MissingKey:
            continue
        except (OSError, QuantTaaSError) as error:
            log.warning("%s in the inbox is no ticket: %s", path.name, error)
            with suppress(OSError):
                path.unlink()
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


def _stamp() -> str:
    """Return a hash of the interpreter and this package's source as it is on disk now."""
    root = Path(__file__).resolve().parents[2]
    stamps = sorted((str(p.relative_to(root)), p.stat().st_mtime_ns) for p in root.rglob("*.py"))
    return hashlib.sha256(f"{sys.prefix}{sys.version}{root}{stamps}".encode()).hexdigest()[:16]


_LOADED = _stamp()


def _environment() -> str:
    """Return a name of the interpreter and this package as loaded, so that an upgrade never meets an old engine."""
    return _LOADED
