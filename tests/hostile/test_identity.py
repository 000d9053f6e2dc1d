"""Whose something is: what another user wrote or changed runs nothing here without being asked."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import quanttaas_jupyter as qt
from quanttaas_jupyter.client.study import whoami
from quanttaas_jupyter.compute.clusters import local_engine, tickets
from quanttaas_jupyter.compute.clusters.ray import RayCluster
from quanttaas_jupyter.core import identity
from quanttaas_jupyter.core.config import ClusterConfig
from quanttaas_jupyter.core.errors import ClusterError, NotTrusted, QuantTaaSError
from quanttaas_jupyter.core.private_files import private_folder, private_secret
from quanttaas_jupyter.core.records.stage import StageResult
from quanttaas_jupyter.core.records.study import StudyRecord
from quanttaas_jupyter.engine.inbox import QueueInbox
from quanttaas_jupyter.store import blobs, open_store
from quanttaas_jupyter.store.cached import CachedStore
from quanttaas_jupyter.store.local import LocalStore
from quanttaas_jupyter.study_store import records, stage_cache
from tests.hostile import planted
from tests.hostile.planted import PLANTED


@pytest.fixture
def mallory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Acts as another user, with a key of her own."""

    def act(deed: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setenv("QUANTTAAS_RUNTIME_DIR", str(tmp_path / "mallory"))
            return deed()

    return act


def test_a_study_with_this_users_name_and_another_key_asks_before_it_resumes(tmp_path: Path, mallory: Any) -> None:
    store = LocalStore(tmp_path / "store")
    record = StudyRecord.of({**planted.study(), "who": whoami()})
    mallory(lambda: records.create_study(store, record))
    with pytest.raises(NotTrusted, match="this user's key did not sign it"):
        qt.open(PLANTED, store=store.root).resume()
    assert not local_engine.has_ticket(PLANTED)


@pytest.mark.parametrize("path", planted.fields({**planted.study(), "who": whoami()}), ids=str)
def test_a_change_of_anything_in_a_record_takes_the_signature_away(path: tuple[Any, ...]) -> None:
    mine = identity.signed("study", {**planted.study(), "who": whoami()})
    assert records.is_signed_by_me(planted.dumped(mine))
    assert not records.is_signed_by_me(planted.dumped(planted.changed(mine, path, "other")))


@pytest.mark.parametrize("signature", ["", None, 7, "é", "0" * 64])
def test_a_made_up_signature_is_none(signature: Any) -> None:
    assert not identity.is_mine("study", {**planted.study(), "signature": signature})
    signed = identity.signed("study", planted.study())
    assert not identity.is_mine("cache", signed)


def test_another_users_pickle_in_the_cache_is_a_miss_and_her_numbers_count(tmp_path: Path, mallory: Any) -> None:
    store = LocalStore(tmp_path)
    sha = blobs.put_bytes(store, pickle.dumps("evil"))
    mallory(lambda: stage_cache.keep(store, "a", StageResult(blobs={"model": sha})))
    mallory(lambda: stage_cache.keep_model(store, "b", sha))
    mallory(lambda: stage_cache.keep(store, "c", StageResult(blobs={}, measurements={"metric": 0.9})))
    mallory(lambda: stage_cache.keep(store, "d", StageResult(blobs={"artifact": sha})))
    assert stage_cache.find(store, "a") is None
    assert stage_cache.find_model(store, "b") is None
    assert stage_cache.find(store, "c") is not None
    assert stage_cache.find(store, "d") is not None
    assert stage_cache.find_all(store, ["d"], {"d"}) == {"d": None}


def test_another_users_note_is_none(tmp_path: Path, mallory: Any) -> None:
    from quanttaas_jupyter.stages.context import _NotesInStore

    notes = _NotesInStore(LocalStore(tmp_path))
    notes.write("a", b"mine")
    mallory(lambda: notes.write("b", b"evil"))
    notes.store.replace("notes/c", b"short")
    notes.store.replace("notes/d", notes.store.read("notes/a"))
    assert [notes.read(name) for name in "abcde"] == [b"mine", None, None, None, None]


def test_ones_own_entry_counts_under_its_own_key_alone(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    sha = blobs.put_bytes(store, b"mine")
    stage_cache.keep(store, "a", StageResult(blobs={"model": sha}))
    store.replace("cache/b.json", store.read("cache/a.json"))
    assert stage_cache.find(store, "a") is not None
    assert stage_cache.find(store, "b") is None


def test_a_tickets_of_another_user_is_never_signed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path)
    forged = {**planted.ticket(), "store": store.uri, "cluster": "far", "key": tickets.public_key()}
    store.replace(f"queue/far/{PLANTED}", planted.dumped(forged))
    cluster = RayCluster("far", ClusterConfig(address="http://127.0.0.1:9"))
    monkeypatch.setattr(RayCluster, "ensure_engine", lambda self, uri: {"engine": "new"})
    cluster.ensure_engine_for(store, PLANTED)
    assert json.loads(store.read(f"queue/far/{PLANTED}")) == forged
    assert not cluster.is_mine(store, PLANTED)


def queued(store: Any, **change: Any) -> list[Any]:
    """What an engine finds in a queue with one signed ticket."""
    values = {"study": PLANTED, "sha256": planted.SHA, "resume": False, "store": store.uri, "cluster": "far"}
    signed = tickets.sign({**values, "engine": "e", **tickets.stamp(), **change})
    store.replace(f"queue/far/{PLANTED}", planted.dumped(signed))
    return QueueInbox(store, "far", tickets.public_key(), "e").tickets()


def test_a_ticket_counts_for_a_while_and_once(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    [ticket] = queued(store)
    assert records.mark_served(store, PLANTED, ticket.mark, "host:1")
    assert not records.mark_served(store, PLANTED, ticket.mark, "host:2")
    [other] = queued(store)
    assert other.mark != ticket.mark
    assert queued(store, time=time.time() - 8 * 24 * 3600) == []
    assert queued(store, time=time.time() + 8 * 24 * 3600) == []


@pytest.mark.parametrize("junk", [b"", b"{}", b"[" * 200_000, b"null", planted.dumped({"study": "other"}), b"\xff"])
def test_junk_in_the_inbox_stops_nothing(junk: bytes) -> None:
    inbox = local_engine.folder() / "inbox"
    good = {"store": "file:///x", "study": PLANTED, "sha256": planted.SHA, "resume": False}
    (inbox / "aaaa1111").write_bytes(junk)
    (inbox / "Odd name").write_bytes(planted.dumped(good))
    (inbox / "bbbb1111").symlink_to("/etc/passwd")
    os.mkfifo(inbox / "cccc1111")
    (inbox / PLANTED).write_bytes(planted.dumped(good))
    assert local_engine.tickets() == [good]
    assert [path.name for path in inbox.iterdir()] == [PLANTED]


def test_the_folders_of_the_engine_are_closed_whatever_the_umask_says() -> None:
    before = os.umask(0)
    try:
        place = local_engine.folder()
        identity.secret()
    finally:
        os.umask(before)
    for path in (place.parent, place, place / "inbox"):
        assert path.stat().st_mode & 0o777 == 0o700
    assert (place.parent / "signing.key").stat().st_mode & 0o777 == 0o600
    (place / "inbox").chmod(0o777)
    assert (local_engine.folder() / "inbox").stat().st_mode & 0o777 == 0o700


def test_a_store_is_closed_unless_it_is_shared_on_purpose(tmp_path: Path, home: Path) -> None:
    before = os.umask(0o002)
    try:
        LocalStore(tmp_path / "own").replace("studies/a/b", b"")
        (home / "config.yaml").parent.mkdir(parents=True, exist_ok=True)
        (home / "config.yaml").write_text("store: {shared: true}\n")
        open_store(tmp_path / "team").replace("studies/a/b", b"")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "own").rglob("*") if path.is_dir()} == {0o700}
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "team").rglob("*") if path.is_dir()} == {0o775}


