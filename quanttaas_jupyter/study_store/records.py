"""Records of studies in a store: the submitted record, the event log, the queue and the summary.

Layout::

    studies/<id>/study.json          the record as submitted
    studies/<id>/lease.json          the engine that drives the study
    studies/<id>/events/<seq>.json   append-only event log
    studies/<id>/summary.json        a digest, rebuildable from the events
    studies/<id>/cancel              present: the engine shall stop
    studies/<id>/served/<mark>       a ticket of a queue that an engine has served
    queue/<cluster>/<id>             waiting for an engine
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

from ..core import identity
from ..core.errors import NotFound, QuantTaaSError, StoreError, Unreadable
from ..core.records.study import StudyRecord
from ..core.records.summary import StudySummary
from ..core.state import ENDED, Event, StudyState, apply, fold, with_lease
from ..store.base import MissingKey, Store
from . import door, shapes
from .lease import read_lease
from .summaries import UNREADABLE, summary_of, unreadable

_ID = re.compile(r"[a-z0-9][a-z0-9-]{2,62}[a-z0-9]")


class LogTaken(Exception):
    """Another engine wrote this event, so the lease is lost."""


class StudyGone(Exception):
    """The study was deleted while an engine drove it."""


def checked_id(study_id: str) -> str:
    """Return the id of a study if it is valid.

    Raises:
        QuantTaaSError: The id is not made of lower-case letters, digits and dashes.
    """
    if not isinstance(study_id, str) or not _ID.fullmatch(study_id):
        raise QuantTaaSError(
            f"{study_id!r} is no valid id of a study: ids are lower-case letters, digits and dashes; "
            "%quanttaas studies lists them"
        )
    return study_id


def create_study(store: Store, record: StudyRecord) -> str:
    """Write ``study.json``, signed by this user, and return its SHA-256 digest.

    Raises:
        QuantTaaSError: The id is taken, or not valid.
    """
    data = _dump(identity.signed("study", record.stored()))
    if not store.create(f"studies/{checked_id(record.id)}/study.json", data):
        raise QuantTaaSError(f"study {record.id} exists already")
    return hashlib.sha256(data).hexdigest()


def read_study(store: Store, study_id: str) -> StudyRecord:
    """Return the record of a study as it was submitted.

    Raises:
        NotFound: There is no such study.
        Unreadable: Its record is malformed, that of another study, or made by a newer version.
    """
    try:
        data = read_study_bytes(store, study_id)
    except Unreadable as error:
        raise Unreadable(f"study {study_id} cannot be read: {error}") from None
    return parse_study(data, study_id)


def parse_study(data: bytes, study_id: str) -> StudyRecord:
    """Return the record that the bytes of the ``study.json`` of a study hold.

    Raises:
        Unreadable: The record is malformed, that of another study, or made by a newer version.
    """
    try:
        values = door.parsed(data, shapes.STUDY)
        door.belongs(values, "id", study_id, shapes.STUDY)
    except Unreadable as error:
        raise Unreadable(f"study {study_id} cannot be read: {error}") from None
    return StudyRecord.of(values)


def is_signed_by_me(data: bytes) -> bool:
    """Return whether the bytes of a ``study.json``, and so all that it names, are as this user submitted them."""
    try:
        return identity.is_mine("study", door.parsed(data, shapes.STUDY))
    except Unreadable:
        return False


def read_study_bytes(store: Store, study_id: str) -> bytes:
    """Return the bytes of ``study.json``.

    Raises:
        NotFound: There is no such study.
    """
    try:
        return store.read(f"studies/{checked_id(study_id)}/study.json")
    except MissingKey:
        raise NotFound(f"no study {study_id} in {store.uri}; %quanttaas studies lists those there are") from None


def enqueue(store: Store, cluster: str, study_id: str, ticket: dict[str, Any]) -> None:
    """Put a study into the queue of a cluster's engine."""
    store.replace(_queue_key(cluster, study_id), _dump(ticket))


