"""Memory of this machine: what is free, what this process held at most, and whether a process was killed for it."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")
_EVERY = 0.05
"""Seconds between two looks at the memory of a process; chosen, not tuned. A shorter peak is not seen."""


def free_bytes() -> int:
    """Return the bytes that processes may still take: of the machine, or of the container if that allows less."""
    free = int(psutil.virtual_memory().available)
    with suppress(OSError, ValueError):
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        counters = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        # The kernel gives back pages of files that nobody uses.
        free = min(free, limit - used + int(counters.get("inactive_file", 0)))
    return max(0, free)


def killed_for_memory() -> int:
    """Return how many processes of this machine were killed for want of memory since it started; 0 if unknown."""
    with suppress(OSError, ValueError):
        counters = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
        return int(counters.get("oom_kill", 0))
    return 0


class Peak:
    """Largest memory of this process inside of a ``with`` block: ``bytes``, without pages that others share."""

    def __init__(self) -> None:
        """Look at this process."""
        self._process, self._is_over = psutil.Process(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory", daemon=True)
        self.bytes = 0

    def __enter__(self) -> Peak:
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._is_over.wait(_EVERY):
            self._look()

    def _look(self) -> None:
        found = self._process.memory_info()
        self.bytes = max(self.bytes, found.rss - getattr(found, "shared", 0))
