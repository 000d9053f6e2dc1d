"""Latency of artifacts, several taking turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

_WARM_UPS = 10
_TURN = 10
_FEWEST_CALLS = 100
_FEWEST_SECONDS = 0.2
_MOST_SECONDS = 3.0


def timed(
    session: Callable[[Sequence[Any]], Any], arrays: Sequence[Any], clock: Callable[[], float] = time.perf_counter
) -> Callable[[], float]:
    """A call of a session that returns its seconds: by the session's own clock where it has one (a GPU's events)."""
    own = getattr(session, "seconds", None)
    if own is not None:
        return lambda: float(own(arrays))

    def run() -> float:
        start = clock()
        session(arrays)
        return clock() - start

    return run


def interleaved_latency(
    runs: Sequence[Callable[[], float]], clock: Callable[[], float] = time.perf_counter
) -> list[np.ndarray]:
    """Seconds of single calls, the runs taking turns so that a drift of the machine's speed meets all alike.

    Each run returns its seconds; see ``timed``.

    A turn is ten calls: with single ones each run would find its threads asleep and its weights out of the caches.
    """
    for _ in range(_WARM_UPS):
        for run in runs:
            run()
    seconds: list[list[float]] = [[] for _ in runs]
    begun = clock()
    while True:
        calls, elapsed = len(seconds[0]), clock() - begun
        if calls >= _FEWEST_CALLS and elapsed >= _FEWEST_SECONDS:
            break
        if calls > 0 and elapsed >= _MOST_SECONDS:
            break
        for run, mine in zip(runs, seconds, strict=True):
            for _ in range(_TURN):
                mine.append(run())
    return [np.array(mine) for mine in seconds]
