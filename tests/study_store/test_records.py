import time
from pathlib import Path
from typing import Any

import pytest

from quanttaas_jupyter.core.errors import NotFound, QuantTaaSError
from quanttaas_jupyter.core.records.study import StudyRecord
from quanttaas_jupyter.store import Store, blobs, open_store
from quanttaas_jupyter.store.local import LocalStore
from quanttaas_jupyter.study_store import deletion, records
from quanttaas_jupyter.study_store.lease import Lease, read_lease


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return LocalStore(tmp_path / "store")
    return open_store(request.getfixturevalue("gcs").uri())


def record(study: str = "abcd1234", **values: Any) -> StudyRecord:
    given = {
        "id": study,
        "name": "net",
        "created": 1.0,
        "cluster": "local",
        "model": {"class": "Net"},
        "metric": {"name": "accuracy"},
        "recipe": {"goal": {"minimize": "size", "max_drop": 0.01}},
    }
    return StudyRecord(**{**given, **values})


def test_events_are_read_back_in_order_and_from_an_offset(store: Store) -> None:
    writer = records.EventWriter(store, "abcd1234")
    for number in range(5):
        writer.append("unknown", number=number)
    assert [event["number"] for event in records.read_events(store, "abcd1234")] == [0, 1, 2, 3, 4]
    assert [event["seq"] for event in records.read_events(store, "abcd1234", after=3)] == [4, 5]


def test_a_reader_stops_at_a_gap(store: Store) -> None:
    writer = records.EventWriter(store, "abcd1234")
    for _ in range(4):
        writer.append("unknown")
    store.delete("studies/abcd1234/events/00000003.json")
    assert [event["seq"] for event in records.read_events(store, "abcd1234")] == [1, 2]


def test_a_second_writer_learns_that_the_log_is_taken(store: Store) -> None:
    mine, another = records.EventWriter(store, "abcd1234"), records.EventWriter(store, "abcd1234")
    mine.append("unknown", who="mine")
    with pytest.raises(records.LogTaken):
        another.append("unknown", who="another")
    assert [event["who"] for event in records.read_events(store, "abcd1234")] == ["mine"]


def test_a_writer_goes_on_where_the_log_ends(store: Store) -> None:
    records.EventWriter(store, "abcd1234").append("unknown")
    records.EventWriter(store, "abcd1234").append("unknown")
    assert [event["seq"] for event in records.read_events(store, "abcd1234")] == [1, 2]


def test_one_engine_holds_the_lease_until_it_is_released(store: Store) -> None:
    mine, another = Lease(store, "abcd1234", "a", "host:1"), Lease(store, "abcd1234", "b", "host:2")
    assert mine.take()
    assert not another.take()
    assert mine.renew()
    assert mine.release()
    assert another.take()
    assert not mine.renew()


def test_a_lease_that_ran_out_can_be_taken(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, another = Lease(store, "abcd1234", "a", "host:1"), Lease(store, "abcd1234", "b", "host:2")
    assert mine.take()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 31)
    assert another.take()
    assert not mine.renew()
    lease = read_lease(store, "abcd1234")
    assert lease is not None
    assert lease.owner == "b"


@pytest.mark.parametrize("study", ["../etc", "a/b", "", "ABC", "a" * 80, "-abc", "abc.", "a\nbc"])
def test_ids_of_another_form_are_refused(store: Store, study: str) -> None:
    with pytest.raises(QuantTaaSError, match="no valid id"):
        records.read_study(store, study)


def test_an_unknown_study_is_not_found(store: Store) -> None:
    with pytest.raises(NotFound, match="no study abcd1234"):
        records.read_study(store, "abcd1234")


def test_a_study_is_created_once(store: Store) -> None:
    records.create_study(store, record())
    with pytest.raises(QuantTaaSError, match="exists already"):
        records.create_study(store, record(name="other"))


def test_a_lost_summary_is_rebuilt_from_the_events(store: Store) -> None:
    records.create_study(store, record())
    writer = records.EventWriter(store, "abcd1234")
    writer.append("started", trials=[{"name": "baseline", "config": {}}])
    writer.append("finished", recommendation="all good", usage={})
    writer.write_summary(record())
    before = records.list_summaries(store)
    store.delete("studies/abcd1234/summary.json")
    assert records.list_summaries(store) == before
    assert before[0].status == "finished"
    assert before[0].seq == 2


def test_deleting_a_study_sweeps_what_no_other_needs(store: Store) -> None:
    shared, own = blobs.put_bytes(store, b"shared"), blobs.put_bytes(store, b"own")
    records.create_study(store, record(model={"class": "Net", "blob": shared}, recover={"blob": own}))
    records.create_study(store, record("abcd5678", model={"class": "Net", "blob": shared}))
    freed = deletion.delete_study(store, "abcd1234", grace=0)
    assert freed == len(b"own")
    assert not blobs.has_blob(store, own)
    assert blobs.has_blob(store, shared)
    with pytest.raises(NotFound):
        records.read_study(store, "abcd1234")


def test_young_blobs_survive_a_sweep(store: Store) -> None:
    young = blobs.put_bytes(store, b"being submitted")
    records.create_study(store, record())
    deletion.delete_study(store, "abcd1234")
    assert blobs.has_blob(store, young)


def test_a_running_study_is_not_deleted(store: Store) -> None:
    records.create_study(store, record())
    Lease(store, "abcd1234", "a", "host:1").take()
    with pytest.raises(QuantTaaSError, match="is running"):
        deletion.delete_study(store, "abcd1234")


def test_a_lease_is_kept_beside_long_work_and_lost_when_another_takes_it(store: Store) -> None:
    mine = Lease(store, "abcd1234", "mine", "engine", seconds=0.15)
    assert mine.take()
    first = read_lease(store, "abcd1234")
    with mine.kept():
        deadline = time.monotonic() + 10
        while (renewed := read_lease(store, "abcd1234")) == first:
            assert time.monotonic() < deadline
        assert renewed is not None
        assert renewed.owner == "mine"
        assert not mine.is_lost
        store.replace("studies/abcd1234/lease.json", b'{"owner": "another", "engine": "e", "until": 9e9}')
        while not mine.is_lost:
            assert time.monotonic() < deadline
    assert not mine.release()
