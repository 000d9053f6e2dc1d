"""Deduplication of stages: studies that need the same stage at the same time share one run of it."""

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
    """Executor that runs a stage once for all concurrent requests with the same store and key."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._runs: dict[tuple[str, str], _Run] = {}
        self._lock = threading.RLock()

    @property
    def slots(self) -> int:
        """Number of stages that can run at the same time at present."""
        return self._executor.slots

    def device(self) -> Device | None:
        """Return the device that measurements run on, or None."""
        return self._executor.device()

    def waits_for(self) -> str:
        """Return the missing resource that stages wait for, or an empty string."""
        return self._executor.waits_for()

    def memory(self) -> int | None:
        """Return what the inner executor says."""
        return self._executor.memory()

    def rate(self) -> float:
        """Return the present cost per hour."""
        return self._executor.rate()

    def submit(self, call: StageCall, report: Callable[[str], None]) -> Future[Result]:
        """Run a stage, or join the run of the same stage that is under way."""
        # The store is part of the key: results in one store are not in another.
        key, outer = (call.job["store"], call.job["key"]), Future[Result]()
        with self._lock:
            run = self._runs.get(key)
            if run is not None:
                run.waiting[outer] = report
                return outer
            run = self._runs[key] = _Run(Future(), {outer: report})
        # Outside the lock, since the executor has locks of its own. The run cannot be stopped yet, because no caller
        # knows ``outer``.
        try:
            run.inner = self._executor.submit(call, lambda line: self._report(run, line))
        except Exception as error:
            # Requests that joined the run must end too.
            run.inner.set_exception(error)
        run.inner.add_done_callback(lambda done: self._finish(key, run, done))
        return outer

    def stop(self, future: Future[Result]) -> None:
        """Cancel one request; the stage is stopped with the last one."""
        with self._lock:
            key, run = next(((k, r) for k, r in self._runs.items() if future in r.waiting), (None, None))
            if key is None or run is None:
                return
            del run.waiting[future]
            is_last = not run.waiting
            if is_last:
                # Later requests for the stage start a new run instead of joining this cancelled one.
                del self._runs[key]
        future.cancel()
        if is_last:
            self._executor.stop(run.inner)

    def close(self) -> None:
        """Stop all stages and workers."""
        self._executor.close()

    def _report(self, run: _Run, line: str) -> None:
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
            # The future of a cancelled request has ended already.
            with contextlib.suppress(InvalidStateError):
                outer.set_result(done.result()) if error is None else outer.set_exception(error)
