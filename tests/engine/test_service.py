"""The engine's own loop, with stages run in this process."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from quanttaas_jupyter.client.inspection import Asked
from quanttaas_jupyter.client.preparation import prepare
from quanttaas_jupyter.client.submission import bundle, ignore_progress
from quanttaas_jupyter.core.config import EngineConfig
from quanttaas_jupyter.core.errors import StoreError
from quanttaas_jupyter.core.state import StudyState, fold
from quanttaas_jupyter.engine import service
from quanttaas_jupyter.engine.inbox import Ticket
from quanttaas_jupyter.study_store import records
from tests.engine.inline import InlineExecutor, WatchedStore
from tests.networks import Mlp, regression_data

RECIPE = {"prune": [0], "quantize": ["none", "fp16"], "latency": {"threads": 1}}


class FailingStore(WatchedStore):
    """Goes out of reach once a log has some events, and comes back by itself."""

    troubles = 0

    def create(self, key: str, data: bytes) -> bool:
        if "/events/" in key and int(Path(key).stem) > 5 and self.troubles < 3:
            self.troubles += 1
            if self.troubles == 1:
                # The write came through; only its answer is lost.
                super().create(key, data)
            raise StoreError("out of reach")
        return super().create(key, data)


class OneTicket:
    """An inbox with one ticket, which ends the engine once its study has."""

    poll_seconds = 0.05

    def __init__(self, ticket: Ticket) -> None:
        self.waiting = [ticket]

    def tickets(self) -> list[Ticket]:
        return self.waiting

    def drop(self, ticket: Ticket) -> None:
        self.waiting = []


def test_a_study_outlives_a_store_that_is_out_of_reach_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FailingStore(tmp_path)
    prepared = prepare(Mlp().eval(), regression_data(), RECIPE, None, None, Asked(), None, None)
    record = bundle(prepared, store, prepared.draft("local", "tester"), ignore_progress)
    sha256 = records.create_study(store, record)
    monkeypatch.setattr(service, "open_store", lambda uri: store)
    monkeypatch.setattr(service, "_STORE_AGAIN", 0.05)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    inbox = OneTicket(Ticket(store.uri, prepared.id, sha256, is_resume=False))
    executor = InlineExecutor(store)
    engine = service.Resident(EngineConfig(idle_minutes=0.01), inbox, executor, lambda is_wanted: None, "here")
    thread = threading.Thread(target=engine.run)
    thread.start()
    thread.join(120)
    assert store.troubles == 3
    state = fold(records.read_events(store, prepared.id), StudyState(id=prepared.id))
    assert state.status == "finished"
    assert {trial.status for trial in state.trials.values()} == {"finished"}
    assert len(executor.kinds) == len(set(executor.ran))
