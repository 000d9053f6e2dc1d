"""Whatever stands in a store, one study that cannot be read is one line, and the others are shown."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

import quanttaas_jupyter as qt
from quanttaas_jupyter.core.errors import QuantTaaSError, Unreadable
from quanttaas_jupyter.core.records.stage import StageResult
from quanttaas_jupyter.core.records.study import StudyRecord
from quanttaas_jupyter.core.records.summary import StudySummary
from quanttaas_jupyter.core.state import StudyState, fold
from quanttaas_jupyter.notebook import still_view
from quanttaas_jupyter.server.study_list import line
from quanttaas_jupyter.server.study_page import page
from quanttaas_jupyter.store.local import LocalStore
from quanttaas_jupyter.study_store import deletion, door, records, shapes, stage_cache
from quanttaas_jupyter.study_store.index import StudyIndex
from quanttaas_jupyter.study_store.lease import Lease, lease_key, read_lease
from quanttaas_jupyter.study_store.summaries import summary_of
from quanttaas_jupyter.views.text import study_text
from tests.hostile import planted
from tests.hostile.planted import HEALTHY, PLANTED

DEEP = b'{"id":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
ODD_NAMES = ["a b", "x{y}", "$HOME", "-rf", "UPPER", "é", "a" * 200, b"\xff\xfe".decode(errors="surrogateescape")]
WRONG: list[Any] = [None, "text", 7, -1, 10**400, 1e999, float("nan"), True, [], {}, [[]], {"a": {}}, "\ud800", "../x"]


def is_sentence(error: QuantTaaSError, start: str = "") -> None:
    """Assert that an error is told in one line."""
    assert str(error).startswith(start)
    assert "\n" not in str(error)


def seen(state: StudyState) -> None:
    """Draw a state in list, page and notebook; what is drawn can be sent to a browser."""
    for axis in ("size", "latency"):
        json.dumps(page("file:///store", state, axis, axis == "size"), allow_nan=False, ensure_ascii=False).encode()
    study_text(state, None).encode()


def draw(store: LocalStore, study_id: str) -> None:
    """Look at a study in every way that there is."""
    study = qt.open(study_id, store=store.root)
    state = study.state
    repr(study), study.frame(), study.frontier(), study.best(), [repr(trial) for trial in study]
    seen(state)
    still_view.html(state).encode()


def look(store: LocalStore) -> dict[str, str]:
    """Status by id, as list and panel show it; each line can be sent to a browser."""
    listed = {summary.id: summary.status for summary in StudyIndex(store).look()}
    assert listed == {summary.id: summary.status for summary in records.list_summaries(store)}
    for summary in records.list_summaries(store):
        json.dumps(line(store.uri, summary, time.time()), allow_nan=False).encode()
    assert HEALTHY in {info.id for info in qt.studies(store.root)}
    assert listed[HEALTHY] == "finished"
    return listed


def unharmed(store: LocalStore) -> None:
    """Assert that a planted study is shown, or told in one sentence, and that its neighbour is shown."""
    if look(store).get(PLANTED) == "unreadable":
        assert f"study {PLANTED} cannot be read" in repr(qt.studies(store.root))
    try:
        draw(store, PLANTED)
    except QuantTaaSError as error:
        is_sentence(error)


@pytest.mark.parametrize("path", planted.fields(planted.study()), ids=str)
def test_a_wrong_value_in_a_record_is_told_or_harmless(path: tuple[Any, ...]) -> None:
    for value in WRONG:
        data = planted.dumped(planted.changed(planted.study(), path, value))
        try:
            record = records.parse_study(data, PLANTED)
        except Unreadable as error:
            is_sentence(error, f"study {PLANTED} cannot be read: ")
            continue
        state = records.initial_state(record)
        seen(state)
        summary_of(record, state)


@pytest.mark.parametrize("path", planted.fields(planted.summary()), ids=str)
def test_a_wrong_value_in_a_summary_is_told_or_harmless(path: tuple[Any, ...]) -> None:
    for value in WRONG:
        try:
            values = door.parsed(planted.dumped(planted.changed(planted.summary(), path, value)), shapes.SUMMARY)
        except Unreadable:
            continue
        shown = line("file:///store", StudySummary.of(values), time.time())
        json.dumps(shown, allow_nan=False, ensure_ascii=False).encode()


@pytest.mark.parametrize("event", planted.events(), ids=lambda event: event["type"])
def test_a_wrong_value_in_an_event_is_told_or_harmless(event: dict[str, Any]) -> None:
    before = fold(planted.events()[: event["seq"] - 1], StudyState(id=PLANTED))
    for path in planted.fields(event):
        for value in WRONG:
            try:
                values = door.parsed(planted.dumped(planted.changed(event, path, value)), shapes.EVENT)
            except Unreadable:
                continue
            seen(fold([values], before))


@pytest.mark.parametrize("data", [b"", b"{", b"null", b"[]", b"\xff", DEEP, b'{"format":2}', b"1" * 5000], ids=range(8))
@pytest.mark.parametrize("name", ["study.json", "summary.json", "events/00000001.json", "lease.json", "cancel"])
def test_junk_is_one_line(tmp_path: Path, name: str, data: bytes) -> None:
    store = planted.plant(tmp_path)
    store.replace(f"studies/{PLANTED}/{name}", data)
    unharmed(store)


def test_a_record_of_a_newer_version_says_so(tmp_path: Path) -> None:
    store = planted.plant(tmp_path, study_json=planted.dumped({**planted.study(), "format": 2}))
    with pytest.raises(Unreadable, match="made by a newer version .*pip install -U quanttaas-jupyter"):
        qt.open(PLANTED, store=tmp_path)
    assert look(store)[PLANTED] == "unreadable"


@pytest.mark.parametrize("other", [HEALTHY, "x\nimport os", "../../etc", ""])
def test_a_record_that_names_another_study_is_not_believed(tmp_path: Path, other: str) -> None:
    data = {**planted.study(), "id": other}
    store = planted.plant(tmp_path, planted.dumped(data), [], planted.dumped({**planted.summary(), "id": other}))
    assert look(store) == {HEALTHY: "finished", PLANTED: "unreadable"}
    with pytest.raises(Unreadable, match="that of another one"):
        qt.open(PLANTED, store=tmp_path)
    deletion.remove_study(store, PLANTED)
    assert look(store) == {HEALTHY: "finished"}


def test_an_event_under_another_number_is_not_believed(tmp_path: Path) -> None:
    planted.plant(tmp_path, events_json=[planted.dumped({**planted.events()[0], "seq": 7})])
    study = qt.open(PLANTED, store=tmp_path)
    assert study.status == "failed"
    assert "cannot be read from event 1 on" in study.state.error


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_folder_with_an_odd_name_is_one_line_without_actions(tmp_path: Path, name: str) -> None:
    store = planted.plant(tmp_path)
    (tmp_path / "studies" / name).mkdir()
    listed = look(store)
    assert len(listed) == 3
    assert sorted(listed.values()) == ["finished", "finished", "unreadable"]
    lines = [line(store.uri, summary, 0.0) for summary in records.list_summaries(store)]
    odd = next(item for item in lines if item["status"] == "unreadable")
    assert odd["can"] == {"cancel": False, "resume": False, "delete": False}
    assert deletion.sweep(store) == 0


@pytest.mark.parametrize("name", ["study.json", "summary.json", "lease.json", "events/00000001.json", "events", ""])
def test_a_pipe_a_link_or_a_huge_file_neither_hangs_nor_leads_out(tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    planted.plant(outside)
    kinds = {
        "pipe": os.mkfifo,
        "link": lambda path: path.symlink_to(outside / "studies" / PLANTED / name),
        "huge": lambda path: path.open("wb").truncate(1 << 40),
    }
    for kind, make in kinds.items():
        store = planted.plant(tmp_path / kind)
        path = tmp_path / kind / "studies" / PLANTED / name
        os.system(f"rm -rf '{path}'")
        make(path)
        unharmed(store)
        try:
            deletion.delete_study(store, PLANTED, grace=0)
        except QuantTaaSError as error:
            is_sentence(error)
        assert (outside / "studies" / PLANTED / "study.json").exists()
        assert len(list((outside / "studies" / PLANTED / "events").iterdir())) == len(planted.events())
        assert look(store)[HEALTHY] == "finished"


def test_a_lease_far_in_the_future_is_broken(tmp_path: Path) -> None:
    store = planted.plant(tmp_path, events_json=[])
    store.replace(lease_key(PLANTED), planted.dumped({"owner": "x", "engine": "y", "until": 4_102_444_800.0}))
    assert qt.open(PLANTED, store=tmp_path).status == "interrupted"
    assert Lease(store, PLANTED, "me", "host:1").take()


@pytest.mark.parametrize("path", planted.fields(planted.lease()), ids=str)
def test_a_lease_that_cannot_be_read_is_held_by_nobody(tmp_path: Path, path: tuple[Any, ...]) -> None:
    store = planted.plant(tmp_path, events_json=[])
    values: list[Any] = [None, [], {}, "x" * 70_000, float("inf")]
    for value in values:
        store.replace(lease_key(PLANTED), planted.dumped(planted.changed(planted.lease(), path, value)))
        known = read_lease(store, PLANTED)
        assert known is not None
        assert not known.is_held(time.time())
        assert Lease(store, PLANTED, "me", "host:1").take()


@pytest.mark.parametrize("path", planted.fields(planted.cache_entry()), ids=str)
def test_a_wrong_value_in_a_cache_entry_is_a_miss_or_a_result(tmp_path: Path, path: tuple[Any, ...]) -> None:
    store = LocalStore(tmp_path)
    for value in WRONG:
        store.replace("cache/key.json", planted.dumped(planted.changed(planted.cache_entry(), path, value)))
        found = stage_cache.find(store, "key")
        assert found is None or isinstance(found, StageResult)
        assert stage_cache.find_proposals(store, "key") is None


@pytest.mark.parametrize(
    "name",
    ["\n", "a\r\nstudy y is fine", "\u2028", "\x1b[2J", "x" * 10_000],
    ids=["newline", "sentence", "line separator", "escape", "long"],
)
def test_the_name_of_a_field_stays_on_the_sentence_s_line(name: str) -> None:
    data = planted.dumped({**planted.cache_entry(), "blobs": {name: None}})
    with pytest.raises(Unreadable) as told:
        door.parsed(data, shapes.STAGE)
    assert str(told.value).isprintable()
    assert len(str(told.value)) < 200


@pytest.mark.parametrize("path", planted.fields(planted.ticket()), ids=str)
def test_a_wrong_value_in_a_ticket_is_no_ticket_or_harmless(tmp_path: Path, path: tuple[Any, ...]) -> None:
    store = LocalStore(tmp_path)
    for value in WRONG:
        store.replace(f"queue/local/{PLANTED}", planted.dumped(planted.changed(planted.ticket(), path, value)))
        found = records.read_ticket(store, "local", PLANTED)
        assert found is None or found["study"] == PLANTED


@pytest.mark.parametrize("value", [None, 0, -1, 1e18, -1e18, 1e-300, 0.5])
def test_numbers_of_any_size_are_drawn(value: float | None) -> None:
    log = planted.events()
    for event in log:
        if "metrics" in event:
            event["metrics"] = dict.fromkeys(event["metrics"], value)
    try:
        state = fold([door.parsed(planted.dumped(event), shapes.EVENT) for event in log], StudyState(id=PLANTED))
    except Unreadable:
        assert value is not None
        assert value < 0
        return
    seen(state)
    still_view.html(state).encode()


def test_what_this_version_writes_passes_the_door() -> None:
    for event in planted.events():
        door.parsed(planted.dumped(event), shapes.EVENT)
    assert fold(planted.events(), StudyState(id=PLANTED)).status == "finished"
    record = StudyRecord.of(door.parsed(planted.dumped(planted.study()), shapes.STUDY))
    door.parsed(planted.dumped(record.stored()), shapes.STUDY)
    door.parsed(planted.dumped(planted.summary()), shapes.SUMMARY)
    door.parsed(planted.dumped(planted.cache_entry()), shapes.STAGE)
    door.parsed(planted.dumped(planted.ticket()), shapes.TICKET)
