"""Executor on a Ray cluster.

A slot is the share of a node for one stage at a time: processors and, for trainings, a share of a GPU. Its workers are
two Ray actors on the same node, one that builds and one that measures; only one of them is busy. Actors rather than
tasks: a task would run in any idle process, also in the one that built the file it measures, and Ray ends idle
processes after a second, so that each later stage would import its libraries again. The executor does not retry: an
actor that dies ends its stage with WorkerDied or NodeLost. Idle slots are given back after ``warm_seconds``.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, InvalidStateError
from functools import partial
from typing import Any

from ...core.config import Prices, SlotConfig
from ...core.device import Device
from ...core.errors import ClusterError
from ...core.failures import last_line
from .base import KilledForMemory, NodeLost, StageCall, StageTimeout, WorkerDied
from .ray_slots import Fleet, Job, Slot
from .ray_worker import Run, StageWorker

_TICK = 0.25
"""Seconds between two turns of the loop while there is work; chosen, not tuned. Shorter ones load Ray's head."""
_UPDATE_EVERY = 1.0
"""Seconds between two requests for the list of nodes; chosen, not tuned."""
_WISH = 2.0
"""Seconds for which a call of ``device`` keeps a worker requested; longer than its callers wait between two calls."""
_FORGET_AFTER = 10.0
"""Seconds without slots after which the device is forgotten, at least; chosen, not tuned."""
_MOST_FAILED_STARTS = 3
"""Workers that may fail to start in a row before waiting stages fail; chosen, not tuned."""
_MOST_RESTARTS = 5
"""Times that a stage may meet a worker that is already dead before it fails; chosen, not tuned."""

log = logging.getLogger(__name__)


