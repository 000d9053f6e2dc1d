"""Who drives a study, until when: one lease a study, taken and renewed by compare-and-swap."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from ..core.errors import StoreError
from ..store.base import MissingKey, Store

SECONDS = 30.0
RENEW_EVERY = 10.0


@dataclass(frozen=True)
class LeaseInfo:
    """What a lease says: ``until`` in seconds since the epoch."""

    owner: str
    engine: str
    until: float

    def is_held(self, now: float) -> bool:
        """Whether the lease still runs."""
        return self.until > now


class Lease:
    """A lease that this process holds. ``renew`` and ``release`` say whether it was still ours."""

    def __init__(self, store: Store, study: str, owner: str, engine: str) -> None:
        self._store, self._key = store, lease_key(study)
        self._owner, self._engine = owner, engine
        self._bytes = b""
        self.is_lost = False

    def take(self) -> bool:
        """Take the lease if nobody holds it."""
        now = time.time()
        try:
            present: bytes | None = self._store.read(self._key)
        except MissingKey:
            present = None
        if present is not None and _parse(present).is_held(now):
            return False
        self.is_lost = False
        return self._write(present, now + SECONDS)

    def renew(self) -> bool:
        """Hold the lease for another ``SECONDS``; False if another engine took it meanwhile."""
        return self._write(self._bytes, time.time() + SECONDS)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Renew the lease from a thread of its own: work, or a slow store, must not let it run out."""
        over = threading.Event()

        def renew() -> None:
            while not over.wait(RENEW_EVERY):
                # A store that is out of reach may be back before the lease has run out.
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
        """Give the lease back: it ends now."""
        return self._write(self._bytes, 0.0)

    def _write(self, expected: bytes | None, until: float) -> bool:
        wanted = json.dumps({"owner": self._owner, "engine": self._engine, "until": until}).encode()
        if not self._store.swap(self._key, wanted, expected):
            return False
        self._bytes = wanted
        return True


def read_lease(store: Store, study: str) -> LeaseInfo | None:
    """The lease of a study, held or run out; None if there was none."""
    try:
        return _parse(store.read(lease_key(study)))
    except MissingKey:
        return None


def lease_key(study: str) -> str:
    """The key of a study's lease."""
    return f"studies/{study}/lease.json"


def _parse(data: bytes) -> LeaseInfo:
    try:
        values = json.loads(data)
        return LeaseInfo(str(values["owner"]), str(values["engine"]), float(values["until"]))
    except (ValueError, KeyError, TypeError):
        return LeaseInfo("", "", 0.0)
