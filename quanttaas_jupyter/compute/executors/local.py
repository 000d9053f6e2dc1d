"""Executor on this machine: one process pool with a single worker per slot and duty, so that a crash costs one stage.

Each slot has two workers, one that builds artifacts and one that measures them. Only one of them is busy at a time.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

from loky.process_executor import ProcessPoolExecutor

from ...core.device import Device, this_device
from ...core.memory import free_bytes, killed_for_memory
from . import worker_end
from .base import StageCall, StageTimeout

_TICK = 0.1
"""Seconds between two checks for progress and timeouts; chosen, not tuned. Shorter ones cost processor time."""
_PATIENCE = 120.0
"""Seconds that a latency stage waits for the other stages before they wait for it; chosen, not tuned."""

Runner = Callable[[dict[str, Any], int, str], dict[str, Any]]


@dataclass
class _Job:
    call: StageCall
    report: Callable[[str], None]
    future: Future[dict[str, Any]]
    submitted: float
    started: float = 0.0
    read: int = 0
    ended_because: Exception | None = None
    killed_before: int = 0

    @property
    def duty(self) -> str:
        return "measure" if self.call.is_measurement else "build"


@dataclass
class _Slot:
    index: int
    workers: dict[str, Any] = field(default_factory=dict)
    job: _Job | None = None


class LocalExecutor:
    """Executor on worker processes of this machine; latency stages run while all other slots are idle."""

    def __init__(
        self, run: Runner, begin: Callable[[int], None], slots: int, threads: int, memory: int | None = None
    ) -> None:
        """Start with idle slots.

        Args:
            run: Runs a job in a worker: ``run(job, threads, progress_path)``.
            begin: Called once in each new worker with the process id of this process.
            slots: Number of stages that run at the same time.
            threads: Threads that each stage may use.
            memory: Bytes that stages may take together; what is free by default.
        """
        self._memory, self._is_bounded = free_bytes() if memory is None else memory, memory is not None
        self.slots = slots
        self._run, self._begin, self._threads = run, begin, threads
        self._slots = [_Slot(index) for index in range(slots)]
        self._pending: list[tuple[tuple[float, ...], int, _Job]] = []
        self._counter = itertools.count()
        self._changed = threading.Condition()
        self._closed = False
        self._scratch = tempfile.TemporaryDirectory(prefix="quanttaas-progress-")
        threading.Thread(target=self._loop, name="quanttaas-executor", daemon=True).start()

    def device(self) -> Device:
        """Return the device that measurements run on: this machine."""
        return this_device()

    def waits_for(self) -> str:
        """Return an empty string: workers are processes of this machine, and nothing is missing."""
        return ""

    def rate(self) -> float:
        """Return 0: this machine has no price."""
        return 0.0

    def memory(self) -> int:
        """Return the bytes that stages may take together; more than at first if other programs gave memory back."""
        if not self._is_bounded:
            self._memory = max(self._memory, free_bytes())
        return self._memory

    def submit(self, call: StageCall, report: Callable[[str], None]) -> Future[dict[str, Any]]:
        """Queue a stage and return its future."""
        job = _Job(call, report, Future(), time.monotonic())
        with self._changed:
            heapq.heappush(self._pending, (call.priority, next(self._counter), job))
            self._changed.notify_all()
        return job.future

    def stop(self, future: Future[dict[str, Any]]) -> None:
        """Remove a waiting stage from the queue, or end the worker of a running one."""
        with self._changed:
            for entry in self._pending:
                if entry[2].future is future:
                    self._pending.remove(entry)
                    heapq.heapify(self._pending)
                    break
            else:
                for slot in self._slots:
                    if slot.job is not None and slot.job.future is future:
                        slot.job.ended_because = CancelledError()
                        self._end_worker(slot, slot.job.duty)
                return
        future.cancel()

    def warm(self, is_wanted: Callable[[], bool]) -> None:
        """Start workers one by one while ``is_wanted`` returns true, so that the first stages need not wait."""
        for duty in ("measure", "build"):
            for slot in self._slots:
                with self._changed:
                    if not is_wanted() or self._closed or slot.job is not None:
                        return
                    future = self._worker(slot, duty).submit(os.getpid)
                with contextlib.suppress(Exception):
                    future.result(timeout=60)

    def close(self) -> None:
        """End all workers."""
        with self._changed:
            self._closed = True
            for slot in self._slots:
                for duty in list(slot.workers):
                    self._end_worker(slot, duty)
            self._changed.notify_all()
        self._scratch.cleanup()

    def _loop(self) -> None:
        while True:
            with self._changed:
                if self._closed:
                    return
                begun = []
                while (job := self._next()) is not None:
                    begun.append(self._start(job))
                running = [slot for slot in self._slots if slot.job is not None]
                self._stop_hung(running)
                if not begun:
                    self._changed.wait(_TICK if running or self._pending else None)
            # Futures end outside the lock, because their callbacks may take other locks.
            for slot, job, future in begun:
                future.add_done_callback(partial(self._finish, slot, job))
            for slot in running:
                self._pass_on_progress(slot)
                worker_end.bound(self._output(slot))

    def _next(self) -> _Job | None:
        """Return the next job by priority, or None; an exclusive one if nothing runs or is due before it."""
        busy = [slot.job for slot in self._slots if slot.job is not None]
        if any(job.call.is_exclusive for job in busy) or not self._pending:
            return None
        exclusive = [job for _, _, job in self._pending if job.call.is_exclusive]
        waited = time.monotonic() - min((job.submitted for job in exclusive), default=time.monotonic())
        others = len(self._pending) - len(exclusive)
        if exclusive and (others == 0 or waited > _PATIENCE):
            return self._take(is_exclusive=True) if not busy else None
        return self._take_fitting(busy) if others and len(busy) < self.slots else None

    def _take_fitting(self, busy: list[_Job]) -> _Job | None:
        """Return the next job that is not exclusive, if it fits into memory beside those that run."""
        entry = min(entry for entry in self._pending if not entry[2].call.is_exclusive)
        together = entry[2].call.memory + sum(job.call.memory for job in busy)
        # Whatever was expected, one job alone is tried.
        return self._take(is_exclusive=False) if not busy or together <= self._memory else None

    def _take(self, is_exclusive: bool) -> _Job:
        entry = min(entry for entry in self._pending if entry[2].call.is_exclusive == is_exclusive)
        self._pending.remove(entry)
        heapq.heapify(self._pending)
        return entry[2]

    def _start(self, job: _Job) -> tuple[_Slot, _Job, Future[dict[str, Any]]]:
        slot = self._best_slot(job)
        slot.job, job.started = job, time.monotonic()
        job.future.set_running_or_notify_cancel()
        job.killed_before = killed_for_memory()
        try:
            self._progress_file(slot).write_bytes(b"")
            self._output(slot).unlink(missing_ok=True)
            return slot, job, self._sent(slot, job)
        except Exception as error:
            failed: Future[dict[str, Any]] = Future()
            failed.set_exception(error)
            return slot, job, failed

    def _sent(self, slot: _Slot, job: _Job) -> Future[dict[str, Any]]:
        arguments = (job.call.job, self._threads, str(self._progress_file(slot)))
        try:
            return cast("Future[dict[str, Any]]", self._worker(slot, job.duty).submit(self._run, *arguments))
        except BrokenExecutor:
            # The worker died while it was idle, which is not this stage's fault.
            self._end_worker(slot, job.duty)
            return cast("Future[dict[str, Any]]", self._worker(slot, job.duty).submit(self._run, *arguments))

    def _best_slot(self, job: _Job) -> _Slot:
        free = [slot for slot in self._slots if slot.job is None]
        return next((slot for slot in free if job.duty in slot.workers), free[0])

    def _finish(self, slot: _Slot, job: _Job, done: Future[dict[str, Any]]) -> None:
        self._pass_on_progress(slot, job)
        error = job.ended_because or (CancelledError() if done.cancelled() else done.exception())
        # Read before the slot is free: the next stage writes into the same file.
        died = (
            worker_end.why_died(error, self._output(slot), killed_for_memory() > job.killed_before) if error else None
        )
        with self._changed:
            if error is not None:
                self._end_worker(slot, job.duty)
            slot.job = None
            self._changed.notify_all()
        if error is None:
            job.future.set_result(done.result())
        else:
            job.future.set_exception(error if isinstance(error, (CancelledError, StageTimeout)) else died)

    def _stop_hung(self, running: list[_Slot]) -> None:
        for slot in running:
            job = slot.job
            if job is None or job.ended_because or time.monotonic() - job.started < job.call.timeout:
                continue
            job.ended_because = StageTimeout(f"stopped after {job.call.timeout:g} s without an end")
            self._end_worker(slot, job.duty)

    def _worker(self, slot: _Slot, duty: str) -> Any:
        if duty not in slot.workers:
            slot.workers[duty] = ProcessPoolExecutor(
                max_workers=1,
                timeout=None,
                initializer=self._begin,
                initargs=(os.getpid(),),
                env={"OMP_NUM_THREADS": str(self._threads), "MKL_NUM_THREADS": str(self._threads)},
            )
        return slot.workers[duty]

    def _end_worker(self, slot: _Slot, duty: str) -> None:
        worker = slot.workers.pop(duty, None)
        if worker is not None:
            pids = list(worker._processes or ())
            # Joining from a callback of the pool's own thread would wait for itself.
            threading.Thread(target=_end_for_good, args=(worker, pids), daemon=True).start()

    def _progress_file(self, slot: _Slot) -> Path:
        return Path(self._scratch.name) / str(slot.index)

    def _output(self, slot: _Slot) -> Path:
        return output_of(self._progress_file(slot))

    def _pass_on_progress(self, slot: _Slot, job: _Job | None = None) -> None:
        job = job or slot.job
        if job is None:
            return
        with contextlib.suppress(OSError):
            content = self._progress_file(slot).read_bytes()
            whole = content[: content.rfind(b"\n") + 1]
            fresh, job.read = whole[job.read :], max(job.read, len(whole))
            for line in fresh.decode("utf-8", "replace").splitlines():
                job.report(line)


def output_of(progress: Path) -> Path:
    """Return the file beside that of a stage's progress in which its worker may keep its output."""
    return progress.with_name(f"{progress.name}.out")


def _end_for_good(worker: Any, pids: list[int]) -> None:
    worker.shutdown(wait=True, kill_workers=True)
    worker_end.end_groups(pids)
