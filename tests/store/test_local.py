import errno
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quanttaas_jupyter.errors import QuantTaaSError, StoreError
from quanttaas_jupyter.store import MissingKey, open_store
from quanttaas_jupyter.store.base import checked_key
from quanttaas_jupyter.store.local import LocalStore


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def test_what_is_created_can_be_read(store: LocalStore) -> None:
    assert store.create("a/b", b"one")
    assert store.read("a/b") == b"one"
    assert store.size("a/b") == 3


def test_creation_is_exclusive_and_repeating_ones_own_write_succeeds(store: LocalStore) -> None:
    assert store.create("a", b"mine")
    assert store.create("a", b"mine")
    assert not store.create("a", b"another's")
    assert store.read("a") == b"mine"


def test_of_many_threads_that_create_one_key_one_wins(store: LocalStore) -> None:
    won: list[int] = []
    start = threading.Barrier(8)

    def create(number: int) -> None:
        start.wait()
        if store.create("events/00000001.json", str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert store.read("events/00000001.json") == str(won[0]).encode()


def test_a_swap_needs_the_expected_bytes(store: LocalStore) -> None:
    assert store.swap("lease", b"a", None)
    assert not store.swap("lease", b"b", None)
    assert not store.swap("lease", b"b", b"wrong")
    assert store.swap("lease", b"b", b"a")
    assert store.read("lease") == b"b"


def test_a_listing_is_sorted_and_starts_behind_the_offset(store: LocalStore) -> None:
    for number in (3, 1, 2):
        store.create(f"events/{number:08d}.json", b"{}")
    assert list(store.list("events")) == [f"{n:08d}.json" for n in (1, 2, 3)]
    assert list(store.list("events", after="00000001.json")) == ["00000002.json", "00000003.json"]
    assert list(store.list("nothing")) == []


def test_a_missing_key_is_told(store: LocalStore) -> None:
    with pytest.raises(MissingKey):
        store.read("a")
    with pytest.raises(MissingKey), store.as_file("a"):
        pass
    assert store.size("a") is None


@pytest.mark.parametrize("key", ["../a", "a/../b", "/etc/passwd", "a//b", "", ".hidden", "a/.b", "a b", "a\n"])
def test_keys_that_leave_the_store_are_refused(store: LocalStore, key: str) -> None:
    with pytest.raises(QuantTaaSError, match="no valid key"):
        store.read(key)


@given(st.text(max_size=30))
def test_a_checked_key_never_leaves_the_root(key: str) -> None:
    try:
        checked_key(key)
    except QuantTaaSError:
        return
    assert os.path.normpath(os.path.join("/store", key)) == f"/store/{key}"


def test_a_full_disk_is_one_sentence_and_leaves_nothing(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left on device; free some space"):
        store.create("a", b"x")
    assert store.size("a") is None
    assert list((store.root / ".tmp").iterdir()) == []


def test_without_hard_links_creation_is_still_exclusive(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert store.create("a", b"mine")
    assert not store.create("a", b"another's")
    assert store.read("a") == b"mine"


def test_a_read_only_store_is_one_sentence(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    # Root may write everywhere, so that file permissions cannot show this here.
    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(StoreError, match="Read-only file system; make it writable"):
        store.create("a", b"x")


def test_a_store_below_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write to the store"):
        LocalStore(tmp_path / "file" / "store").create("a", b"x")


@pytest.mark.parametrize("uri", ["s3://bucket/x", "gs://bucket/x"])
def test_stores_that_are_not_built_are_refused(uri: str) -> None:
    with pytest.raises(StoreError):
        open_store(uri)


def test_a_store_opens_by_path_and_by_uri(tmp_path: Path) -> None:
    by_path = open_store(tmp_path / "a b")
    assert open_store(by_path.uri).uri == by_path.uri
    by_path.create("x", b"1")
    assert open_store(by_path.uri).read("x") == b"1"
