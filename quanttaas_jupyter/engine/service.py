"""Resident engine: claims submitted studies, drives each in a thread, and runs their stages on one executor."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable

import psutil
from filelock import Timeout

# Stages are imported here, not by the first driver: two threads that import modules with circular imports at the same
# time may see them half initialized.
from .. import stages  # noqa: F401
from ..compute.clusters import local_engine
from ..compute.executors.base import Executor
from ..compute.executors.deduplicate import SharingExecutor
from ..compute.executors.local import LocalExecutor
from ..core.config import Config, EngineConfig
from ..core.device import physical_cores
from ..core.errors import QuantTaaSError, StoreError, Unreadable
from ..core.records.study import StudyRecord
from ..store import open_store
from ..store.base import Store
from ..study_store import records
from ..study_store.lease import Lease, read_lease
from . import worker
from .driver import Driver
from .inbox import FolderInbox, Inbox, Ticket
from .logs import STUDY

_WARM_AFTER = 0.25
"""Seconds before workers are started without work, so that a study at hand goes first; chosen, not tuned."""
_STORE_AGAIN = 2.0
"""Seconds between two attempts to reach a lost store; chosen, not tuned."""
_BYTES_PER_SLOT = 1_500_000_000
"""Memory per slot, for two processes with PyTorch and a small model; chosen, not tuned. Less risks swapping."""

log = logging.getLogger(__name__)


class Resident:
    """One engine process."""

    def __init__(
        self,
        config: EngineConfig,
        inbox: Inbox,
        executor: Executor,
        warm: Callable[[Callable[[], bool]], None],
        name: str,
    ) -> None:
        """Serve the tickets of an inbox.

        Args:
            config: The engine's options.
            inbox: Inbox of submitted studies.
            executor: Executor of their stages.
            warm: Called once when there is no work, with a function that returns whether that is still so.
            name: Name of the engine in leases.
        """
        self._config, self._inbox, self._executor, self._warm, self._name = config, inbox, executor, warm, name
        self._drivers: dict[str, threading.Thread] = {}
        self._stopping = threading.Event()
        self._busy_at = time.monotonic()

    def run(self) -> None:
        """Serve until the engine has been idle for long, or is told to stop."""
        signal.signal(signal.SIGTERM, lambda *_: self._stopping.set())
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        log.info("engine %s with %d slots", self._name, self._executor.slots)
        threading.Thread(target=self._warm_up, daemon=True).start()
        while not self._stopping.is_set() and not self._is_idle_for_long():
            self._claim_all()
            self._drivers = {study_id: thread for study_id, thread in self._drivers.items() if thread.is_alive()}
            if self._drivers:
                self._busy_at = time.monotonic()
            self._stopping.wait(self._inbox.poll_seconds)
        self._stopping.set()
        for thread in self._drivers.values():
            thread.join(timeout=5)
        self._executor.close()
        log.info("engine %s ends", self._name)

    def _warm_up(self) -> None:
        """Make the workers import the libraries of stages while there is no work."""
        time.sleep(_WARM_AFTER)
        self._warm(lambda: not self._drivers)

    def _is_idle_for_long(self) -> bool:
        return not self._drivers and time.monotonic() - self._busy_at > self._config.idle_minutes * 60

    def _claim_all(self) -> None:
        try:
            waiting = self._inbox.tickets()
        except StoreError as error:
            log.warning("the queue cannot be read now: %s", error)
            return
        for ticket in waiting:
            if ticket.study_id in self._drivers:
                continue
            try:
                if self._claim(ticket):
                    self._inbox.drop(ticket)
            except StoreError as error:
                log.warning("study %s cannot be claimed now: %s", ticket.study_id, error)
            except QuantTaaSError as error:
                log.warning("study %s cannot be driven: %s", ticket.study_id, error)
                self._inbox.drop(ticket)
            except Exception:
                log.exception("study %s cannot be driven", ticket.study_id)
                self._inbox.drop(ticket)

    def _claim(self, ticket: Ticket) -> bool:
        """Start to drive a study and return True; return False while another engine holds its lease."""
        store, study_id = open_store(ticket.store), ticket.study_id
        data = records.read_study_bytes(store, study_id)
        if hashlib.sha256(data).hexdigest() != ticket.sha256:
            raise QuantTaaSError("its study.json is not the one that was handed over")
        record = records.parse_study(data, study_id)
        lease = Lease(store, study_id, uuid.uuid4().hex, self._name, self._config.lease_seconds)
        if not lease.take():
            holder = read_lease(store, study_id)
            log.info("study %s is driven by %s", study_id, holder.engine if holder else "another engine")
            return False
        records.dequeue(store, record.cluster, study_id)
        if ticket.mark and not records.mark_served(store, study_id, ticket.mark, self._name):
            lease.release()
            raise QuantTaaSError("its ticket was served before")
        if ticket.is_resume:
            records.clear_cancel(store, study_id)
        thread = threading.Thread(
            target=self._drive, args=(store, record, lease), name=f"study-{study_id}", daemon=True
        )
        self._drivers[study_id] = thread
        thread.start()
        return True

    def _drive(self, store: Store, record: StudyRecord, lease: Lease) -> None:
        """Drive a study to its end, and continue after times in which the store cannot be reached."""
        STUDY.set(record.id)
        is_ours = True
        while is_ours:
            stop = self._stopping.is_set
            try:
                Driver(store, record, lease, self._executor, self._config, self._name, stop).run()
                return
            except StoreError as error:
                log.warning("the study goes on once its store answers again: %s", error)
                is_ours = self._hold_again(lease)
            except Unreadable as error:
                log.warning("%s", error)
                lease.release()
                return
            except Exception:
                log.exception("the study could not be ended well; its lease is given back")
                with contextlib.suppress(QuantTaaSError):
                    lease.release()
                return

    def _hold_again(self, lease: Lease) -> bool:
        """Wait until the store answers, and return whether this engine holds the lease."""
        while not self._stopping.wait(_STORE_AGAIN):
            with contextlib.suppress(StoreError):
                return lease.renew() or lease.take()
        return False


def serve(config: Config) -> None:
    """Run the engine of this user and environment, unless one runs already."""
    lock = local_engine.lock()
    try:
        # A client that checks for a running engine holds the lock for a moment.
        lock.acquire(timeout=2)
    except Timeout:
        return
    try:
        (local_engine.folder() / "engine.json").write_text(json.dumps({"pid": os.getpid(), "time": time.time()}))
        slots = config.engine.slots or default_slots()
        memory = None if config.engine.memory_gb is None else int(config.engine.memory_gb * 2**30)
        threads = max(1, physical_cores() // slots)
        workers = LocalExecutor(worker.run_with_file, worker.begin, slots, threads, memory)
        name = f"{socket.gethostname()}:{os.getpid()}"
        Resident(config.engine, FolderInbox(), SharingExecutor(workers), workers.warm, name).run()
    finally:
        lock.release()


def default_slots() -> int:
    """Return one slot per physical core, or fewer if memory does not suffice."""
    by_memory = int(psutil.virtual_memory().available // _BYTES_PER_SLOT)
    return max(1, min(physical_cores(), by_memory))
