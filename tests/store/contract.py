"""What every store promises; a class of tests that brings a ``store`` runs them on its own."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from quanttaas_jupyter.core.errors import QuantTaaSError
from quanttaas_jupyter.store import MissingKey, Store, blobs
from quanttaas_jupyter.study_store.lease import Lease


def of_many_threads(attempts: int, attempt: object) -> list[int]:
    """Numbers of the threads whose attempt, all made at once, succeeded."""
    won: list[int] = []
    start = threading.Barrier(attempts)

    def run(number: int) -> None:
        start.wait()
        if attempt(number):  # type: ignore[operator]
            won.append(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(attempts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return won


class StoreContract:
    def test_what_is_created_can_be_read(self, store: Store) -> None:
        assert store.create("a/b", b"one")
        assert store.read("a/b") == b"one"
        assert store.size("a/b") == 3

    def test_nothing_at_all_can_be_stored(self, store: Store) -> None:
        assert store.create("a", b"")
        assert store.read("a") == b""
        assert store.size("a") == 0

    def test_creation_is_exclusive_and_repeating_ones_own_write_succeeds(self, store: Store) -> None:
        assert store.create("a", b"mine")
        assert store.create("a", b"mine")
        assert not store.create("a", b"another's")
        assert store.read("a") == b"mine"

    def test_of_many_threads_that_create_one_key_one_wins(self, store: Store) -> None:
        won = of_many_threads(8, lambda number: store.create("events/00000001.json", str(number).encode()))
        assert len(won) == 1
        assert store.read("events/00000001.json") == str(won[0]).encode()

    def test_what_is_replaced_holds_the_new_bytes(self, store: Store) -> None:
        store.replace("a", b"one")
        store.replace("a", b"another")
        assert store.read("a") == b"another"

    def test_a_swap_needs_the_expected_bytes(self, store: Store) -> None:
        assert store.swap("lease", b"a", None)
        assert not store.swap("lease", b"b", None)
        assert not store.swap("lease", b"b", b"wrong")
        assert store.swap("lease", b"b", b"a")
        assert store.read("lease") == b"b"

    def test_of_many_threads_that_swap_the_same_bytes_one_wins(self, store: Store) -> None:
        store.create("lease", b"free")
        won = of_many_threads(8, lambda number: store.swap("lease", str(number).encode(), b"free"))
        assert len(won) == 1
        assert store.read("lease") == str(won[0]).encode()

    def test_of_two_engines_that_take_a_lease_one_holds_it(self, store: Store) -> None:
        leases = [Lease(store, "abcd1234", owner, "host:1") for owner in ("a", "b")]
        won = of_many_threads(2, lambda number: leases[number].take())
        assert len(won) == 1
        assert leases[won[0]].renew()
        assert not leases[1 - won[0]].renew()

    def test_a_listing_is_sorted_and_starts_behind_the_offset(self, store: Store) -> None:
        for number in (3, 1, 2):
            store.create(f"events/{number:08d}.json", b"{}")
        assert list(store.list("events")) == [f"{n:08d}.json" for n in (1, 2, 3)]
        assert list(store.list("events", after="00000001.json")) == ["00000002.json", "00000003.json"]
        assert list(store.list("nothing")) == []

    def test_a_listing_names_keys_and_folders_alike_in_one_order(self, store: Store) -> None:
        for key in ("top/a/x", "top/a/y/z", "top/a-b/x", "top/a.json", "top/b", "topmost/c"):
            store.create(key, b"1")
        assert list(store.list("top")) == ["a", "a-b", "a.json", "b"]
        assert list(store.list("top", after="a")) == ["a-b", "a.json", "b"]
        assert list(store.list("top", after="a-b")) == ["a.json", "b"]

    def test_a_walk_finds_keys_at_any_depth(self, store: Store) -> None:
        for key in ("top/a/x", "top/a/y/z", "top/b", "topmost/c"):
            store.create(key, b"1")
        assert sorted(store.walk("top")) == ["top/a/x", "top/a/y/z", "top/b"]
        assert list(store.walk("nothing")) == []

    def test_what_is_deleted_is_gone_and_deleting_it_again_is_no_error(self, store: Store) -> None:
        store.create("a/b", b"one")
        store.delete("a/b")
        assert store.size("a/b") is None
        store.delete("a/b")
        assert store.create("a/b", b"another")

    def test_a_missing_key_is_told(self, store: Store, tmp_path: Path) -> None:
        with pytest.raises(MissingKey):
            store.read("a")
        with pytest.raises(MissingKey):
            store.as_file("a")
        with pytest.raises(MissingKey):
            store.as_file(f"blobs/{'0' * 64}")
        with pytest.raises(MissingKey):
            store.download("a", tmp_path / "a")
        assert store.size("a") is None
        assert store.age("a") is None
        store.touch("a")

    @pytest.mark.parametrize("key", ["../a", "a/../b", "/etc/passwd", "a//b", "", ".hidden", "a/.b", "a b", "a\n"])
    def test_keys_that_leave_the_store_are_refused(self, store: Store, key: str) -> None:
        with pytest.raises(QuantTaaSError, match="no valid key"):
            store.read(key)

    def test_the_weight_of_a_folder_is_that_of_all_keys_below_it(self, store: Store) -> None:
        store.create("a/one", b"1")
        store.create("a/b/two", b"22")
        store.create("ab", b"333")
        assert store.folder_size("a") == 3
        assert store.folder_size("missing") == 0

    def test_a_stamp_changes_with_the_bytes_where_the_store_has_any(self, store: Store) -> None:
        missing = store.stamp("a")
        stamps = []
        for data in (b"1", b"2", b"3"):
            store.replace("a", data)
            stamps.append(store.stamp("a"))
        assert [missing, *stamps] == [None] * 4 or (missing == "" and len({*stamps}) == 3)

    def test_a_touch_makes_a_key_young_again(self, store: Store) -> None:
        store.create("a", b"one")
        time.sleep(0.2)
        begun = time.time()
        store.touch("a")
        age = store.age("a")
        assert age is not None
        assert age <= time.time() - begun + 0.05

    def test_a_file_is_stored_and_comes_back_as_a_file(self, store: Store, tmp_path: Path) -> None:
        (tmp_path / "source").write_bytes(b"content")
        assert store.create_from("a/b", tmp_path / "source")
        with store.as_file("a/b") as path:
            assert path.read_bytes() == b"content"
        store.download("a/b", tmp_path / "target")
        assert (tmp_path / "target").read_bytes() == b"content"

    @pytest.mark.parametrize("size", [3 << 20, (3 << 20) + 17])
    def test_a_file_of_many_chunks_arrives_whole(self, store: Store, tmp_path: Path, size: int) -> None:
        data = os.urandom(size)
        (tmp_path / "source").write_bytes(data)
        sha = blobs.put_file(store, tmp_path / "source")
        assert store.size(f"blobs/{sha}") == size
        assert blobs.get_bytes(store, sha) == data
        with blobs.blob_file(store, sha) as path:
            assert path.read_bytes() == data

    def test_an_existing_key_is_left_as_it_is_by_a_file(self, store: Store) -> None:
        store.create("a", b"first")
        assert store.create_from("a", b"second")
        assert store.read("a") == b"first"

    def test_progress_grows_from_nothing_to_all(self, store: Store) -> None:
        told: list[tuple[int, int]] = []
        data = os.urandom((9 << 20) + 1)
        blobs.put_bytes(store, data, lambda done, total: told.append((done, total)))
        assert told[0] == (0, len(data))
        assert told[-1] == (len(data), len(data))
        assert [done for done, _ in told] == sorted(done for done, _ in told)
        assert len(told) > 2
        again: list[tuple[int, int]] = []
        blobs.put_bytes(store, data, lambda done, total: again.append((done, total)))
        assert again == [(len(data), len(data))]
