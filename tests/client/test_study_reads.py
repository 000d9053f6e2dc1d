"""What a study reads, and when: its repr nothing, its state the store; only who follows or waits starts an engine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import quanttaas_jupyter as qt
from quanttaas_jupyter.client import study as studies
from quanttaas_jupyter.client.study import Study
from quanttaas_jupyter.store.local import LocalStore
from quanttaas_jupyter.study_store import records
from tests.study_store.test_records import record

ID = "abcd1234"


class WatchedStore(LocalStore):
    """A folder that counts what is asked of it."""

    asked = 0

    def read(self, key: str) -> bytes:
        self.asked += 1
        return super().read(key)

    def size(self, key: str) -> int | None:
        self.asked += 1
        return super().size(key)

    def list(self, prefix: str, after: str = "") -> Iterator[str]:
        self.asked += 1
        return super().list(prefix, after)


class Cluster:
    """A cluster that notes for which study an engine was wanted."""

    def __init__(self) -> None:
        self.wanted = threading.Event()

    def ensure_engine_for(self, store: Any, study_id: str) -> None:
        self.wanted.set()


@pytest.fixture
def store(tmp_path: Path) -> WatchedStore:
    made = WatchedStore(tmp_path / "store")
    records.create_study(made, record(ID))
    records.enqueue(made, "local", ID, {"sha256": "", "resume": False})
    return made


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    made = Cluster()
    monkeypatch.setattr(studies, "open_cluster", lambda name: made)
    monkeypatch.setattr(studies, "_CLAIM_SECONDS", 0.0)
    return made


def opened(store: WatchedStore) -> Study:
    return Study(store, ID, records.read_study(store, ID))


def test_a_repr_reads_nothing_and_says_how_old_it_is(store: WatchedStore) -> None:
    study = opened(store)
    before = store.asked
    assert "not read from the store yet" in repr(study)
    assert store.asked == before
    assert study.state.status == "queued"
    before = store.asked
    assert "queued, 0 of 0 trials" in repr(study)
    assert "as of " in repr(study)
    assert store.asked == before


def test_an_opened_study_was_read_once(store: WatchedStore) -> None:
    assert "queued" in repr(qt.open(ID, store=store.root))


def test_a_state_reads_the_store_and_starts_no_engine(store: WatchedStore, cluster: Cluster) -> None:
    study = opened(store)
    before = store.asked
    assert [study.state.status, study.status, study.look().status] == ["queued"] * 3
    assert store.asked > before
    assert not study._ensuring_engine.locked()
    assert not cluster.wanted.is_set()


def test_who_follows_a_study_that_nobody_claims_starts_an_engine(store: WatchedStore, cluster: Cluster) -> None:
    follower = opened(store).follow(lambda state: None)
    try:
        assert cluster.wanted.wait(10)
    finally:
        follower.stop()


def test_why_no_engine_could_be_started_is_in_the_state(
    store: WatchedStore, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str) -> Cluster:
        raise qt.QuantTaaSError("the cluster is gone")

    monkeypatch.setattr(studies, "open_cluster", fail)
    study, told = opened(store), threading.Event()
    follower = study.follow(lambda state: told.set() if "gone" in state.message else None)
    try:
        assert told.wait(10)
    finally:
        follower.stop()
    assert study.state.message == "the cluster is gone"
    assert "the cluster is gone" in repr(study)
