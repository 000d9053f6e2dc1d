"""The resident engine: claims studies that were handed over, drives each in a thread, shares one executor."""

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
from typing import Any

import psutil
from filelock import Timeout

from ..compute import resident
from ..compute.local import LocalExecutor
from ..compute.sharing import SharingExecutor
from ..config import Config
from ..errors import QuantTaaSError, StoreError
from ..store import open_store, studies
from ..store.lease import Lease, read_lease
from . import worker
from .driver import Driver
from .plan import physical_cores

_POLL = 0.1
_IDLE_POLL = 0.25
_BYTES_PER_SLOT = 1_500_000_000

log = logging.getLogger(__name__)


class Resident:
    """One engine process."""

    def __init__(self, config: Config) -> None:
        self._config = config.engine
        slots = config.engine.slots or default_slots()
        threads = max(1, physical_cores() // slots)
        self._workers = LocalExecutor(worker.run, worker.begin, slots, threads)
        self._executor = SharingExecutor(self._workers)
        self._drivers: dict[str, threading.Thread] = {}
        self._stopping = threading.Event()
        self._busy_at = time.monotonic()
        self._name = f"{socket.gethostname()}:{os.getpid()}"

    def run(self) -> None:
        """Serve until idle for long, or told to end."""
        signal.signal(signal.SIGTERM, lambda *_: self._stopping.set())
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        log.info("engine %s with %d slots", self._name, self._executor.slots)
        threading.Thread(target=self._warm, daemon=True).start()
        while not self._stopping.is_set() and not self._is_idle_for_long():
            self._claim_all()
            self._drivers = {study: thread for study, thread in self._drivers.items() if thread.is_alive()}
            if self._drivers:
                self._busy_at = time.monotonic()
            self._stopping.wait(_POLL if self._drivers else _IDLE_POLL / 2)
        self._stopping.set()
        for thread in self._drivers.values():
            thread.join(timeout=5)
        self._executor.close()
        log.info("engine %s ends", self._name)

    def _warm(self) -> None:
        """With nothing to do yet, import in the workers what stages need."""
        time.sleep(_IDLE_POLL)
        self._workers.warm(lambda: not self._drivers)

    def _is_idle_for_long(self) -> bool:
        return not self._drivers and time.monotonic() - self._busy_at > self._config.idle_minutes * 60

    def _claim_all(self) -> None:
        for ticket in resident.tickets():
            study = ticket["study"]
            if study in self._drivers:
                continue
            try:
                self._claim(ticket)
            except StoreError as error:
                log.warning("study %s cannot be claimed now: %s", study, error)
                continue
            except QuantTaaSError as error:
                log.warning("study %s cannot be driven: %s", study, error)
                self._refuse(ticket)
            except Exception:
                log.exception("study %s cannot be driven", study)
                self._refuse(ticket)
            resident.drop_ticket(study)

    def _claim(self, ticket: dict[str, Any]) -> None:
        store, study = open_store(ticket["store"]), ticket["study"]
        data = studies.read_study_bytes(store, study)
        if hashlib.sha256(data).hexdigest() != ticket["sha256"]:
            raise QuantTaaSError("its study.json is not the one that was handed over")
        record = json.loads(data)
        lease = Lease(store, study, uuid.uuid4().hex, self._name)
        if not lease.take():
            holder = read_lease(store, study)
            log.info("study %s is driven by %s", study, holder.engine if holder else "another engine")
            self._refuse(ticket)
            return
        studies.dequeue(store, record["cluster"], study)
        if ticket["resume"]:
            studies.clear_cancel(store, study)
        driver = Driver(store, record, lease, self._executor, self._config, self._name, self._stopping.is_set)
        thread = threading.Thread(target=self._drive, args=(driver, lease), name=f"study-{study}", daemon=True)
        self._drivers[study] = thread
        thread.start()

    def _refuse(self, ticket: dict[str, Any]) -> None:
        """What is not driven must not wait in the queue for ever."""
        with contextlib.suppress(QuantTaaSError):
            studies.dequeue(open_store(ticket["store"]), resident.CLUSTER, ticket["study"])

    def _drive(self, driver: Driver, lease: Lease) -> None:
        try:
            driver.run()
        except Exception:
            log.exception("a study could not be ended well; its lease is given back")
            lease.release()


def serve(config: Config) -> None:
    """Run the engine of this user and environment, unless one runs already."""
    lock = resident.lock()
    try:
        # A client that looks whether an engine lives holds the lock for a moment.
        lock.acquire(timeout=2)
    except Timeout:
        return
    try:
        (resident.folder() / "engine.json").write_text(json.dumps({"pid": os.getpid(), "time": time.time()}))
        Resident(config).run()
    finally:
        lock.release()


def default_slots() -> int:
    """One slot a physical core, as far as memory allows."""
    by_memory = int(psutil.virtual_memory().available // _BYTES_PER_SLOT)
    return max(1, min(physical_cores(), by_memory))
