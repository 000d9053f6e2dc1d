"""Inboxes, in which an engine finds the studies that were submitted to it."""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass
from typing import Any, Protocol

from ..compute.clusters import local_engine, tickets
from ..core.errors import QuantTaaSError, StoreError
from ..store import open_store
from ..store.base import Store
from ..study_store import records

_FORGET_FOREIGN = 10.0
"""Seconds for which a ticket for another engine is not read again; chosen, not tuned. Smaller costs more requests."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ticket:
    """Ticket of a study: its store, the SHA-256 of its ``study.json``, and whether it is a resume.

    ``mark`` names a ticket of a queue, which others could put back after it was served.
    """

    store: str
    study_id: str
    sha256: str
    is_resume: bool
    mark: str = ""


class Inbox(Protocol):
    """Interface of an inbox; ``poll_seconds`` is the interval at which an engine looks into it."""

    poll_seconds: float

    def tickets(self) -> list[Ticket]:
        """Return the waiting tickets."""

    def drop(self, ticket: Ticket) -> None:
        """Remove the ticket of a study that is driven now, or that cannot be."""


class FolderInbox:
    """Inbox in the folder of this machine's engine, to which only its user can write."""

    poll_seconds = 0.1

    def tickets(self) -> list[Ticket]:
        """Return the waiting tickets."""
        return [Ticket(t["store"], t["study"], t["sha256"], t["resume"]) for t in local_engine.tickets()]

    def drop(self, ticket: Ticket) -> None:
        """Remove a ticket from the folder, and its entry from the store's queue."""
        with contextlib.suppress(QuantTaaSError):
            records.dequeue(open_store(ticket.store), local_engine.CLUSTER, ticket.study_id)
        local_engine.drop_ticket(ticket.study_id)


class QueueInbox:
    """Inbox in the queue of a store that others may write to; only tickets signed with the user's key count."""

    poll_seconds = 0.5

    def __init__(self, store: Store, cluster: str, key: str, engine: str) -> None:
        """Read tickets in ``queue/<cluster>`` that are for ``engine`` and signed with the private key of ``key``."""
        self._store, self._cluster, self._key, self._engine = store, cluster, key, engine
        self._foreign: dict[str, float] = {}

    def tickets(self) -> list[Ticket]:
        """Return the waiting tickets.

        Raises:
            StoreError: The store cannot be read.
        """
        now = time.monotonic()
        self._foreign = {study_id: seen for study_id, seen in self._foreign.items() if now - seen < _FORGET_FOREIGN}
        waiting = [self._ticket(study_id) for study_id in self._store.list(f"queue/{self._cluster}")]
        return [ticket for ticket in waiting if ticket is not None]

    def drop(self, ticket: Ticket) -> None:
        """Remove a ticket from the queue.

        Raises:
            StoreError: The store cannot be written.
        """
        records.dequeue(self._store, self._cluster, ticket.study_id)

    def _ticket(self, study_id: str) -> Ticket | None:
        if study_id in self._foreign:
            return None
        # A ticket copied from another study or store must not be valid here. A ticket for an engine with other settings
        # or another version of this package is not for this engine.
        place = {"study": study_id, "store": self._store.uri, "cluster": self._cluster, "engine": self._engine}
        try:
            values: dict[str, Any] = records.read_ticket(self._store, self._cluster, study_id) or {}
            is_ours = {**values, **place} == values and tickets.is_signed_by(values, self._key)
            if is_ours and not tickets.is_expired(values):
                mark = tickets.mark(values)
                return Ticket(self._store.uri, study_id, str(values["sha256"]), bool(values["resume"]), mark)
        except StoreError:
            raise
        except (ValueError, TypeError, KeyError, QuantTaaSError):
            log.warning("queue/%s/%s is no ticket", self._cluster, study_id)
        self._foreign[study_id] = time.monotonic()
        return None