@pytest.mark.parametrize("text", ["store: {shared: true, path: /x, more: 1}", "store: {shared: perhaps}"])
def test_a_wrong_store_in_the_configuration_is_a_sentence(home: Path, text: str) -> None:
    home.mkdir(exist_ok=True)
    (home / "config.yaml").write_text(text)
    with pytest.raises(QuantTaaSError, match="config.yaml is wrong at store"):
        open_store()


@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="only root can give folders away")
def test_a_folder_or_key_of_another_user_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    os.chown(folder, 12345, 12345)
    with pytest.raises(QuantTaaSError, match="another user"):
        private_folder(folder, "do something")
    (tmp_path / "key").write_bytes(b"x" * 32)
    os.chown(tmp_path / "key", 12345, 12345)
    with pytest.raises(QuantTaaSError, match="no file of this user's own"):
        private_secret(tmp_path / "key", 32, "do something")


def test_a_key_is_made_once_by_many_and_never_through_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("no links")

    monkeypatch.setattr(os, "link", refuse)
    found: set[bytes] = set()
    threads = [
        threading.Thread(target=lambda: found.add(private_secret(tmp_path / "key", 32, "do something")))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {(tmp_path / "key").read_bytes()}
    (tmp_path / "link").symlink_to(tmp_path / "key")
    with pytest.raises(QuantTaaSError):
        private_secret(tmp_path / "link", 32, "do something")
    (tmp_path / "short").write_bytes(b"x")
    (tmp_path / "short").chmod(0o600)
    with pytest.raises(QuantTaaSError, match="damaged"):
        private_secret(tmp_path / "short", 32, "do something")


def test_an_empty_store_is_no_store() -> None:
    with pytest.raises(QuantTaaSError, match="is empty"):
        open_store("")


def test_a_kernel_whose_package_changed_on_disk_says_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_engine, "_LOADED", "before")
    with pytest.raises(ClusterError, match="restart the kernel"):
        local_engine.start()


def test_an_engine_is_told_its_folder(tmp_path: Path) -> None:
    place = tmp_path / "handed"
    code = "from quanttaas_jupyter.compute.clusters import local_engine; print(local_engine.folder())"
    environment = {**os.environ, "QUANTTAAS_ENGINE_FOLDER": str(place)}
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == str(place)


def test_engines_that_end_at_their_start_are_told_and_not_started_over_and_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho once >> starts\necho 'ImportError: no torch' >&2\nexit 3\n")
    broken.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(broken))
    monkeypatch.setattr(local_engine, "_starts", [])
    local_engine.start()
    local_engine._starts[-1].process.wait()
    for _ in range(5):
        with pytest.raises(
            ClusterError, match="ended at its start .exit code 3.: ImportError: no torch. It is tried again"
        ):
            local_engine.start()
    assert (local_engine.folder() / "starts").read_text() == "once\n"


def test_copies_of_blobs_are_this_users_alone(tmp_path: Path) -> None:
    before = os.umask(0o002)
    try:
        store = CachedStore(LocalStore(tmp_path / "store"), tmp_path / "cache")
        sha = blobs.put_bytes(store, b"content")
    finally:
        os.umask(before)
    with blobs.blob_file(store, sha) as path:
        assert path == tmp_path / "cache" / sha
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700
