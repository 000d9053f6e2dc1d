"""Lease of a study: the right of one engine to drive it for a limited time, taken and renewed by compare-and-swap."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psutil

from ..core.errors import StoreError, Unreadable
from ..store.base import MissingKey, Store
from . import door, shapes

SECONDS = 30.0
"""Seconds for which a lease is held; chosen, not tuned. A longer one delays the takeover from a dead engine."""
_FARTHEST = 2 * 3600.0
"""Seconds in the future beyond which no engine writes a lease: twice the longest one, so that clocks may differ."""
_PATIENCE = 45.0
"""Seconds in which an engine with the usual lease renews it four times; chosen, not tuned."""
_RENEWALS = 3
"""Renewals in the time of a lease, so that two of them may fail before it runs out."""


@dataclass(frozen=True)
class LeaseInfo:
    """Content of a lease; ``until`` is in seconds since the epoch."""

    owner: str
    engine: str
    until: float

    def is_held(self, now: float) -> bool:
        """Return whether the lease has not run out; one that reaches far into the future is broken, and not held."""
        return now < self.until <= now + _FARTHEST


class Lease:
    """Lease held by this process; ``renew`` and ``release`` return whether no other engine has taken it."""

    def __init__(self, store: Store, study_id: str, owner: str, engine: str, seconds: float = SECONDS) -> None:
        self._store, self._key, self._seconds = store, lease_key(study_id), seconds
        self._owner, self._engine = owner, engine
        self._bytes = b""
        self.is_lost = False

    def take(self) -> bool:
        """Take the lease if no engine holds it, and return whether that worked."""
        now = time.time()
        try:
            present: bytes | None = self._store.read(self._key)
        except MissingKey:
            present = None
        if present is not None and _parse(present).is_held(now):
            return False
        self.is_lost = False
        return self._write(present, now + self._seconds)

    def renew(self) -> bool:
        """Hold the lease for as long again; return False if another engine has taken it."""
        return self._write(self._bytes, time.time() + self._seconds)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Renew the lease from a separate thread, so that long work or a slow store cannot let it run out."""
        over = threading.Event()

        def renew() -> None:
            while not over.wait(self._seconds / _RENEWALS):
                # An unreachable store may answer again before the lease runs out.
                with suppress(StoreError):
                    if not self.renew():
                        self.is_lost = True
                        return

        thread = threading.Thread(target=renew, name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def release(self) -> bool:
        """Give the lease back at once, and return whether it was still held."""
        return self._write(self._bytes, 0.0)

    def _write(self, expected: bytes | None, until: float) -> bool:
        wanted = json.dumps({"owner": self._owner, "engine": self._engine, "until": until}).encode()
        if not self._store.swap(self._key, wanted, expected):
            return False
        self._bytes = wanted
        return True


def break_silent(store: Store, study_id: str, patience: float = _PATIENCE) -> bool:
    """Give a lease back that its engine does not renew, and return whether nobody holds it then.

    An engine of this machine whose process is gone is not waited for; others have ``patience`` seconds to renew.
    """
    known = read_lease(store, study_id)
    if known is None or not known.is_held(time.time()):
        return True
    present = store.read(lease_key(study_id))
    host, _, pid = known.engine.rpartition(":")
    is_gone = host == socket.gethostname() and pid.isdigit() and not psutil.pid_exists(int(pid))
    until = time.monotonic() + (0.0 if is_gone else patience)
    while time.monotonic() < until and known.is_held(time.time()):
        time.sleep(min(1.0, patience))
        if store.read_if_there(lease_key(study_id)) != present:
            return False
    over = json.dumps({"owner": known.owner, "engine": known.engine, "until": 0.0}).encode()
    return store.swap(lease_key(study_id), over, present)


def read_lease(store: Store, study_id: str) -> LeaseInfo | None:
    """Return the lease of a study, held or run out, or None if the study never had one."""
    try:
        return _parse(store.read(lease_key(study_id)))
    except MissingKey:
        return None
    except Unreadable:
        # Such as a folder or a pipe in its place.
        return LeaseInfo("", "", 0.0)


def lease_key(study_id: str) -> str:
    """Return the store key of a study's lease."""
    return f"studies/{study_id}/lease.json"


def _parse(data: bytes) -> LeaseInfo:
    """Return the content of a lease; one that cannot be read is held by nobody."""
    try:
        values = door.parsed(data, shapes.LEASE)
    except Unreadable:
        return LeaseInfo("", "", 0.0)
    return LeaseInfo(values["owner"], values["engine"], float(values["until"]))
