"""Index of the summaries of all studies in a store, updated with few reads."""

from __future__ import annotations

import time
from dataclasses import dataclass

from ..core.errors import Unreadable
from ..core.records.summary import StudySummary
from ..core.state import ENDED
from ..store.base import Store
from .records import is_id, read_summary, resolve_summary_status
from .summaries import unreadable

_TURN = 8
"""Studies at rest that are read again at each update; chosen, not tuned. More find a resume elsewhere sooner."""
_SUSPECT_SECONDS = 60.0
"""Seconds for which a suspected study is read at each update; longer than an engine takes to claim it, not tuned."""


@dataclass(frozen=True)
class _Entry:
    """Known state of a study: its summary as written, its summary as lease and queue correct it, and its stamp."""

    written: StudySummary | None
    present: StudySummary | None
    stamp: str | None

    @property
    def is_live(self) -> bool:
        """Whether the study is queued or running, so that its summary may change at any time."""
        return self.present is not None and self.present.status in ("queued", "running")

    @property
    def has_ended(self) -> bool:
        """Whether the written summary says that the study has ended."""
        return self.written is not None and self.written.status in ENDED


class StudyIndex:
    """Index of the summaries in a store; only one thread may call ``look``, any thread may call ``suspect``.

    In a store with stamps, only changed summaries are read. In other stores, queued and running studies are read at
    each update, and the rest a few at a time in turns, so that a study resumed elsewhere shows up after some updates.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._entries: dict[str, _Entry] = {}
        self._suspects: dict[str, float] = {}
        self._turn = 0

    def look(self) -> list[StudySummary]:
        """Return the current summaries of all studies, newest first.

        Raises:
            StoreError: The store cannot be read; the index keeps what it knows.
        """
        names = list(self._store.list("studies"))
        now = time.monotonic()
        # A copy, since another thread may add one during the loop.
        for name, until in dict(self._suspects).items():
            if until < now:
                self._suspects.pop(name, None)
        due = self._due(names)
        entries = self._store.each(lambda name: self._seen(name, name in due), names)
        self._entries = dict(zip(names, entries, strict=True))
        present = [entry.present for entry in self._entries.values() if entry.present]
        return sorted(present, key=lambda summary: -summary.created)

    def suspect(self, study_id: str) -> None:
        """Read a study at each update for a while, because it was just submitted, resumed or cancelled."""
        self._suspects[study_id] = time.monotonic() + _SUSPECT_SECONDS

    def _due(self, names: list[str]) -> set[str]:
        resting = [name for name in names if name in self._entries and not self._entries[name].is_live]
        start = self._turn % max(1, len(resting))
        self._turn = start + _TURN
        in_turn = (resting[start:] + resting[:start])[:_TURN]
        return {name for name in names if name not in resting}.union(in_turn, self._suspects)

    def _seen(self, name: str, is_due: bool) -> _Entry:
        try:
            return self._looked_at(name, is_due)
        except Unreadable as error:
            # One study must never hide the others.
            broken = unreadable(name, f"study {name} cannot be read: {error}")
            return _Entry(broken, broken, "")

    def _looked_at(self, name: str, is_due: bool) -> _Entry:
        if not is_id(name):
            raise Unreadable("its folder's name is no id")
        entry, stamp = self._entries.get(name), self._store.stamp(f"studies/{name}/summary.json")
        if entry is not None and stamp is None and not is_due:
            return entry
        # Without a summary there is no stamp either, and what is read is rebuilt from events, which may go on.
        is_same = entry is not None and bool(stamp == entry.stamp and (stamp or (stamp == "" and entry.has_ended)))
        written = entry.written if entry is not None and is_same else read_summary(self._store, name)
        present = written and resolve_summary_status(self._store, written, is_resting=name not in self._suspects)
        return _Entry(written, present, stamp)
