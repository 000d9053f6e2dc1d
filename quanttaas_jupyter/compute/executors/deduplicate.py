"""Two studies that need the same stage at the same time get one run of it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any

from ...core.device import Device
from .base import Executor, StageCall

Result = dict[str, Any]


@dataclass
class _Run:
    inner: Future[Result]
    waiting: dict[Future[Result], Callable[[str], None]] = field(default_factory=dict)


class SharingExecutor:
    """An executor that hands the future of a running stage to everyone who asks for the same key."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._runs: dict[tuple[str, str], _Run] = {}
        self._lock = threading.RLock()

    @property
    def slots(self) -> int:
        """Stages at once, as things stand."""
        return self._executor.slots

    def device(self) -> Device | None:
        """What measurements are made on."""
        return self._executor.device()

    def waits_for(self) -> str:
        """What stages wait for that is not there yet."""
        return self._executor.waits_for()

    def rate(self) -> float:
        """What it costs an hour as things stand."""
        return self._executor.rate()

    def submit(self, call: StageCall, report: Callable[[str], None]) -> Future[Result]:
        """Run a stage, or wait for the run of it that is under way."""
        # Bytes made for one store are not in another.
        key, outer = (call.job["store"], call.job["key"]), Future[Result]()
        with self._lock:
            run = self._runs.get(key)
            if run is not None:
                run.waiting[outer] = report
                return outer
            run = self._runs[key] = _Run(Future(), {outer: report})
        # Without the lock: the executor has locks of its own. Nobody can stop this run yet, since ``outer`` waits for
        # it and is known here alone.
        try:
            run.inner = self._executor.submit(call, lambda line: self._tell(run, line))
        except Exception as error:
            # Whoever joined meanwhile must not wait for ever.
            run.inner.set_exception(error)
        run.inner.add_done_callback(lambda done: self._finish(key, run, done))
        return outer

    def stop(self, future: Future[Result]) -> None:
        """Wait no longer; the stage is stopped once nobody waits for it."""
        with self._lock:
            key, run = next(((k, r) for k, r in self._runs.items() if future in r.waiting), (None, None))
            if key is None or run is None:
                return
            del run.waiting[future]
            is_last = not run.waiting
            if is_last:
                # Whoever asks for the stage from now on gets a run of its own, not this one's end.
                del self._runs[key]
        future.cancel()
        if is_last:
            self._executor.stop(run.inner)

    def close(self) -> None:
        """Stop everything."""
        self._executor.close()

    def _tell(self, run: _Run, line: str) -> None:
        with self._lock:
            reports = list(run.waiting.values())
        for report in reports:
            report(line)

    def _finish(self, key: tuple[str, str], run: _Run, done: Future[Result]) -> None:
        with self._lock:
            if self._runs.get(key) is run:
                del self._runs[key]
            waiting = list(run.waiting)
        error = CancelledError() if done.cancelled() else done.exception()
        for outer in waiting:
            # Whoever stopped waiting meanwhile has a cancelled future.
            with contextlib.suppress(InvalidStateError):
                outer.set_result(done.result()) if error is None else outer.set_exception(error)
