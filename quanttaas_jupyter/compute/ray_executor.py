"""Stages on a Ray cluster.

A slot is what one stage at a time gets: processors and, for trainings, a share of a GPU. Its workers are Ray actors,
one that builds and one that measures, on the same node; only one of them is busy. Actors rather than tasks: a task
would run in whatever process is idle, also in the one that built the file it measures, and Ray ends idle processes
after a second, which costs every later stage the import of its libraries. Nothing here retries; an actor that dies
ends its stage with WorkerDied or NodeLost. Slots without work give everything back after ``warm_seconds``.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ..config import Prices, SlotConfig
from ..errors import ClusterError
from .base import NodeLost, StageCall, StageTimeout, WorkerDied
from .device import Device
from .ray_worker import Run, StageWorker

_TICK = 0.25
_LOOK_EVERY = 1.0
_PATIENCE = 120.0
_GIVE_UP_TIMING = 120.0
_MOST_FAILED_STARTS = 3

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Job:
    call: StageCall
    report: Callable[[str], None]
    future: Future[dict[str, Any]]
    submitted: float
    number: int
    started: float = 0.0
    read: int = 0
    is_asked: bool = False
    ended_because: Exception | None = None

    @property
    def duty(self) -> str:
        return "measure" if self.call.is_measurement else "build"

    @property
    def order(self) -> tuple[Any, ...]:
        return self.call.priority, self.number


@dataclass(eq=False)
class _Slot:
    has_gpu: bool
    anchor: str
    created: float
    workers: dict[str, Any] = field(default_factory=dict)
    about: dict[str, Any] | None = None
    job: _Job | None = None
    idle_since: float = field(default_factory=time.monotonic)

    @property
    def is_free(self) -> bool:
        return self.about is not None and self.job is None


class RayExecutor:
    """Runs stages on the cluster that this process is connected to; a latency stage has its node for itself."""

    def __init__(
        self,
        run: Run,
        prepare: Callable[[], None],
        slot: SlotConfig,
        max_slots: int | None = None,
        warm_seconds: float = 60.0,
        prices: Prices | None = None,
    ) -> None:
        """Hold nothing yet.

        Args:
            run: Runs a job in a worker: ``run(job, threads, report)``.
            prepare: Called once in every new worker.
            slot: What a stage gets.
            max_slots: Stages at once; None for as many as the nodes of the moment hold.
            warm_seconds: Seconds without work after which a slot is given back.
            prices: What nodes cost an hour.
        """
        self._run, self._prepare, self._slot = run, prepare, slot
        self._max_slots, self._warm, self._prices = max_slots, warm_seconds, prices or Prices()
        self._slots: list[_Slot] = []
        self._pending: list[_Job] = []
        self._numbers = itertools.count()
        self._device: Device | None = None
        self._wants_device = False
        self._waits_for = ""
        self._failed_starts, self._trouble = 0, ""
        self._nodes: list[dict[str, Any]] = []
        self._looked = 0.0
        self._closed = False
        self._lock = threading.RLock()
        self._wake = threading.Event()
        self._news: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._look()
        threading.Thread(target=self._loop, name="quanttaas-executor", daemon=True).start()

    @property
    def slots(self) -> int:
        """Stages at once: what was configured, else what the nodes of the moment hold."""
        return self._max_slots or max(1, sum(self._room_of(node) for node in self._nodes))

    def device(self) -> Device | None:
        """The device of the first worker that came up; asks for one where none is.

        Raises:
            ClusterError: Workers start and end again, each time.
        """
        with self._lock:
            if self._trouble:
                self._trouble, self._wants_device, trouble = "", False, self._trouble
                raise ClusterError(trouble)
            self._wants_device = self._device is None
            self._wake.set()
            return self._device

    def waits_for(self) -> str:
        """What stages wait for that no node of the moment has."""
        return self._waits_for

    def rate(self) -> float:
        """What the nodes of the moment cost an hour."""
        prices = self._prices
        resources = [node["Resources"] for node in self._nodes]
        return sum(prices.node + prices.cpu * r.get("CPU", 0) + prices.gpu * r.get("GPU", 0) for r in resources)

    def warm(self, is_wanted: Callable[[], bool]) -> None:
        """Start workers where nodes are, so that the first stages find them; unused, they are given back again."""
        with self._lock:
            if not is_wanted():
                return
            for _ in range(min(self.slots, sum(self._room_of(node) for node in self._nodes)) - len(self._slots)):
                self._add_slot(has_gpu=self._slot.gpus > 0, anchor="measure")

    def submit(self, call: StageCall, report: Callable[[str], None]) -> Future[dict[str, Any]]:
        """Queue a stage."""
        job = _Job(call, report, Future(), time.monotonic(), next(self._numbers))
        with self._lock:
            self._pending.append(job)
            self._wake.set()
        return job.future

    def stop(self, future: Future[dict[str, Any]]) -> None:
        """Forget a waiting stage, or end the worker of a running one."""
        with self._lock:
            for slot in self._slots:
                if slot.job is not None and slot.job.future is future:
                    slot.job.ended_because = CancelledError()
                    self._end_worker(slot, slot.job.duty)
                    return
            self._pending = [job for job in self._pending if job.future is not future]
        future.cancel()

    def close(self) -> None:
        """Give everything back."""
        with self._lock:
            self._closed = True
            for slot in list(self._slots):
                self._drop_slot(slot)
            self._wake.set()

    def _loop(self) -> None:
        while True:
            self._take_news()
            with self._lock:
                if self._closed:
                    return
                try:
                    self._look()
                    self._assign()
                    self._scale()
                    self._release_idle()
                    self._stop_hung()
                except Exception:
                    # A cluster that is out of reach for a moment must not end the thread that everything waits for.
                    log.exception("the cluster could not be looked at")
                self._ask_for_lines()
                tick = _TICK if self._pending or self._slots else _LOOK_EVERY
            self._wake.wait(tick)
            self._wake.clear()

    def _take_news(self) -> None:
        """What Ray told meanwhile, without the lock held: whoever waits for futures may hold locks of its own."""
        while not self._news.empty():
            try:
                self._news.get()()
            except Exception:
                log.exception("news of the cluster could not be taken")

    def _when_done(self, answer: Any, take: Callable[[Future[Any]], None]) -> None:
        """Take an answer in the loop's thread.

        Ray calls back from a thread of its own that all its calls need: there nothing may be asked of it, and no lock
        may be taken that somebody holds who does.
        """

        def tell(done: Future[Any]) -> None:
            self._news.put(partial(take, done))
            self._wake.set()

        answer.future().add_done_callback(tell)

    def _look(self) -> None:
        """Which nodes there are, and what is missing; at most once a second."""
        import ray

        now = time.monotonic()
        if now - self._looked < _LOOK_EVERY:
            return
        self._looked = now
        self._nodes = [node for node in ray.nodes() if node["Alive"]]
        self._waits_for = self._missing()

    def _missing(self) -> str:
        starting = [slot for slot in self._slots if slot.about is None]
        if not starting or any(slot.about for slot in self._slots):
            return ""
        gpus = self._slot.gpus if all(slot.has_gpu for slot in starting) else 0.0
        if any(self._room_of(node, gpus) for node in self._nodes):
            return ""
        return "a GPU node" if gpus else "a node"

    def _room_of(self, node: dict[str, Any], gpus: float = 0.0) -> int:
        resources, slot = node["Resources"], self._slot
        if gpus and resources.get("GPU", 0) < gpus:
            return 0
        fitting = [resources.get("CPU", 0) // slot.cpus]
        if slot.memory_gb:
            fitting.append(resources.get("memory", 0) // (slot.memory_gb * 2**30))
        return int(min(fitting))

    def _assign(self) -> None:
        """Start what can start, by priority; see ``_timing_slot`` for stages that want a node for themselves."""
        reserved = self._assign_exclusive()
        for job in sorted((job for job in self._pending if not job.call.is_exclusive), key=lambda job: job.order):
            free = [slot for slot in self._slots if slot.is_free and self._node_of(slot) not in reserved]
            fitting = [slot for slot in free if slot.has_gpu or not self._needs_gpu(job)]
            if fitting:
                # A slot without a GPU first: those with one are for trainings.
                best = min(fitting, key=lambda slot: (slot.has_gpu, job.duty not in slot.workers))
                self._start(best, job)

    def _assign_exclusive(self) -> set[str]:
        """Start latency stages on nodes that are idle; returns nodes that must become or stay idle for them."""
        waiting = sorted((job for job in self._pending if job.call.is_exclusive), key=lambda job: job.order)
        busy = {self._node_of(slot) for slot in self._slots if slot.job is not None and slot.job.call.is_exclusive}
        if not waiting:
            return busy
        able = [slot for slot in self._slots if slot.about and Device(**slot.about["device"]) == self._device]
        nodes = {self._node_of(slot) for slot in able} - busy
        idle = {node for node in nodes if all(s.job is None for s in self._slots if self._node_of(s) == node)}
        is_last = all(job.call.is_exclusive for job in self._pending)
        is_due = is_last or time.monotonic() - min(job.submitted for job in waiting) > _PATIENCE
        if not (is_due or len(self._nodes_with_slots()) > 1):
            return busy
        for job, node in zip(waiting, sorted(idle), strict=False):
            self._start(next(slot for slot in able if self._node_of(slot) == node), job)
            busy.add(node)
        if is_due and not busy and nodes:
            busy.add(min(nodes))
        if not able:
            self._give_up_timing(waiting)
        return busy

    def _give_up_timing(self, waiting: Iterable[_Job]) -> None:
        """Numbers of two kinds of machine must not be compared: without the first kind there is no timing."""
        others = any(slot.about for slot in self._slots)
        for job in waiting:
            if others and time.monotonic() - job.submitted > _GIVE_UP_TIMING:
                self._pending.remove(job)
                reason = f"no node of the kind that timed the others is left ({self._device and self._device.cpu})"
                job.future.set_exception(NodeLost(reason))

    def _nodes_with_slots(self) -> set[str]:
        return {self._node_of(slot) for slot in self._slots if slot.about}

    def _node_of(self, slot: _Slot) -> str:
        return str(slot.about["node"]) if slot.about else ""

    def _needs_gpu(self, job: _Job) -> bool:
        return job.call.wants_gpu and self._slot.gpus > 0

    def _scale(self) -> None:
        """As many slots as there is work for, up to the limit; idle ones make room for those with a GPU."""
        if self._wants_device and not self._slots:
            self._add_slot(has_gpu=self._slot.gpus > 0, anchor="measure")
        for needs_gpu in (True, False):
            waiting = [job for job in self._pending if self._needs_gpu(job) == needs_gpu]
            coming = [s for s in self._slots if s.has_gpu >= needs_gpu and (s.about is None or s.job is None)]
            missing = min(len(waiting) - len(coming), self.slots - len(self._slots))
            for job in sorted(waiting, key=lambda job: job.order)[: max(0, missing)]:
                self._add_slot(has_gpu=needs_gpu, anchor=job.duty)
            if needs_gpu and waiting and not any(slot.has_gpu for slot in self._slots):
                self._make_room()

    def _make_room(self) -> None:
        idle = next((slot for slot in self._slots if slot.is_free and not slot.has_gpu), None)
        if idle is not None:
            self._drop_slot(idle)

    def _release_idle(self) -> None:
        now = time.monotonic()
        if self._pending:
            return
        for slot in list(self._slots):
            if slot.job is None and now - slot.idle_since > self._warm and not self._wants_device:
                self._drop_slot(slot)

    def _add_slot(self, has_gpu: bool, anchor: str) -> None:
        slot = _Slot(has_gpu, anchor, time.monotonic())
        self._slots.append(slot)
        self._add_worker(slot, anchor)

    def _add_worker(self, slot: _Slot, duty: str) -> Any:
        """A worker of a slot: the first one holds what the slot holds, the other one sits beside it."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        options: dict[str, Any] = {"max_restarts": 0, "max_task_retries": 0, "max_concurrency": 2}
        gpus = None
        if duty == slot.anchor:
            options |= {"num_cpus": self._slot.cpus, "scheduling_strategy": "SPREAD"}
            if slot.has_gpu:
                options["num_gpus"] = self._slot.gpus
            if self._slot.memory_gb:
                options["memory"] = int(self._slot.memory_gb * 2**30)
        else:
            assert slot.about is not None
            gpus = slot.about["gpus"]
            there = NodeAffinitySchedulingStrategy(slot.about["node"], soft=False)
            options |= {"num_cpus": 0, "scheduling_strategy": there}
        worker: Any = ray.remote(StageWorker).options(**options).remote(self._run, self._prepare, gpus)
        slot.workers[duty] = worker
        if duty == slot.anchor:
            self._when_done(worker.about.remote(), partial(self._settle, slot))
        return worker

    def _settle(self, slot: _Slot, done: Future[dict[str, Any]]) -> None:
        """The first worker of a slot is up, or could not come up."""
        with self._lock:
            if slot not in self._slots:
                return
            if (error := done.exception()) is not None:
                log.warning("a worker did not come up: %s", error)
                self._drop_slot(slot)
                self._count_failed_start(error)
            else:
                self._failed_starts = 0
                slot.about = done.result()
                slot.idle_since = time.monotonic()
                if self._device is None:
                    self._device, self._wants_device = Device(**slot.about["device"]), False
                self._add_worker(slot, "build" if slot.anchor == "measure" else "measure")
            self._wake.set()

    def _count_failed_start(self, error: BaseException) -> None:
        """A cluster on which no worker comes up would be asked for workers for ever."""
        self._failed_starts += 1
        if self._failed_starts < _MOST_FAILED_STARTS or any(slot.about for slot in self._slots):
            return
        lines = str(error).strip().splitlines()
        self._failed_starts = 0
        self._trouble = f"no worker comes up on the cluster: {lines[-1] if lines else type(error).__name__}"
        for job in self._pending:
            job.future.set_exception(RuntimeError(self._trouble))
        self._pending = []

    def _start(self, slot: _Slot, job: _Job) -> None:
        self._pending.remove(job)
        slot.job, job.started = job, time.monotonic()
        job.future.set_running_or_notify_cancel()
        worker = slot.workers.get(job.duty) or self._add_worker(slot, job.duty)
        self._when_done(worker.run.remote(job.call.job, self._slot.cpus, job.number), partial(self._finish, slot, job))

    def _finish(self, slot: _Slot, job: _Job, done: Future[dict[str, Any]]) -> None:
        error = job.ended_because or done.exception()
        if error is None:
            self._pass_on_last_lines(slot, job, lambda: self._free(slot, job, None, done.result()))
        else:
            self._free(slot, job, error, None)

    def _pass_on_last_lines(self, slot: _Slot, job: _Job, then: Callable[[], None]) -> None:
        def told(start: int, lines: Future[list[str]]) -> None:
            self._take_lines(job, start, lines)
            then()

        worker = slot.workers.get(job.duty)
        if worker is None:
            then()
        else:
            self._when_done(worker.lines.remote(job.number, job.read), partial(told, job.read))

    def _free(self, slot: _Slot, job: _Job, error: BaseException | None, result: dict[str, Any] | None) -> None:
        with self._lock:
            slot.job, slot.idle_since = None, time.monotonic()
            if error is not None:
                self._end_worker(slot, job.duty)
            self._wake.set()
        if result is not None:
            job.future.set_result(result)
        elif isinstance(error, (CancelledError, StageTimeout)):
            job.future.set_exception(error)
        else:
            job.future.set_exception(self._death(slot, error))

    def _death(self, slot: _Slot, error: BaseException | None) -> Exception:
        """What the end of a worker means for its stage."""
        import ray
        from ray.exceptions import OutOfMemoryError, RayActorError

        text = " ".join(str(error).split())
        if isinstance(error, OutOfMemoryError) or "running low on memory" in text:
            return WorkerDied("its worker process ran out of memory")
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        if self._node_of(slot) not in alive or "its node has died" in text:
            return NodeLost("the node that ran it is gone")
        if isinstance(error, RayActorError):
            return WorkerDied("its worker process ended")
        return WorkerDied(f"its worker process failed ({type(error).__name__}: {text[:200]})")

    def _stop_hung(self) -> None:
        for slot in list(self._slots):
            job = slot.job
            if job is None or job.ended_because or time.monotonic() - job.started < job.call.timeout:
                continue
            job.ended_because = StageTimeout(f"stopped after {job.call.timeout:g} s without an end")
            self._end_worker(slot, job.duty)

    def _end_worker(self, slot: _Slot, duty: str) -> None:
        """End one worker; with the first one the slot goes, since that holds its processors."""
        import ray

        if duty == slot.anchor:
            self._drop_slot(slot)
        elif (worker := slot.workers.pop(duty, None)) is not None:
            ray.kill(worker)

    def _drop_slot(self, slot: _Slot) -> None:
        import ray

        if slot in self._slots:
            self._slots.remove(slot)
        for worker in slot.workers.values():
            with contextlib.suppress(Exception):
                ray.kill(worker)
        slot.workers.clear()

    def _ask_for_lines(self) -> None:
        for slot in self._slots:
            job = slot.job
            worker = slot.workers.get(job.duty) if job else None
            if job is None or worker is None or job.is_asked:
                continue
            job.is_asked = True
            self._when_done(worker.lines.remote(job.number, job.read), partial(self._take_lines, job, job.read))

    def _take_lines(self, job: _Job, start: int, done: Future[list[str]]) -> None:
        job.is_asked = False
        if done.exception() is None:
            fresh = done.result()[job.read - start :]
            job.read += len(fresh)
            for line in fresh:
                job.report(line)
