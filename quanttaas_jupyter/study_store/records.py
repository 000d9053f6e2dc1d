"""Studies in a store: what was asked, the event log, the queue, the summary.

Layout::

    studies/<id>/study.json          what was asked
    studies/<id>/lease.json          who drives it
    studies/<id>/events/<seq>.json   append-only
    studies/<id>/summary.json        a rebuildable digest
    studies/<id>/cancel              present: stop
    queue/<cluster>/<id>             waiting for an engine
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

from ..core.errors import NotFound, QuantTaaSError, StoreError
from ..core.state import ENDED, Event, StudyState, fold, with_lease
from ..store.base import MissingKey, Store
from .lease import read_lease
from .summaries import summary_of

_ID = re.compile(r"[a-z0-9][a-z0-9-]{2,62}[a-z0-9]")


class LogTaken(Exception):
    """Another engine wrote this event: the lease is lost."""


def checked_id(study: str) -> str:
    """The id itself if it is of the strict form; a QuantTaaSError otherwise."""
    if not isinstance(study, str) or not _ID.fullmatch(study):
        raise QuantTaaSError(
            f"{study!r} is no valid id of a study: ids are lower-case letters, digits and dashes; "
            "%quanttaas studies lists them"
        )
    return study


def create_study(store: Store, study: str, record: dict[str, Any]) -> str:
    """Write ``study.json``; returns its SHA-256. Raises QuantTaaSError if the id is taken."""
    data = _dump(record)
    if not store.create(f"studies/{checked_id(study)}/study.json", data):
        raise QuantTaaSError(f"study {study} exists already")
    return hashlib.sha256(data).hexdigest()


def read_study(store: Store, study: str) -> dict[str, Any]:
    """What was asked. Raises NotFound."""
    return dict(json.loads(read_study_bytes(store, study)))


def read_study_bytes(store: Store, study: str) -> bytes:
    """``study.json`` as it stands in the store. Raises NotFound."""
    try:
        return store.read(f"studies/{checked_id(study)}/study.json")
    except MissingKey:
        raise NotFound(f"no study {study} in {store.uri}; %quanttaas studies lists those there are") from None


def enqueue(store: Store, cluster: str, study: str, ticket: dict[str, Any]) -> None:
    """Let a study wait for an engine of the cluster."""
    store.replace(_queue_key(cluster, study), _dump(ticket))


def dequeue(store: Store, cluster: str, study: str) -> None:
    """Take a study out of the queue."""
    store.delete(_queue_key(cluster, study))


def read_ticket(store: Store, cluster: str, study: str) -> dict[str, Any] | None:
    """The queue entry of a study, or None."""
    try:
        return dict(json.loads(store.read(_queue_key(cluster, study))))
    except MissingKey:
        return None


def ask_to_cancel(store: Store, study: str) -> None:
    """Leave the sign that makes the engine stop a study."""
    store.replace(_cancel_key(study), b"{}")


def is_cancelled(store: Store, study: str) -> bool:
    """Whether the sign is there."""
    return store.size(_cancel_key(study)) is not None


def clear_cancel(store: Store, study: str) -> None:
    """Remove the sign; only the holder of the lease does that."""
    store.delete(_cancel_key(study))


class EventWriter:
    """Appends events; only the holder of the lease may have one."""

    def __init__(self, store: Store, study: str) -> None:
        self._store, self._study = store, study
        self.state = fold(read_events(store, study), StudyState(id=study))

    def append(self, type_: str, **values: Any) -> None:
        """Write one event.

        Raises:
            LogTaken: Another engine wrote an event in its place.
        """
        seq = self.state.seq + 1
        event = {"seq": seq, "time": time.time(), "type": type_, **values}
        data = _dump(event)
        if not self._store.create(_event_key(self._study, seq), data):
            raise LogTaken(self._study)
        self.state = fold([json.loads(data)], self.state)

    def write_summary(self, record: dict[str, Any]) -> None:
        """Replace the digest that lists of studies read."""
        self._store.replace(f"studies/{self._study}/summary.json", _dump(summary_of(record, self.state)))


def read_events(store: Store, study: str, after: int = 0, most: int | None = None) -> Iterator[Event]:
    """Events behind ``after``, in order, up to the first gap, or ``most`` of them."""
    names = []
    listed = islice(store.list(f"studies/{study}/events", after=f"{after:08d}.json"), most)
    for expected, name in enumerate(listed, after + 1):
        if name != f"{expected:08d}.json":
            break
        names.append(f"studies/{study}/events/{name}")
    for data in store.each(store.read_if_there, names):
        try:
            yield json.loads(data or b"")
        except ValueError:
            return


def initial_state(record: dict[str, Any]) -> StudyState:
    """The state before the first event."""
    return StudyState(
        id=record["id"],
        name=record["name"],
        created=record["created"],
        cluster=record["cluster"],
        model=record["model"],
        metric=record["metric"],
        goal=record["recipe"]["goal"],
        notes=tuple(record["notes"]),
    )


def settled(store: Store, state: StudyState) -> StudyState:
    """The state with what lease and queue say about it."""
    lease = read_lease(store, state.id)
    queued = store.size(_queue_key(state.cluster, state.id)) is not None
    return with_lease(state, lease.until if lease else None, queued, time.time())


def list_summaries(store: Store) -> list[dict[str, Any]]:
    """Summaries of all studies as they stand, newest first; a missing one is rebuilt from the events."""
    written = store.each(lambda study: _present_summary(store, study), store.list("studies"))
    return sorted(filter(None, written), key=lambda summary: -float(summary["created"]))


def _present_summary(store: Store, study: str) -> dict[str, Any] | None:
    summary = read_summary(store, study)
    return summary and settled_summary(store, summary)


def read_summary(store: Store, study: str) -> dict[str, Any] | None:
    """The summary as it was written last, or rebuilt; None where the record is missing or broken. Raises StoreError."""
    try:
        try:
            return dict(json.loads(store.read(f"studies/{study}/summary.json")))
        except (MissingKey, ValueError):
            record = read_study(store, study)
            return summary_of(record, fold(read_events(store, study), initial_state(record)))
    except StoreError:
        raise
    except (QuantTaaSError, ValueError, LookupError):
        return None


def settled_summary(store: Store, summary: dict[str, Any], is_resting: bool = True) -> dict[str, Any]:
    """The summary with what lease and queue say about it.

    Args:
        store: The store.
        summary: As it was written.
        is_resting: An ended study is taken for what its summary says; else lease and queue are looked at all the same.
    """
    if summary["status"] in ENDED and is_resting:
        return summary
    state = StudyState(id=summary["id"], status=summary["status"], seq=summary["seq"], cluster=summary["cluster"])
    return {**summary, "status": settled(store, state).status}


def _event_key(study: str, seq: int) -> str:
    return f"studies/{study}/events/{seq:08d}.json"


def _queue_key(cluster: str, study: str) -> str:
    return f"queue/{cluster}/{study}"


def _cancel_key(study: str) -> str:
    return f"studies/{study}/cancel"


def _dump(values: Any) -> bytes:
    return json.dumps(values, separators=(",", ":"), allow_nan=False).encode()
