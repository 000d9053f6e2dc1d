"""The summaries of all studies of a store, kept up to date by reading little."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from ..core.state import ENDED
from ..store.base import Store
from .records import read_summary, settled_summary

_TURN = 8
_SUSPECT_SECONDS = 60.0


@dataclass(frozen=True)
class _Entry:
    """What is known of a study: its summary as written, with lease and queue, and the stamp of the file."""

    written: dict[str, Any] | None
    present: dict[str, Any] | None
    stamp: str | None

    @property
    def is_live(self) -> bool:
        """Whether it may change from one moment to the next."""
        return self.present is not None and self.present["status"] in ("queued", "running")

    @property
    def has_ended(self) -> bool:
        """Whether its summary says that nothing more comes."""
        return self.written is not None and self.written["status"] in ENDED


class StudyIndex:
    """The summaries of a store; one thread looks at a time, others may suspect.

    A store that tells what changed is asked for that alone. Of others the studies that are queued or running are read
    at every look, the rest a few at a time in turns, so that what somebody resumed elsewhere shows up after a while.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._entries: dict[str, _Entry] = {}
        self._suspects: dict[str, float] = {}
        self._turn = 0

    def look(self) -> list[dict[str, Any]]:
        """Summaries of all studies as they stand, newest first. Raises StoreError; then nothing is forgotten."""
        names = list(self._store.list("studies"))
        now = time.monotonic()
        # A copy: another thread may add one meanwhile.
        for name, until in dict(self._suspects).items():
            if until < now:
                self._suspects.pop(name, None)
        due = self._due(names)
        found = self._store.each(lambda name: self._seen(name, name in due), names)
        self._entries = dict(zip(names, found, strict=True))
        present = [entry.present for entry in self._entries.values() if entry.present]
        return sorted(present, key=lambda summary: -float(summary["created"]))

    def suspect(self, study: str) -> None:
        """Read a study at every look for a while: something was done to it."""
        self._suspects[study] = time.monotonic() + _SUSPECT_SECONDS

    def _due(self, names: list[str]) -> set[str]:
        resting = [name for name in names if name in self._entries and not self._entries[name].is_live]
        start = self._turn % max(1, len(resting))
        self._turn = start + _TURN
        in_turn = (resting[start:] + resting[:start])[:_TURN]
        return {name for name in names if name not in resting}.union(in_turn, self._suspects)

    def _seen(self, name: str, is_due: bool) -> _Entry:
        entry, stamp = self._entries.get(name), self._store.stamp(f"studies/{name}/summary.json")
        if entry is not None and stamp is None and not is_due:
            return entry
        # Without a summary there is no stamp either, and what is read is rebuilt from events, which may go on.
        is_same = entry is not None and bool(stamp == entry.stamp and (stamp or (stamp == "" and entry.has_ended)))
        written = entry.written if entry is not None and is_same else read_summary(self._store, name)
        present = written and settled_summary(self._store, written, is_resting=name not in self._suspects)
        return _Entry(written, present, stamp)