class RayExecutor:
    """Executor that runs stages on the connected Ray cluster; a latency stage has its node to itself."""

    def __init__(
        self,
        run: Run,
        prepare: Callable[[], None],
        slot: SlotConfig,
        max_slots: int | None = None,
        warm_seconds: float = 60.0,
        prices: Prices | None = None,
    ) -> None:
        """Start without slots.

        Args:
            run: Runs a job in a worker: ``run(job, threads, report)``.
            prepare: Called once in each new worker.
            slot: Resources of a slot.
            max_slots: Largest number of slots; None for as many as the present nodes hold.
            warm_seconds: Seconds without work after which a slot is given back.
            prices: Prices of nodes per hour.
        """
        self._run, self._prepare, self._slot = run, prepare, slot
        self._warm, self._prices = warm_seconds, prices or Prices()
        self._fleet = Fleet(slot, max_slots)
        self._numbers = itertools.count()
        self._device_asked = self._active = float("-inf")
        self._waits_for = ""
        self._failed_starts, self._trouble = {True: 0, False: 0}, ""
        self._nodes_updated = float("-inf")
        self._closed = False
        self._lock = threading.RLock()
        self._wake = threading.Event()
        self._news: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._update_nodes()
        threading.Thread(target=self._loop, name="quanttaas-executor", daemon=True).start()

    @property
    def slots(self) -> int:
        """Number of stages that can run at the same time: the configured limit, or what the present nodes hold."""
        return self._fleet.limit

    @property
    def _slots(self) -> list[Slot]:
        return self._fleet.slots

    @property
    def _pending(self) -> list[Job]:
        return self._fleet.pending

    def device(self) -> Device | None:
        """Return the device of the first worker that started; request a worker if there is none, and return None.

        Raises:
            ClusterError: Workers fail to start, repeatedly.
        """
        with self._lock:
            trouble = self._trouble if self._wishes_device() else ""
            self._trouble, self._device_asked = "", time.monotonic()
            if trouble:
                self._device_asked = float("-inf")
                raise ClusterError(trouble)
            self._wake.set()
            return self._fleet.device

    def _wishes_device(self) -> bool:
        """Return whether a caller waits for a device: it then calls ``device`` repeatedly, and stops when cancelled."""
        return self._fleet.device is None and time.monotonic() - self._device_asked < _WISH

    def waits_for(self) -> str:
        """Return the resource that stages wait for and that no present node has, or an empty string."""
        return self._waits_for

    def rate(self) -> float:
        """Return the cost of the present nodes per hour."""
        prices = self._prices
        resources = [node["Resources"] for node in self._fleet.nodes]
        return float(sum(prices.node + prices.cpu * r.get("CPU", 0) + prices.gpu * r.get("GPU", 0) for r in resources))

    def warm(self, is_wanted: Callable[[], bool]) -> None:
        """Start workers on present nodes, so that the first stages need not wait; unused ones are given back."""
        with self._lock:
            if not is_wanted():
                return
            for has_gpu in self._fleet.to_warm():
                self._add_slot(has_gpu, anchor="measure")

    def memory(self) -> int | None:
        """Return the bytes that Ray reserves for a slot; None if the configuration names none."""
        reserved = self._slot.memory_gb
        return None if reserved is None else int(reserved * 2**30)

    def submit(self, call: StageCall, report: Callable[[str], None]) -> Future[dict[str, Any]]:
        """Queue a stage and return its future."""
        job = Job(call, report, Future(), time.monotonic(), next(self._numbers))
        with self._lock:
            self._pending.append(job)
            self._wake.set()
        return job.future

    def stop(self, future: Future[dict[str, Any]]) -> None:
        """Remove a waiting stage from the queue, or end the worker of a running one."""
        with self._lock:
            for slot in self._slots:
                if slot.job is not None and slot.job.future is future:
                    self._break_off(slot, slot.job, CancelledError())
                    return
            self._pending[:] = [job for job in self._pending if job.future is not future]
        if not future.cancel():
            # The stage was started in a worker that was dead, so that its future counts as running.
            _end(future, CancelledError())

    def close(self) -> None:
        """End all workers and give all slots back."""
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
                    self._update_nodes()
                    self._assign()
                    self._scale()
                    self._release_idle()
                    self._stop_hung()
                    self._ask_for_lines()
                except Exception:
                    # A cluster that is unreachable for a moment must not end this thread.
                    log.exception("the cluster could not be looked at")
                tick = _TICK if self._pending or self._slots else _UPDATE_EVERY
            self._wake.wait(tick)
            self._wake.clear()

    def _take_news(self) -> None:
        """Handle Ray's answers outside the lock, because callbacks of futures may take other locks."""
        while not self._news.empty():
            try:
                self._news.get()()
            except Exception:
                log.exception("news of the cluster could not be taken")

    def _when_done(self, answer: Any, take: Callable[[Future[Any]], None]) -> None:
        """Handle an answer of Ray in the loop's thread.

        Ray calls back from a thread that all its calls need. A callback must therefore neither call Ray nor take a lock
        that a caller of Ray may hold.
        """

        def on_done(done: Future[Any]) -> None:
            self._news.put(partial(take, done))
            self._wake.set()

        answer.future().add_done_callback(on_done)

    def _update_nodes(self) -> None:
        """Update the list of nodes and the missing resource, at most once per second."""
        import ray

        now = time.monotonic()
        if now - self._nodes_updated < _UPDATE_EVERY:
            return
        self._nodes_updated = now
        self._fleet.nodes = [node for node in ray.nodes() if node["Alive"]]
        for slot in self._fleet.lost():
            job = slot.job
            self._drop_slot(slot)
            if job is not None:
                self._call_later(partial(self._free, slot, job, NodeLost("the node that ran it is gone"), None))
        self._waits_for = self._fleet.missing(self._wishes_device())

    def _call_later(self, news: Callable[[], None]) -> None:
        """Queue a callback for the loop, because futures must end outside the lock."""
        self._news.put(news)
        self._wake.set()

    def _assign(self) -> None:
        """Start the stages that can start, by priority; latency stages start on idle nodes."""
        fleet = self._fleet
        device = fleet.device
        for job in fleet.give_up_timing():
            reason = f"no node of the kind that timed the others is left ({device and device.cpu})"
            self._call_later(partial(_end, job.future, StageTimeout(reason)))
        pairs, reserved = fleet.timing_starts()
        for slot, job in pairs:
            self._start(slot, job)
        for job in sorted((job for job in self._pending if not job.call.is_exclusive), key=lambda job: job.order):
            if (best := fleet.best_slot(job, reserved)) is not None:
                self._start(best, job)

    def _scale(self) -> None:
        """Start slots for waiting stages up to the limit; idle slots make room for slots with a GPU."""
        fleet = self._fleet
        for slot in fleet.unwanted(self._wishes_device()):
            self._drop_slot(slot)
        if self._wishes_device() and not self._slots:
            self._add_slot(has_gpu=self._slot.gpus > 0, anchor="measure")
        for has_gpu in (True, False):
            for job in fleet.uncovered(has_gpu):
                if fleet.has_place(has_gpu):
                    self._add_slot(has_gpu, anchor=job.duty)
        given, instead = fleet.exchange()
        if given is not None:
            self._drop_slot(given)
        if instead is not None:
            self._add_slot(fleet.needs_gpu(instead), anchor=instead.duty)
        if fleet.should_start_timing():
            self._start_timing()

    def _start_timing(self) -> None:
        """Start a slot for waiting latency stages on the kind of machine that timed the earlier ones."""
        if self._fleet.is_full():
            if (given := self._fleet.to_give_for_timing()) is None:
                return
            self._drop_slot(given)
        where = next(iter(self._fleet.nodes_to_time_on()), None)
        self._add_slot(self._fleet.times_with_gpu, anchor="measure", node=where)

    def _release_idle(self) -> None:
        now, fleet = time.monotonic(), self._fleet
        for slot in [] if self._wishes_device() else fleet.idle_for(self._warm):
            self._drop_slot(slot)
        if self._pending or any(slot.job for slot in self._slots):
            self._active = now
        # Not at once: a study that lost its only node asks again soon, and continues with the same device.
        if not self._slots and now - self._active > max(self._warm, _FORGET_AFTER):
            fleet.device = None

    def _add_slot(self, has_gpu: bool, anchor: str, node: str | None = None) -> None:
        slot = Slot(has_gpu, anchor, time.monotonic())
        self._add_worker(slot, anchor, node)
        self._slots.append(slot)

    def _add_worker(self, slot: Slot, duty: str, node: str | None = None) -> Any:
        """Start a worker of a slot: the first one reserves the slot's resources, the second one joins its node."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        options: dict[str, Any] = {"max_restarts": 0, "max_task_retries": 0, "max_concurrency": 2}
        gpus = None
        if duty == slot.anchor:
            there = NodeAffinitySchedulingStrategy(node, soft=False) if node else "SPREAD"
            options |= {"num_cpus": self._slot.cpus, "scheduling_strategy": there}
            if slot.has_gpu:
                options["num_gpus"] = self._slot.gpus
            if self._slot.memory_gb:
                options["memory"] = int(self._slot.memory_gb * 2**30)
        else:
            assert slot.placement is not None
            gpus = slot.placement["gpus"]
            there = NodeAffinitySchedulingStrategy(slot.placement["node"], soft=False)
            options |= {"num_cpus": 0, "scheduling_strategy": there}
        worker: Any = ray.remote(StageWorker).options(**options).remote(self._run, self._prepare, gpus)
        slot.workers[duty] = worker
        if duty == slot.anchor:
            self._when_done(worker.placement.remote(), partial(self._settle, slot))
        return worker

    def _settle(self, slot: Slot, done: Future[dict[str, Any]]) -> None:
        """Handle the start of a slot's first worker, or its failure."""
        with self._lock:
            if slot not in self._slots:
                return
            if (error := done.exception()) is not None:
                log.warning("a worker did not come up: %s", error)
                self._drop_slot(slot)
                self._count_failed_start(slot.has_gpu, error)
            else:
                self._failed_starts[slot.has_gpu] = 0
                self._fleet.come_up(slot, done.result())
                # Starting a worker would disturb a running measurement; the first stage starts it instead.
                if slot.node not in self._fleet.timing_nodes():
                    self._add_worker(slot, "build" if slot.anchor == "measure" else "measure")
            self._wake.set()

    def _count_failed_start(self, has_gpu: bool, error: BaseException) -> None:
        """Count a failed start, and fail the waiting stages after too many: otherwise starts would repeat forever."""
        self._failed_starts[has_gpu] += 1
        is_up = any(slot.placement and slot.has_gpu >= has_gpu for slot in self._slots)
        if self._failed_starts[has_gpu] < _MOST_FAILED_STARTS or is_up:
            return
        self._failed_starts[has_gpu] = 0
        reason = f"no worker comes up on the cluster: {last_line(error)}"
        self._trouble = reason if self._wishes_device() else ""
        for job in self._fleet.waiting_at_all(has_gpu):
            self._pending.remove(job)
            self._call_later(partial(_end, job.future, RuntimeError(reason)))

    def _start(self, slot: Slot, job: Job) -> None:
        self._pending.remove(job)
        if not job.restarts and not job.future.set_running_or_notify_cancel():
            return
        slot.job, job.started = job, time.monotonic()
        try:
            worker = slot.workers.get(job.duty) or self._add_worker(slot, job.duty)
            job.hello = worker.lines.remote(job.number, 0)
            run = worker.run.remote(job.call.job, self._slot.cpus, job.number)
            self._when_done(run, partial(self._finish, slot, job))
        except Exception as error:
            self._call_later(partial(self._free, slot, job, error, None))

    def _finish(self, slot: Slot, job: Job, done: Future[dict[str, Any]]) -> None:
        error = job.ended_because or done.exception()
        try:
            if error is None:
                self._pass_on_last_lines(slot, job, lambda: self._free(slot, job, None, done.result()))
            elif job.ended_because is None and job.restarts < _MOST_RESTARTS:
                self._when_done(job.hello, partial(self._judge, slot, job, error))
            else:
                self._free(slot, job, error, None)
        except Exception as failure:
            self._free(slot, job, error or failure, None)

    def _judge(self, slot: Slot, job: Job, error: BaseException, hello: Future[list[str]]) -> None:
        """Queue a stage again if its worker was dead before the stage reached it, which ``hello`` shows."""
        if hello.exception() is None or job.ended_because is not None:
            self._free(slot, job, job.ended_because or error, None)
            return
        death = _death(slot.node, self._fleet.nodes, error)
        with self._lock:
            if slot.job is job:
                slot.job, slot.idle_since = None, time.monotonic()
                job.restarts += 1
                self._give_back(slot, job.duty, death)
                self._pending.append(job)
                self._wake.set()

    def _pass_on_last_lines(self, slot: Slot, job: Job, then: Callable[[], None]) -> None:
        def on_lines(start: int, lines: Future[list[str]]) -> None:
            try:
                self._take_lines(job, start, lines)
            finally:
                then()

        worker = slot.workers.get(job.duty)
        if worker is None:
            then()
        else:
            self._when_done(worker.lines.remote(job.number, job.read), partial(on_lines, job.read))

    def _free(self, slot: Slot, job: Job, error: BaseException | None, result: dict[str, Any] | None) -> None:
        is_known = error is None or isinstance(error, (CancelledError, StageTimeout, NodeLost))
        death = error if is_known else _death(slot.node, self._fleet.nodes, error)
        with self._lock:
            if slot.job is not job:
                return
            slot.job, slot.idle_since = None, time.monotonic()
            if death is not None:
                self._give_back(slot, job.duty, death)
            self._wake.set()
        if death is None:
            job.future.set_result(result or {})
        else:
            job.future.set_exception(death)

    def _stop_hung(self) -> None:
        for slot in list(self._slots):
            job = slot.job
            if job is None or job.ended_because or time.monotonic() - job.started < job.call.timeout:
                continue
            self._break_off(slot, job, StageTimeout(f"stopped after {job.call.timeout:g} s without an end"))

    def _break_off(self, slot: Slot, job: Job, because: Exception) -> None:
        """End the worker of a stage; if Ray does not take the order, end the stage's future directly."""
        job.ended_because = because
        if not self._end_worker(slot, job.duty):
            self._drop_slot(slot)
            self._call_later(partial(self._free, slot, job, because, None))

    def _give_back(self, slot: Slot, duty: str, death: BaseException) -> None:
        """End the worker of a failed stage; after the loss of a node, drop the whole slot.

        Otherwise the stage would be tried again in the same place, and use up its attempts within a second.
        """
        if isinstance(death, NodeLost):
            self._drop_slot(slot)
        else:
            self._end_worker(slot, duty)

    def _end_worker(self, slot: Slot, duty: str) -> bool:
        """End one worker; the first one takes the slot with it, since it holds the slot's processors."""
        if duty == slot.anchor:
            return self._drop_slot(slot)
        worker = slot.workers.pop(duty, None)
        return worker is None or _kill(worker)

    def _drop_slot(self, slot: Slot) -> bool:
        if slot in self._slots:
            self._slots.remove(slot)
        are_ended = [_kill(worker) for worker in slot.workers.values()]
        slot.workers.clear()
        return all(are_ended)

    def _ask_for_lines(self) -> None:
        for slot in self._slots:
            job = slot.job
            worker = slot.workers.get(job.duty) if job else None
            # An answer wakes the loop: without a pause it would ask again at once, and use half a processor.
            if job is None or worker is None or job.is_asked or time.monotonic() - job.asked < _TICK:
                continue
            job.is_asked, job.asked = True, time.monotonic()
            self._when_done(worker.lines.remote(job.number, job.read), partial(self._take_lines, job, job.read))

    def _take_lines(self, job: Job, start: int, done: Future[list[str]]) -> None:
        job.is_asked = False
        if done.exception() is None:
            fresh = done.result()[job.read - start :]
            job.read += len(fresh)
            for line in fresh:
                job.report(line)


def _kill(worker: Any) -> bool:
    """End an actor, and return whether Ray took the order."""
    import ray

    try:
        ray.kill(worker)
    except Exception as error:
        log.warning("a worker could not be ended: %s", error)
        return False
    return True


def _end(future: Future[dict[str, Any]], error: Exception) -> None:
    """End a future with an error, unless it has been cancelled."""
    with contextlib.suppress(InvalidStateError):
        future.set_exception(error)


def _death(node: str, nodes: list[dict[str, Any]], error: BaseException | None) -> Exception:
    """Return the error of a stage for the error that ended its worker."""
    import ray
    from ray.exceptions import OutOfMemoryError, RayActorError

    text = " ".join(str(error).split())
    if isinstance(error, OutOfMemoryError) or "running low on memory" in text:
        return KilledForMemory("its worker process ran out of memory")
    with contextlib.suppress(Exception):
        nodes = [node for node in ray.nodes() if node["Alive"]]
    if node not in {node["NodeID"] for node in nodes} or "its node has died" in text:
        return NodeLost("the node that ran it is gone")
    if isinstance(error, RayActorError):
        return WorkerDied("its worker process ended")
    return WorkerDied(f"its worker process failed ({type(error).__name__}: {text[:200]})")
