"""A study driven in this process, its stages one after the other, with every read of the store on record."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

from quanttaas_jupyter import stages
from quanttaas_jupyter.client.inspection import Asked
from quanttaas_jupyter.client.preparation import prepare
from quanttaas_jupyter.client.submission import bundle, ignore_progress
from quanttaas_jupyter.compute.executors.base import StageCall
from quanttaas_jupyter.core.config import EngineConfig
from quanttaas_jupyter.core.device import Device, this_device
from quanttaas_jupyter.core.records.stage import StageResult
from quanttaas_jupyter.core.records.study import StudyRecord
from quanttaas_jupyter.core.state import StudyState, fold
from quanttaas_jupyter.engine.driver import Driver
from quanttaas_jupyter.store.local import LocalStore
from quanttaas_jupyter.study_store import records, stage_cache
from quanttaas_jupyter.study_store.lease import Lease


class WatchedStore(LocalStore):
    """Remembers which blobs were read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.reads: set[str] = set()

    def read(self, key: str) -> bytes:
        self.reads.add(key.rpartition("/")[2])
        return super().read(key)

    def as_file(self, key: str) -> Any:
        self.reads.add(key.rpartition("/")[2])
        return super().as_file(key)


class InlineExecutor:
    """Runs a stage when it is handed over; ``reads`` holds the blobs that each kind of stage read."""

    slots = 2

    def __init__(self, store: WatchedStore) -> None:
        self._store = store
        self.reads: dict[str, set[str]] = defaultdict(set)
        self.kinds: list[str] = []
        self.ran: list[str] = []

    def submit(self, call: StageCall, report: Callable[[str], None]) -> Future[dict[str, Any]]:
        self._store.reads.clear()
        future: Future[dict[str, Any]] = Future()
        job, begun = call.job, time.time()
        inputs = {role: StageResult.of(stored) for role, stored in job["inputs"].items()}
        context = stages.Context(self._store, job["settings"], inputs, 1, report)
        try:
            result = replace(stages.run(job["kind"], context), began=begun, seconds=time.time() - begun)
            stage_cache.keep(self._store, job["key"], result)
            future.set_result(result.stored())
        except Exception as error:
            future.set_exception(error)
        kind = job["kind"] + (f" on {job['settings']['judged_on']}" if job["kind"] == "evaluate" else "")
        self.reads[kind] |= self._store.reads
        self.kinds.append(kind)
        self.ran.append(job["key"])
        return future

    def device(self) -> Device:
        return this_device()

    def memory(self) -> int | None:
        return None

    def waits_for(self) -> str:
        return ""

    def rate(self) -> float:
        return 0.0

    def stop(self, future: Future[dict[str, Any]]) -> None: ...

    def close(self) -> None: ...


Driven = tuple[StudyState, StudyRecord, InlineExecutor]
"""State of a study at its end, its record, and the executor that ran it."""


def drive(root: Path, model: Any, data: Any, recipe: Any, **given: Any) -> Driven:
    """Submit a study and drive it to its end."""
    store = WatchedStore(root)
    asked = Asked(**{key: given.pop(key) for key in list(given) if key in Asked.__dataclass_fields__})
    options = {"calibration": None, "train": None, "asked": asked, "example_inputs": None, "name": None, **given}
    prepared = prepare(model, data, recipe, **options)
    record = bundle(prepared, store, prepared.draft("local", "tester"), ignore_progress)
    records.create_study(store, record)
    return resume(store, record)


def resume(store: WatchedStore, record: StudyRecord) -> Driven:
    """Drive a study that is in the store."""
    lease = Lease(store, record.id, "owner", "here")
    assert lease.take()
    executor = InlineExecutor(store)
    Driver(store, record, lease, executor, EngineConfig(), "here", lambda: False).run()
    return fold(records.read_events(store, record.id), StudyState(id=record.id)), record, executor