def dequeue(store: Store, cluster: str, study_id: str) -> None:
    """Remove a study from the queue."""
    store.delete(_queue_key(cluster, study_id))


def read_ticket(store: Store, cluster: str, study_id: str) -> dict[str, Any] | None:
    """Return the queue entry of a study, or None if it is not queued, or the entry is no ticket of this study."""
    try:
        values = door.parsed(store.read(_queue_key(cluster, study_id)), shapes.TICKET)
    except (MissingKey, Unreadable):
        return None
    return values if values.get("study", study_id) == study_id else None


def mark_served(store: Store, study_id: str, mark: str, engine: str) -> bool:
    """Note that a ticket was served, and return whether it had not been."""
    key = f"studies/{study_id}/served/{mark}"
    return store.size(key) is None and store.create(key, engine.encode())


def ask_to_cancel(store: Store, study_id: str) -> None:
    """Write the mark that makes the engine stop a study."""
    store.replace(_cancel_key(study_id), b"{}")


def is_cancelled(store: Store, study_id: str) -> bool:
    """Return whether the study has a cancel mark."""
    return store.size(_cancel_key(study_id)) is not None


def clear_cancel(store: Store, study_id: str) -> None:
    """Remove the cancel mark; only the holder of the lease may do that."""
    store.delete(_cancel_key(study_id))


class EventWriter:
    """Writer of a study's event log; only the holder of the lease may have one."""

    def __init__(self, store: Store, study_id: str) -> None:
        self._store, self._study_id = store, study_id
        self.state = fold(read_events(store, study_id), StudyState(id=study_id))
        self._stamp = store.stamp(f"studies/{study_id}/study.json")

    def _is_gone(self) -> bool:
        return bool(self._stamp) and not self._store.stamp(f"studies/{self._study_id}/study.json")

    def append(self, type_: str, **values: Any) -> None:
        """Write one event, and apply it to ``state``.

        Raises:
            LogTaken: Another engine wrote an event with the same number.
            StudyGone: The study was deleted meanwhile; nothing is written, so that no ghost of it stays.
        """
        # A folder says it without a request; in a bucket the lease, which is renewed, goes with the study.
        if self._is_gone():
            raise StudyGone(self._study_id)
        seq = self.state.seq + 1
        event = {"seq": seq, "time": time.time(), "type": type_, **values}
        data = _dump(event)
        if not self._store.create(_event_key(self._study_id, seq), data):
            raise LogTaken(self._study_id)
        self.state = fold([json.loads(data)], self.state)

    def write_summary(self, record: StudyRecord) -> None:
        """Replace the summary that lists of studies read, unless the study was deleted."""
        if self._is_gone():
            return
        self._store.replace(f"studies/{self._study_id}/summary.json", _dump(summary_of(record, self.state).stored()))


def read_events(store: Store, study_id: str, after: int = 0, most: int | None = None) -> Iterator[Event]:
    """Yield the events after number ``after``, in order, up to the first gap, and at most ``most`` of them.

    Raises:
        Unreadable: The next event is malformed, or numbered as another one.
    """
    known = after
    try:
        names = []
        listed = islice(store.list(f"studies/{study_id}/events", after=f"{after:08d}.json"), most)
        for expected, name in enumerate(listed, after + 1):
            if name != f"{expected:08d}.json":
                break
            names.append(f"studies/{study_id}/events/{name}")
        for data in store.each(store.read_if_there, names):
            if data is None:
                return
            event = door.parsed(data, shapes.EVENT)
            door.belongs(event, "seq", known + 1, shapes.EVENT)
            yield event
            known += 1
    except Unreadable as error:
        raise Unreadable(f"study {study_id} cannot be read from event {known + 1} on: {error}") from None


