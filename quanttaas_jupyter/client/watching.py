"""Watching of a study: one thread reads the store for all views of it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from ..core.state import StudyState

_POLL_SECONDS = 0.35
"""Seconds between two reads of the store; chosen, not tuned. Smaller makes views livelier and costs more requests."""

log = logging.getLogger(__name__)


class Follower:
    """Callback that a watcher serves until ``stop``."""

    def __init__(self, watcher: Watcher, callback: Callable[[StudyState], None]) -> None:
        self._watcher, self._callback = watcher, callback
        self._last: StudyState | None = None

    def stop(self) -> None:
        """Stop calling back."""
        self._watcher.remove(self)

    def notify(self, state: StudyState) -> None:
        """Call back if the state has changed."""
        if state == self._last:
            return
        self._last = state
        try:
            self._callback(state)
        except Exception:
            # An error of one view must not stop the others.
            log.exception("a view of study %s could not be drawn", state.id)


class Watcher:
    """Reader of a study's state in a daemon thread, as long as it has followers and the study has not ended."""

    def __init__(self, study_id: str, read: Callable[[], StudyState]) -> None:
        """Serve followers of a study with the states that ``read`` returns."""
        self._study_id, self._read = study_id, read
        self._followers: list[Follower] = []
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def follow(self, callback: Callable[[StudyState], None]) -> Follower:
        """Call ``callback`` with the present state, and after each change."""
        follower = Follower(self, callback)
        with self._lock:
            self._followers.append(follower)
        self.wake()
        return follower

    def remove(self, follower: Follower) -> None:
        """Stop serving a follower."""
        with self._lock:
            if follower in self._followers:
                self._followers.remove(follower)

    def wake(self) -> None:
        """Start the thread again, for example after the study was resumed."""
        with self._lock:
            if self._followers and (self._thread is None or not self._thread.is_alive()):
                self._thread = threading.Thread(target=self._run, name=f"watch-{self._study_id}", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            state = self._read()
            with self._lock:
                followers = list(self._followers)
            for follower in followers:
                follower.notify(state)
            with self._lock:
                if self._followers == followers and (not followers or state.has_ended):
                    # Decided under the lock, so that a follower that is added now starts a new thread.
                    self._thread = None
                    return
            time.sleep(_POLL_SECONDS)
