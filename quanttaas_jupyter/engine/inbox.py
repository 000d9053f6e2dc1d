"""Where an engine finds the studies that were handed to it."""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass
from typing import Any, Protocol

from ..compute.clusters import local_engine as resident
from ..compute.clusters import tickets
from ..core.errors import QuantTaaSError, StoreError
from ..store import open_store
from ..store.base import Store
from ..study_store import records as studies

_FORGET_FOREIGN = 10.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ticket:
    """A study to drive: where it lies, the SHA-256 of its ``study.json``, and whether somebody resumed it."""

    store: str
    study: str
    sha256: str
    is_resume: bool


class Inbox(Protocol):
    """Tickets that wait; ``poll_seconds`` is how often it is worth to look."""

    poll_seconds: float

    def tickets(self) -> list[Ticket]:
        """What waits."""

    def drop(self, ticket: Ticket) -> None:
        """Take a ticket out: its study is driven, or will not be."""


class FolderInbox:
    """Tickets in the folder of this machine's engine, which only its user can write."""

    poll_seconds = 0.1

    def tickets(self) -> list[Ticket]:
        """What waits."""
        return [Ticket(t["store"], t["study"], t["sha256"], t["resume"]) for t in resident.tickets()]

    def drop(self, ticket: Ticket) -> None:
        """Take a ticket out."""
        with contextlib.suppress(QuantTaaSError):
            studies.dequeue(open_store(ticket.store), resident.CLUSTER, ticket.study)
        resident.drop_ticket(ticket.study)


class QueueInbox:
    """Tickets in the queue of a store that others may write too: only what the user's key signed counts."""

    poll_seconds = 0.5

    def __init__(self, store: Store, cluster: str, key: str, engine: str) -> None:
        """Look into ``queue/<cluster>`` for tickets to ``engine`` signed with the private key of ``key``."""
        self._store, self._cluster, self._key, self._engine = store, cluster, key, engine
        self._foreign: dict[str, float] = {}

    def tickets(self) -> list[Ticket]:
        """What waits. Raises StoreError."""
        now = time.monotonic()
        self._foreign = {study: seen for study, seen in self._foreign.items() if now - seen < _FORGET_FOREIGN}
        found = [self._ticket(study) for study in self._store.list(f"queue/{self._cluster}")]
        return [ticket for ticket in found if ticket is not None]

    def drop(self, ticket: Ticket) -> None:
        """Take a ticket out. Raises StoreError."""
        studies.dequeue(self._store, self._cluster, ticket.study)

    def _ticket(self, study: str) -> Ticket | None:
        if study in self._foreign:
            return None
        # A ticket copied to another study's place, or from another store, must open nothing there; one for an engine
        # of before, with other settings or another version of this package, is for that one.
        place = {"study": study, "store": self._store.uri, "cluster": self._cluster, "engine": self._engine}
        try:
            values: dict[str, Any] = studies.read_ticket(self._store, self._cluster, study) or {}
            is_ours = {**values, **place} == values and tickets.is_signed_by(values, self._key)
            if is_ours:
                return Ticket(self._store.uri, study, str(values["sha256"]), bool(values["resume"]))
        except StoreError:
            raise
        except (ValueError, TypeError, KeyError, QuantTaaSError):
            log.warning("queue/%s/%s is no ticket", self._cluster, study)
        self._foreign[study] = time.monotonic()
        return None
