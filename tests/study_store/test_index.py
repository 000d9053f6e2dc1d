"""The list of a store's studies stays current by reading little."""

from pathlib import Path
from typing import Any

import pytest

from quanttaas_jupyter.store import Store, open_store
from quanttaas_jupyter.store.local import LocalStore
from quanttaas_jupyter.study_store import deletion, records
from quanttaas_jupyter.study_store.index import StudyIndex
from quanttaas_jupyter.study_store.lease import Lease
from quanttaas_jupyter.study_store.summaries import summary_of
from tests.cloud import FlakyProxy
from tests.study_store.test_records import record


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return LocalStore(tmp_path / "store")
    return open_store(request.getfixturevalue("gcs").uri())


def make(store: Store, study: str, end: str | None = "finished", **values: Any) -> records.EventWriter:
    records.create_study(store, record(study, **values))
    writer = records.EventWriter(store, study)
    writer.append("started", trials=[{"name": "baseline", "config": {}}], goal={}, metric={})
    if end:
        writer.append(end, reason="because")
        writer.write_summary(record(study, **values))
    return writer


def statuses(index: StudyIndex) -> dict[str, str]:
    return {summary.id: summary.status for summary in index.look()}


def test_new_studies_appear_and_deleted_ones_vanish_at_once(store: Store) -> None:
    index = StudyIndex(store)
    assert index.look() == []
    make(store, "abcd1234", created=1.0)
    make(store, "abcd5678", created=2.0)
    assert [summary.id for summary in index.look()] == ["abcd5678", "abcd1234"]
    deletion.remove_study(store, "abcd5678")
    assert list(statuses(index)) == ["abcd1234"]


def test_a_live_study_is_followed_to_its_end(store: Store) -> None:
    index = StudyIndex(store)
    writer = make(store, "abcd1234", end=None)
    lease = Lease(store, "abcd1234", "a", "host:1")
    lease.take()
    writer.write_summary(record())
    assert statuses(index) == {"abcd1234": "running"}
    lease.release()
    assert statuses(index) == {"abcd1234": "interrupted"}
    lease.take()
    writer.append("finished", recommendation="all good")
    writer.write_summary(record())
    for _ in range(2):
        found = statuses(index)
    assert found == {"abcd1234": "finished"}


def test_an_ended_study_that_somebody_resumed_elsewhere_is_noticed_in_its_turn(store: Store) -> None:
    for number in range(20):
        make(store, f"abcd{number:04d}")
    index = StudyIndex(store)
    index.look()
    writer = records.EventWriter(store, "abcd0013")
    Lease(store, "abcd0013", "a", "host:1").take()
    writer.append("started", trials=[], goal={}, metric={})
    writer.write_summary(record("abcd0013"))
    seen = [statuses(index)["abcd0013"] for _ in range(4)]
    assert seen[-1] == "running"


def test_a_suspect_is_asked_for_its_place_in_the_queue_at_once(store: Store) -> None:
    make(store, "abcd1234")
    index = StudyIndex(store)
    assert statuses(index) == {"abcd1234": "finished"}
    records.enqueue(store, "local", "abcd1234", {})
    index.suspect("abcd1234")
    assert statuses(index) == {"abcd1234": "queued"}


def test_a_study_without_a_summary_is_rebuilt_and_a_broken_one_is_a_line_that_says_so(store: Store) -> None:
    make(store, "abcd1234", end=None).append("finished", recommendation="all good")
    store.replace("studies/broken00/study.json", b"{")
    store.replace("studies/half0000/lease.json", b"{}")
    assert statuses(StudyIndex(store)) == {
        "abcd1234": "finished",
        "broken00": "unreadable",
        "half0000": "unreadable",
    }


def test_of_ended_studies_in_a_bucket_only_a_few_are_read_again(
    proxy: FlakyProxy, gcs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(gcs.uri())
    for number in range(30):
        make(store, f"abcd{number:04d}")
    index = StudyIndex(store)
    index.look()
    proxy.reset()
    index.look()
    assert proxy.counts["GET", "list"] == 1
    assert proxy.counts["GET", "download"] <= 8


def test_of_many_points_a_summary_keeps_a_few_of_the_frontier_with_both_ends(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    writer = make(store, "abcd1234", end=None)
    for number in range(1, 61):
        metrics = {"metric": number / 100, "size_bytes": 1000 * number, "drop": 0.0, "size_ratio": number / 60}
        config = {"prune": {"amount": 0.5}, "quantize": "none"}
        writer.append("trial_finished", trial=f"t{number}", config=config, metrics=metrics)
    summary = summary_of(record(), writer.state)
    assert len(summary.frontier) == 24
    assert summary.frontier[0] == (1000.0, 0.01)
    assert summary.frontier[-1] == (60000.0, 0.6)
