import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quanttaas_jupyter.core.errors import QuantTaaSError, StoreError
from quanttaas_jupyter.store import open_store
from quanttaas_jupyter.store.base import checked_key
from quanttaas_jupyter.store.local import LocalStore
from tests.store.contract import StoreContract


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


class TestLocalStore(StoreContract):
    pass


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


def test_a_store_of_another_kind_is_refused() -> None:
    with pytest.raises(StoreError, match="unknown kind of store 's3://bucket/x'"):
        open_store("s3://bucket/x")


def test_a_store_opens_by_path_and_by_uri(tmp_path: Path) -> None:
    by_path = open_store(tmp_path / "a b")
    assert open_store(by_path.uri).uri == by_path.uri
    by_path.create("x", b"1")
    assert open_store(by_path.uri).read("x") == b"1"
