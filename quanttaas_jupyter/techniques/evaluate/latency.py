"""Latency of artifacts, measured in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

_WARM_UPS = 10
"""Calls of each run before the measurement; chosen, not tuned. Too few would include caches that are still cold."""
_TURN = 10
"""Calls of one run before the next run has its turn; chosen, not tuned. More let drift in, fewer find cold caches."""
_FEWEST_CALLS = 100
"""Timed calls of each run, at least, unless ``_MOST_SECONDS`` pass first; chosen, not tuned."""
_FEWEST_SECONDS = 0.2
"""Seconds of measurement, at least; chosen, not tuned. Very fast models run more calls."""
_MOST_SECONDS = 3.0
"""Seconds of measurement after which no new turn starts; chosen, not tuned. Slow models run fewer calls."""


def timed(
    session: Callable[[Sequence[Any]], Any], arrays: Sequence[Any], clock: Callable[[], float] = time.perf_counter
) -> Callable[[], float]:
    """Return a function that calls a session and returns the seconds, from the session's clock (GPU events) if any."""
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
    """Measure the seconds of single calls, with the runs taking turns, so that drift of the machine affects all alike.

    Each run makes one call and returns its seconds; see ``timed``. A turn is ten calls: with single calls each run
    would find its threads asleep and its weights out of the caches.

    Returns:
        One array of seconds per run, in the order of ``runs``.
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
