"""Output of a stage's process: kept apart from that of others, and the processes that it leaves are ended."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

_SPARED = ("resource_tracker", "semaphore_tracker", "forkserver")
"""Helpers of multiprocessing that belong to the worker, and not to a stage."""


@contextmanager
def captured(path: Path) -> Iterator[None]:
    """Write what this process and its children print into a file, also what native code and a crash print."""
    _flush()
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
    before = os.dup(1), os.dup(2)
    try:
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        yield
    finally:
        _flush()
        for number, kept in enumerate(before, 1):
            os.dup2(kept, number)
            os.close(kept)
        os.close(handle)


def lead_a_group() -> None:
    """Make this process the first of a group of processes, which can be ended together."""
    with suppress(AttributeError, OSError):
        os.setpgrp()


def end_group() -> None:
    """End this process, and all that it started."""
    with suppress(AttributeError, OSError):
        if os.getpgrp() == os.getpid():
            os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


def end_leftovers() -> None:
    """End the processes of this group that a stage started and left running."""
    if not hasattr(os, "getpgrp") or os.getpgrp() != os.getpid():
        return
    for pid in psutil.pids():
        with suppress(OSError, psutil.Error):
            if pid != os.getpid() and os.getpgid(pid) == os.getpid() and not _is_spared(pid):
                os.kill(pid, signal.SIGKILL)


def _is_spared(pid: int) -> bool:
    return any(name in part for part in psutil.Process(pid).cmdline() for name in _SPARED)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
