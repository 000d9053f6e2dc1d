"""Studies over HTTP: the list, pages, events, files, and what is done to them."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quanttaas_jupyter.store import blobs, open_store
from quanttaas_jupyter.store.local import LocalStore
from quanttaas_jupyter.study_store import deletion, records
from quanttaas_jupyter.study_store.lease import Lease
from tests.cloud import Cloud, FlakyProxy
from tests.loopback import until
from tests.notebook.fakes import ROWS, Script, artifact, metrics
from tests.server.conftest import NO_ENGINE, House, cancelled, configure, finished, settings, write
from tests.server.contract import check
from tests.server.running import Client, server

EVIL = "<script>alert(1)</script>"


@pytest.fixture(autouse=True)
def empty(house: House) -> Iterator[None]:
    yield
    for store in (house.store, house.far):
        for key in [key for top in ("studies", "queue", "blobs") for key in store.walk(top)]:
            store.delete(key)
    for ticket in house.folder.glob("run/*/inbox/*"):
        ticket.unlink()
    assert lines(house.client) == {}


def lines(client: Client) -> dict[str, dict[str, Any]]:
    return {line["id"]: line for line in client.get("studies").json["studies"]}


def with_file(house: House, study: str, data: bytes, trial: str = "int8") -> str:
    """A finished study with a trial whose file is in the store; the digest of the file."""
    sha = blobs.put_bytes(house.store, data)
    row = next(row for row in ROWS if row[0] == trial)
    made = Script().start()
    made.add("trial_finished", trial=trial, metrics=metrics(row), artifact={**artifact(row), "blob": sha})
    write(house.store, study, made.add("finished", recommendation="good"), name=EVIL)
    return sha


def test_the_list_holds_what_the_panel_expects_newest_first(house: House) -> None:
    write(house.store, "abcd1234", finished(), created=1.0, name=EVIL)
    write(house.far, "faraway1", Script().start(), created=2.0, cluster="far")
    answer = house.client.get("studies")
    check(answer.json, "StudyList")
    first, second = answer.json["studies"]
    assert first["id"] == "faraway1"
    assert first["store"] == house.far.uri
    assert first["status"] == "interrupted"
    assert first["words"] == "interrupted, 0 of 15 trials"
    assert second["best"] == "10.7x smaller"
    assert second["name"] == EVIL
    assert second["words"] == "finished just now"
    assert second["progress"] == 1.0
    assert second["can"] == {"cancel": False, "resume": False, "delete": True}


def test_the_frontier_of_a_line_lies_in_a_square_of_side_one(house: House) -> None:
    write(house.store, "abcd1234", finished())
    frontier = lines(house.client)["abcd1234"]["frontier"]
    assert len(frontier) >= 3
    assert all(0 <= place <= 1 for point in frontier for place in point)
    assert [min(x for x, _ in frontier), max(x for x, _ in frontier)] == [0, 1]
    assert [y for _, y in frontier] == sorted(y for _, y in frontier)


def test_a_failed_study_says_why_in_its_line(house: House) -> None:
    write(house.store, "abcd1234", Script().start().add("failed", reason="out of memory"))
    assert lines(house.client)["abcd1234"]["words"] == "failed just now: out of memory"


def test_an_unchanged_list_or_page_costs_no_body(house: House) -> None:
    write(house.store, "abcd1234", finished())
    for path in ("studies", "studies/abcd1234", "clusters"):
        # The clusters may change in between: an engine of an earlier test ends.
        for _ in range(3):
            first = house.client.get(path)
            again = house.client.get(path, {"If-None-Match": first.headers["ETag"]})
            if again.status == 304:
                break
        assert (again.status, again.body) == (304, b"")
    write(house.store, "abcd5678", cancelled())
    changed = house.client.get("studies", {"If-None-Match": first.headers["ETag"]})
    assert changed.status == 200


def test_a_page_holds_what_the_panel_expects(house: House) -> None:
    write(house.store, "abcd1234", finished(), name=EVIL)
    for axis, log in (("size", "true"), ("latency", "false")):
        answer = house.client.get("studies/abcd1234", axis=axis, log=log)
        assert answer.headers["Content-Type"].startswith("application/json")
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert b"</script>" not in answer.body
        page = answer.json
        check(page, "StudyPage")
        assert page["name"] == EVIL
        assert page["chart"]["axis"] == axis
        assert len(page["chart"]["points"]) == 14
        keys = {column["key"] for column in page["columns"]}
        assert all(trial["cells"].keys() <= keys for trial in page["trials"])
    assert page["heading"] == "study abcd1234 · Net · on this machine (2 slots)"
    assert page["notices"][0]["kind"] == "verdict"
    by_name = {trial["name"]: trial for trial in page["trials"]}
    assert by_name["prune70-int8"]["is_recommended"]
    assert by_name["prune70-int8"]["cells"]["size"] == {"text": "116 KB", "extra": "10.7x smaller", "sort": 116000}
    assert by_name["int4-weight"]["error"] == "It touches MatMul only, and this model has none Try: int8"
    assert by_name["int8"]["file"].isascii()
    assert {"kind": "calm", "text": "left in high precision: head.fc"} in by_name["int8"]["remarks"]
    assert ["size", "116 KB", "10.7x smaller"] in by_name["prune70-int8"]["facts"]


@pytest.mark.parametrize("script", [None, Script().start(), Script().half(), cancelled()])
def test_a_page_is_whole_at_every_moment(house: House, script: Script | None) -> None:
    write(house.store, "abcd1234", script)
    check(house.client.get("studies/abcd1234").json, "StudyPage")
    check(lines(house.client)["abcd1234"], "StudyLine")


def test_without_a_store_every_store_is_searched(house: House) -> None:
    write(house.far, "faraway1", finished())
    assert house.client.get("studies/faraway1").json["store"] == house.far.uri
    assert house.client.get("studies/faraway1", store=house.store.uri).status == 404
    assert house.client.get("studies/nowhere1").status == 404


def test_a_page_follows_a_study_that_runs(house: House) -> None:
    made = write(house.store, "abcd1234", Script().start())
    lease = Lease(house.store, "abcd1234", "a", "host:1")
    lease.take()
    first = house.client.get("studies/abcd1234").json
    assert first["status"] == "running"
    assert first["can"] == {"cancel": True, "resume": False, "delete": False}
    writer = records.EventWriter(house.store, "abcd1234")
    writer.append("trial_finished", trial="int8", metrics=metrics(ROWS[2]), artifact=artifact(ROWS[2]))
    writer.write_summary(made)
    second = house.client.get("studies/abcd1234").json
    assert second["seq"] == first["seq"] + 1
    assert "1 of 15 trials" in second["progress"]["words"]
    assert lines(house.client)["abcd1234"]["words"] == "1 of 15 trials"


def test_events_come_in_order_behind_an_offset(house: House) -> None:
    write(house.store, "abcd1234", cancelled())
    everything = house.client.get("studies/abcd1234/events").json
    assert [event["type"] for event in everything["events"]] == ["started", "preview", "cancelled"]
    assert everything["seq"] == 3
    assert [event["seq"] for event in house.client.get("studies/abcd1234/events", after=2).json["events"]] == [3]
    assert house.client.get("studies/abcd1234/events", after=3).json == {"events": [], "seq": 3}


def test_a_file_is_sent_whole_as_a_download_with_a_safe_name(house: House) -> None:
    data = bytes(range(256)) * 20_000
    with_file(house, "abcd1234", data)
    answer = house.client.get("studies/abcd1234/artifacts/int8")
    assert answer.status == 200
    assert hashlib.sha256(answer.body).digest() == hashlib.sha256(data).digest()
    assert answer.headers["Content-Length"] == str(len(data))
    assert answer.headers["Content-Type"] == "application/octet-stream"
    disposition = answer.headers["Content-Disposition"]
    assert disposition.startswith("attachment; ")
    assert disposition.endswith("script-alert-1-script-int8.onnx")


def test_only_files_of_the_study_itself_are_sent(house: House) -> None:
    sha = with_file(house, "abcd1234", b"one")
    with_file(house, "abcd5678", b"two", trial="fp16")
    assert house.client.get("studies/abcd1234/artifacts/int8").body == b"one"
    for path in ("abcd1234/artifacts/fp16", f"abcd1234/artifacts/{sha}", "abcd5678/artifacts/int8"):
        answer = house.client.get(f"studies/{path}")
        assert answer.status == 404
        assert "has no file" in answer.json["message"]


def test_a_deleted_file_is_told(house: House) -> None:
    sha = with_file(house, "abcd1234", b"gone soon")
    house.store.delete(f"blobs/{sha}")
    answer = house.client.get("studies/abcd1234/artifacts/int8")
    assert answer.status == 404
    assert "resuming the study makes it again" in answer.json["message"]


def test_a_running_study_is_asked_to_stop_and_an_ended_one_is_not(house: House) -> None:
    write(house.store, "abcd1234", Script().start())
    Lease(house.store, "abcd1234", "a", "host:1").take()
    assert house.client.post("studies/abcd1234/cancel").status == 204
    assert records.is_cancelled(house.store, "abcd1234")
    write(house.store, "abcd5678", finished())
    answer = house.client.post("studies/abcd5678/cancel", store=house.store.uri)
    assert answer.status == 409
    assert "is finished already" in answer.json["message"]


def test_a_study_of_ones_own_is_resumed_and_the_list_knows_at_once(house: House) -> None:
    write(house.store, "abcd1234", cancelled())
    assert lines(house.client)["abcd1234"]["status"] == "cancelled"
    assert house.client.post("studies/abcd1234/resume").status == 204
    assert lines(house.client)["abcd1234"]["status"] == "queued"
    ticket = records.read_ticket(house.store, "local", "abcd1234")
    assert ticket is not None
    assert ticket["resume"]
    again = house.client.post("studies/abcd1234/resume")
    assert again.status == 409
    assert "is queued already" in again.json["message"]


def test_a_study_of_somebody_else_is_resumed_only_when_trusted(house: House) -> None:
    write(house.store, "abcd1234", cancelled(), who="mallory")
    refused = house.client.post("studies/abcd1234/resume", {"trusted": False})
    assert refused.status == 409
    check(refused.json, "Refusal")
    assert refused.json["needs_trust"]
    assert "mallory" in refused.json["message"]
    assert records.read_ticket(house.store, "local", "abcd1234") is None
    assert house.client.post("studies/abcd1234/resume", {"trusted": True}).status == 204


def test_without_torch_the_notebook_resumes(tmp_path: Path) -> None:
    configure(tmp_path)
    code = (
        f"{NO_ENGINE}\nimport importlib.util as util; find = util.find_spec\n"
        "util.find_spec = lambda name, *rest: None if name == 'torch' else find(name, *rest)"
    )
    with server(tmp_path, code=code, **settings(tmp_path)) as client:
        write(LocalStore(tmp_path / "store"), "abcd1234", cancelled())
        service = client.get("service").json
        assert not service["can_run"]
        assert "PyTorch" in service["why_not"]
        refused = client.post("studies/abcd1234/resume")
    assert refused.status == 409
    assert refused.json["insert"] == "%quanttaas resume abcd1234"


def test_a_deletion_says_before_and_after_how_much_it_is_about(house: House) -> None:
    with_file(house, "abcd1234", b"x" * 5000)
    folder = house.store.folder_size("studies/abcd1234")
    weight = house.client.get("studies/abcd1234/weight").json
    check(weight, "Weight")
    assert weight["bytes"] == folder + 5000
    assert "5.00 KB of model, data and files" in weight["words"]
    assert "younger than a day" in weight["words"]
    freed = house.client.ask("DELETE", "studies/abcd1234")
    assert freed.status == 200
    check(freed.json, "Weight")
    assert freed.json["bytes"] == folder
    assert lines(house.client) == {}
    assert house.client.get("studies/abcd1234").status == 404


def test_an_old_blob_goes_with_its_study_and_a_shared_one_stays(house: House) -> None:
    own, shared = with_file(house, "abcd1234", b"own"), with_file(house, "abcd5678", b"shared", "fp16")
    for sha in (own, shared):
        path = house.folder / "store" / "blobs" / sha
        past = time.time() - 2 * deletion.GRACE_SECONDS
        os.utime(path, (past, past))
    house.client.ask("DELETE", "studies/abcd1234")
    assert not blobs.has_blob(house.store, own)
    assert blobs.has_blob(house.store, shared)


def test_a_running_study_is_not_deleted(house: House) -> None:
    write(house.store, "abcd1234", Script().start())
    Lease(house.store, "abcd1234", "a", "host:1").take()
    answer = house.client.ask("DELETE", "studies/abcd1234")
    assert answer.status == 409
    assert "cancel it first" in answer.json["message"]


def test_a_slow_store_keeps_nobody_else_waiting(tmp_path: Path) -> None:
    configure(tmp_path)
    go = tmp_path / "go"
    code = (
        "import os, time; from quanttaas_jupyter.store.local import LocalStore\n"
        "def slow(method):\n"
        "    def wait(self, *args, **more):\n"
        f"        while self.root.name == 'far' and not os.path.exists({str(go)!r}): time.sleep(0.05)\n"
        "        return method(self, *args, **more)\n"
        "    return wait\n"
        "LocalStore.list, LocalStore.read = slow(LocalStore.list), slow(LocalStore.read)\n"
        "import quanttaas_jupyter.server.study_reader as reader; reader._PATIENCE = 4.0"
    )
    with server(tmp_path, code=code, **settings(tmp_path)) as client:
        near = LocalStore(tmp_path / "store")
        write(near, "abcd1234", finished())
        client.get("service")
        hung = [threading.Thread(target=client.get, args=(path,)) for path in ("studies", "studies/faraway1")]
        for thread in hung:
            thread.start()
        time.sleep(0.3)
        for path in ("service", "studies/abcd1234", "studies/abcd1234/events"):
            assert client.get(path).status == 200
        assert all(thread.is_alive() for thread in hung)
        listed = client.get("studies").json
        assert [line["id"] for line in listed["studies"]] == ["abcd1234"]
        assert len(listed["silent"]) == 1
        assert "does not answer" in listed["silent"][0]
        for thread in hung:
            thread.join()
        go.touch()


def test_what_was_deleted_elsewhere_is_not_shown_from_memory(house: House) -> None:
    write(house.store, "abcd1234", finished())
    assert house.client.get("studies/abcd1234").status == 200
    deletion.remove_study(house.store, "abcd1234")
    assert lines(house.client) == {}
    assert house.client.get("studies/abcd1234").status == 404


def test_a_bucket_serves_as_well_as_a_folder(gcs: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTTAAS_RUNTIME_DIR", settings(tmp_path)["QUANTTAAS_RUNTIME_DIR"])
    uri = gcs.uri()
    store = open_store(uri)
    sha = blobs.put_bytes(store, b"compressed")
    made = Script().start()
    made.add("trial_finished", trial="int8", metrics=metrics(ROWS[2]), artifact={**artifact(ROWS[2]), "blob": sha})
    write(store, "abcd1234", made.add("cancelled", reason="enough"))
    with server(tmp_path, code=NO_ENGINE, **{**settings(tmp_path), "QUANTTAAS_STORE": uri}) as client:
        assert lines(client)["abcd1234"]["status"] == "cancelled"
        check(client.get("studies/abcd1234", store=uri).json, "StudyPage")
        assert client.get("studies/abcd1234/artifacts/int8").body == b"compressed"
        assert client.post("studies/abcd1234/resume").status == 204
        assert lines(client)["abcd1234"]["status"] == "queued"
        assert client.get("studies/abcd1234/weight").json["bytes"] > len(b"compressed")
        assert client.ask("DELETE", "studies/abcd1234").status == 200
        assert lines(client) == {}


def test_a_bucket_out_of_reach_shows_what_it_last_held(proxy: FlakyProxy, gcs: Cloud, tmp_path: Path) -> None:
    uri = gcs.uri()
    write(open_store(uri), "abcd1234", finished())
    code = "import quanttaas_jupyter.server.study_reader as reader; reader._PATIENCE = 2.0"
    with server(tmp_path, code=code, **{**settings(tmp_path), "QUANTTAAS_STORE": uri}) as client:
        assert list(lines(client)) == ["abcd1234"]
        proxy.down()
        begun = time.monotonic()
        listed = client.get("studies").json
        assert time.monotonic() - begun < 4
        assert [line["id"] for line in listed["studies"]] == ["abcd1234"]
        assert listed["silent"] == [f"the store {uri} does not answer; its studies stand as they were last seen"]
        proxy.up()


@pytest.mark.slow
def test_a_real_study_is_listed_drawn_and_downloaded(tmp_path: Path, home: Path) -> None:
    import torch

    import quanttaas_jupyter as qt

    torch.manual_seed(0)
    inputs = torch.randn(64, 8)
    model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 3))
    study = qt.compress(
        model, data=(inputs, inputs[:, :3].argmax(1)), recipe={"prune": 0, "quantize": ["none", "fp16"]}
    )
    with server(tmp_path) as client:
        study.wait(240)
        line = lines(client)[study.id]
        assert line["status"] == "finished"
        page = client.get(f"studies/{study.id}").json
        check(page, "StudyPage")
        assert {trial["status"] for trial in page["trials"]} == {"finished"}
        file = client.get(f"studies/{study.id}/artifacts/fp16").body
    assert file == study["fp16"].export(tmp_path / "model.onnx").read_bytes()


@pytest.mark.slow
def test_a_study_that_no_engine_took_is_cancelled_by_one_that_comes_for_it(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    import quanttaas_jupyter as qt
    from quanttaas_jupyter.compute.clusters import local_engine

    with monkeypatch.context() as patch:
        patch.setattr(local_engine, "start", lambda: None)
        study = qt.compress(torch.nn.Linear(8, 3), data=(torch.randn(64, 8), torch.randint(3, (64,))))
        until(lambda: local_engine.has_ticket(study.id))
    with server(tmp_path) as client:
        assert lines(client)[study.id]["status"] == "queued"
        assert client.post(f"studies/{study.id}/cancel").status == 204
        until(lambda: lines(client)[study.id]["status"] == "cancelled")
