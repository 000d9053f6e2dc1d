import hashlib
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from quanttaas_jupyter.core.errors import StoreError
from quanttaas_jupyter.store import MissingKey, Store, blobs, cached, open_store
from quanttaas_jupyter.store.cached import CachedStore
from quanttaas_jupyter.store.gcs import GcsStore
from quanttaas_jupyter.store.local import LocalStore
from tests.cloud import Cloud, FlakyProxy
from tests.store.contract import StoreContract


class TestCachedLocalStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return CachedStore(LocalStore(tmp_path / "store"), tmp_path / "blobs")


class TestCachedGcsStore(StoreContract):
    @pytest.fixture
    def store(self, gcs: Cloud) -> Store:
        return open_store(gcs.uri())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "blobs"


@pytest.fixture
def inner(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def kept(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()}


def aged(folder: Path, sha: str, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(folder / sha, (then, then))


def test_a_blob_is_downloaded_once_for_all_threads_and_processes(gcs: Cloud, proxy: FlakyProxy, folder: Path) -> None:
    data = os.urandom(1 << 20)
    inner = GcsStore(gcs.uri())
    sha = blobs.put_bytes(inner, data)
    proxy.reset()
    fork = multiprocessing.get_context("fork")
    start, right = fork.Barrier(3), fork.Value("i", 0)

    def read_in_threads() -> None:
        store = CachedStore(inner, folder)
        start.wait(30)

        def read() -> None:
            if blobs.get_bytes(store, sha) == data:
                with right.get_lock():
                    right.value += 1

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    processes = [fork.Process(target=read_in_threads) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert right.value == 12
    assert proxy.counts["GET", "download"] == 1


def test_what_was_stored_from_here_is_not_downloaded(gcs: Cloud, proxy: FlakyProxy, tmp_path: Path) -> None:
    store = open_store(gcs.uri())
    small, big = b"small", os.urandom(9 << 20)
    (tmp_path / "file").write_bytes(b"file")
    names = [blobs.put_bytes(store, small), blobs.put_bytes(store, big), blobs.put_file(store, tmp_path / "file")]
    assert [blobs.get_bytes(store, name) for name in names] == [small, big, b"file"]
    for name in names:
        with blobs.blob_file(store, name) as path:
            assert path == tmp_path / "cache" / name
    assert proxy.counts["GET", "download"] == 0


def test_a_damaged_blob_is_one_sentence_and_is_not_kept(inner: LocalStore, folder: Path) -> None:
    sha = hashlib.sha256(b"content").hexdigest()
    inner.create(f"blobs/{sha}", b"other content")
    store = CachedStore(inner, folder)
    for _ in range(2):
        with pytest.raises(StoreError, match=f"blob {sha[:12]} of the store .* is damaged"):
            blobs.get_bytes(store, sha)
    with pytest.raises(StoreError, match="is damaged"), blobs.blob_file(store, sha):
        pass
    assert kept(folder) == set()
    assert list((folder / ".tmp").iterdir()) == []


def test_a_download_corrupted_on_its_way_is_not_kept(gcs: Cloud, proxy: FlakyProxy, folder: Path) -> None:
    inner = GcsStore(gcs.uri())
    sha = blobs.put_bytes(inner, b"content")
    store = CachedStore(inner, folder)
    proxy.is_corrupting = True
    with pytest.raises(StoreError, match="differs from its checksum"):
        blobs.get_bytes(store, sha)
    proxy.is_corrupting = False
    assert blobs.get_bytes(store, sha) == b"content"


def test_a_file_that_changes_while_it_is_stored_is_not_kept(inner: LocalStore, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"later")
    sha = hashlib.sha256(b"before").hexdigest()
    CachedStore(inner, folder).create_from(f"blobs/{sha}", tmp_path / "file")
    assert kept(folder) == set()


def test_only_blobs_are_kept(inner: LocalStore, folder: Path) -> None:
    store = CachedStore(inner, folder)
    store.create("studies/abcd/study.json", b"{}")
    store.replace("blobs/short", b"1")
    assert store.read("studies/abcd/study.json") == b"{}"
    assert not folder.exists()


def test_the_least_recently_used_blobs_go_first(inner: LocalStore, folder: Path) -> None:
    store = CachedStore(inner, folder, bound=250)
    first, second, third = (blobs.put_bytes(store, bytes([number]) * 100) for number in range(3))
    for age, sha in ((3000, first), (2000, second), (1000, third)):
        aged(folder, sha, age)
    blobs.get_bytes(store, first)
    aged(folder, first, 500)
    fourth = blobs.put_bytes(store, b"4" * 100)
    assert kept(folder) == {first, fourth}
    assert blobs.get_bytes(store, second) == bytes([1]) * 100


def test_a_blob_that_is_open_or_young_is_never_evicted(inner: LocalStore, folder: Path) -> None:
    store = CachedStore(inner, folder, bound=50)
    opened, closed, young = (blobs.put_bytes(store, bytes([number]) * 100) for number in range(3))
    with blobs.blob_file(store, opened) as path:
        aged(folder, opened, 3000)
        aged(folder, closed, 2000)
        new = blobs.put_bytes(store, b"new")
        assert path.read_bytes() == bytes([0]) * 100
        assert kept(folder) == {opened, young, new}
    blobs.put_bytes(store, b"newer")
    assert opened not in kept(folder)


def test_a_blob_evicted_under_a_reader_is_downloaded_again(
    inner: LocalStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CachedStore(inner, folder)
    sha = blobs.put_bytes(store, b"content")
    mark = cached._mark_open
    marked: list[str] = []

    def evicted_just_before(stream: object) -> None:
        if not marked:
            (folder / sha).unlink()
        marked.append(sha)
        mark(stream)  # type: ignore[arg-type]

    monkeypatch.setattr(cached, "_mark_open", evicted_just_before)
    with blobs.blob_file(store, sha) as path:
        assert path.read_bytes() == b"content"
    assert kept(folder) == {sha}


def test_the_folder_can_be_deleted_at_any_time(inner: LocalStore, folder: Path) -> None:
    store = CachedStore(inner, folder)
    sha = blobs.put_bytes(store, b"content")
    shutil.rmtree(folder)
    assert blobs.get_bytes(store, sha) == b"content"
    shutil.rmtree(folder)
    with blobs.blob_file(store, sha) as path:
        assert path.read_bytes() == b"content"


@pytest.mark.parametrize(
    "use", [blobs.get_bytes, lambda store, sha: blobs.blob_file(store, sha).__enter__().read_bytes()]
)
def test_a_folder_that_cannot_be_made_costs_speed_only(
    inner: LocalStore, tmp_path: Path, use: Callable[[Store, str], bytes]
) -> None:
    (tmp_path / "file").write_text("")
    store = CachedStore(inner, tmp_path / "file" / "blobs")
    sha = blobs.put_bytes(store, b"content")
    assert use(store, sha) == b"content"


def test_a_deleted_blob_is_gone_from_the_folder_too(inner: LocalStore, folder: Path) -> None:
    store = CachedStore(inner, folder)
    sha = blobs.put_bytes(store, b"content")
    store.delete(f"blobs/{sha}")
    with pytest.raises(MissingKey):
        blobs.get_bytes(store, sha)
    assert kept(folder) == set()


def test_what_a_killed_process_left_is_removed_after_a_day(inner: LocalStore, folder: Path) -> None:
    (folder / ".tmp").mkdir(parents=True)
    for name, age in (("old", 2 * 86400), ("new", 60)):
        (folder / ".tmp" / name).write_bytes(b"half")
        aged(folder / ".tmp", name, age)
    blobs.put_bytes(CachedStore(inner, folder), b"content")
    assert {path.name for path in (folder / ".tmp").iterdir()} == {"new"}


def test_a_bucket_is_opened_with_a_folder_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QUANTTAAS_CACHE", str(tmp_path / "here"))
    store = open_store("gs://bucket/x")
    assert isinstance(store, CachedStore)
    assert (store.uri, store.folder, store.bound) == ("gs://bucket/x", tmp_path / "here", 20 * 10**9)
    monkeypatch.delenv("QUANTTAAS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    standard = open_store("gs://bucket/x")
    assert isinstance(standard, CachedStore)
    assert standard.folder.name == "blobs"
    assert "quanttaas" in standard.folder.parts