def fold_events(store: Store, study_id: str, state: StudyState) -> tuple[StudyState, str]:
    """Return the state after the events that follow it, as far as they can be read, and a sentence if one cannot."""
    try:
        for event in read_events(store, study_id, after=state.seq):
            state = apply(state, event)
    except Unreadable as error:
        return state, str(error)
    return state, ""


def initial_state(record: StudyRecord) -> StudyState:
    """Return the state of a study before its first event."""
    return StudyState(
        id=record.id,
        name=record.name,
        created=record.created,
        cluster=record.cluster,
        model=record.model,
        metric=record.metric,
        goal=record.goal,
        notes=record.notes,
        understanding=record.understanding.heading if record.understanding else "",
    )


def resolve_status(store: Store, state: StudyState) -> StudyState:
    """Return the state with the status that the study's lease and queue entry give it."""
    lease = read_lease(store, state.id)
    queued = store.size(_queue_key(state.cluster, state.id)) is not None
    now = time.time()
    # A broken lease, far in the future, has run out like any other.
    until = None if lease is None else lease.until if lease.is_held(now) else 0.0
    return with_lease(state, until, queued, now)


def list_summaries(store: Store) -> list[StudySummary]:
    """Return the current summaries of all studies, newest first.

    A missing summary is rebuilt from the events; a study that cannot be read has the status ``unreadable``, with the
    reason.
    """
    written = store.each(lambda study_id: present_summary(store, study_id), store.list("studies"))
    return sorted(filter(None, written), key=lambda summary: -summary.created)


def present_summary(store: Store, study_id: str) -> StudySummary | None:
    """Return the summary of a study as lease and queue correct it; None if the study is gone."""
    try:
        summary = read_summary(store, study_id)
        return summary and resolve_summary_status(store, summary)
    except Unreadable as error:
        return unreadable(study_id, f"study {study_id} cannot be read: {error}")


def read_summary(store: Store, study_id: str) -> StudySummary | None:
    """Return the summary as last written, or rebuilt from the events; None if the study is gone.

    Raises:
        StoreError: The store cannot be read.
    """
    if not is_id(study_id):
        return unreadable(study_id, f"study {study_id} cannot be read: its folder's name is no id")
    try:
        with contextlib.suppress(MissingKey, Unreadable):
            values = door.parsed(store.read(f"studies/{study_id}/summary.json"), shapes.SUMMARY)
            door.belongs(values, "id", study_id, shapes.SUMMARY)
            return StudySummary.of(values)
        record = read_study(store, study_id)
        return summary_of(record, fold(read_events(store, study_id), initial_state(record)))
    except StoreError:
        raise
    except NotFound:
        left = next(store.walk(f"studies/{study_id}"), None)
        return unreadable(study_id, f"study {study_id} cannot be read: its study.json is missing") if left else None
    except Unreadable as error:
        return unreadable(study_id, str(error))


def is_id(study_id: str) -> bool:
    """Return whether a name is a valid id of a study."""
    return _ID.fullmatch(study_id) is not None


def resolve_summary_status(store: Store, summary: StudySummary, is_resting: bool = True) -> StudySummary:
    """Return the summary with the status that the study's lease and queue entry give it.

    Args:
        store: The store.
        summary: The summary as written.
        is_resting: Whether to trust the summary of an ended study without reading its lease and queue entry.
    """
    if summary.status == UNREADABLE or (summary.status in ENDED and is_resting):
        return summary
    state = StudyState(id=summary.id, status=summary.status, seq=summary.seq, cluster=summary.cluster)
    return dataclasses.replace(summary, status=resolve_status(store, state).status)


def _event_key(study_id: str, seq: int) -> str:
    return f"studies/{study_id}/events/{seq:08d}.json"


def _queue_key(cluster: str, study_id: str) -> str:
    return f"queue/{cluster}/{study_id}"


def _cancel_key(study_id: str) -> str:
    return f"studies/{study_id}/cancel"


def _dump(values: Any) -> bytes:
    return json.dumps(values, separators=(",", ":"), allow_nan=False).encode()
