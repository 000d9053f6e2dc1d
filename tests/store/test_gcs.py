"""Google Cloud Storage: the client library against a real emulator, faults by a proxy between the two."""

import multiprocessing
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quanttaas_jupyter.bundle import batches, shards
from quanttaas_jupyter.core.errors import MissingDependency, StoreError
from quanttaas_jupyter.store import MissingKey, Store, blobs, open_store
from quanttaas_jupyter.store import gcs as google_store
from quanttaas_jupyter.store.gcs import GcsStore
from quanttaas_jupyter.study_store.lease import Lease, read_lease
from tests.cloud import Cloud, FlakyProxy
from tests.store.contract import StoreContract

CHUNK = 256 << 10


class TestGcsStore(StoreContract):
    @pytest.fixture
    def store(self, gcs: Cloud) -> Store:
        return GcsStore(gcs.uri(), chunk=CHUNK)


class TestGcsStoreWhenOneRequestInThreeFails(StoreContract):
    @pytest.fixture
    def store(self, gcs: Cloud, proxy: FlakyProxy) -> Iterator[Store]:
        proxy.fail_every = 3
        yield GcsStore(gcs.uri(), chunk=CHUNK)
        assert proxy.failed or not proxy.counts


@pytest.fixture
def store(gcs: Cloud, proxy: FlakyProxy) -> GcsStore:
    return GcsStore(gcs.uri(), chunk=CHUNK, deadline=20)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_again(store: GcsStore, proxy: FlakyProxy, status: int) -> None:
    proxy.fail_status, proxy.fail_every = status, 2
    assert store.create("a", b"mine")
    assert store.read("a") == b"mine"
    assert proxy.failed == 2


@pytest.mark.parametrize("every", [3, 10])
def test_an_upload_of_many_chunks_survives_failures_in_its_middle(
    store: GcsStore, proxy: FlakyProxy, every: int
) -> None:
    data = os.urandom((3 << 20) + 17)
    proxy.fail_every = every
    told: list[int] = []
    assert store.create_from("big", data, lambda done, _: told.append(done))
    assert proxy.counts["PUT", "upload"] >= 13 + 13 // every
    # Only the chunks that failed were sent again.
    assert proxy.sent < len(data) + CHUNK * (proxy.failed + 1)
    assert told == sorted(told)
    assert store.read("big") == data


def test_a_creation_whose_answer_is_lost_counts_as_success(store: GcsStore, proxy: FlakyProxy) -> None:
    proxy.drop_next_write()
    assert store.create("a", b"mine")
    assert proxy.counts["POST", "upload"] == 2
    assert store.read("a") == b"mine"
    assert not store.create("a", b"another's")


def test_a_swap_whose_answer_is_lost_counts_as_success(store: GcsStore, proxy: FlakyProxy) -> None:
    store.create("lease", b"a")
    proxy.reset()
    proxy.drop_next_write()
    assert store.swap("lease", b"b", b"a")
    assert proxy.counts["POST", "upload"] == 2
    assert store.read("lease") == b"b"


def test_a_lease_whose_answers_are_lost_is_held_once(store: GcsStore, proxy: FlakyProxy) -> None:
    mine, another = Lease(store, "abcd1234", "a", "host:1"), Lease(store, "abcd1234", "b", "host:2")
    proxy.drop_next_write()
    assert mine.take()
    proxy.drop_next_write()
    assert mine.renew()
    assert not another.take()
    lease = read_lease(store, "abcd1234")
    assert lease is not None
    assert lease.owner == "a"


def test_a_deletion_whose_answer_is_lost_is_no_error(store: GcsStore, proxy: FlakyProxy) -> None:
    store.create("a", b"mine")
    proxy.drop_next_write()
    store.delete("a")
    assert store.size("a") is None


@pytest.mark.parametrize("chunk", [0, 1, 5, 13])
def test_an_upload_that_loses_an_answer_arrives_whole(store: GcsStore, proxy: FlakyProxy, chunk: int) -> None:
    """0 begins the session, 13 is the last chunk.

    The emulator appends a chunk that comes twice, where Google ignores it: what is damaged begins anew.
    """
    data = os.urandom((3 << 20) + 17)
    proxy.drop_next_write(after=chunk)
    assert store.create_from("big", data)
    assert store.read("big") == data


def test_what_exists_is_not_sent_again(store: GcsStore, proxy: FlakyProxy) -> None:
    small, big = b"small", os.urandom(9 << 20)
    for data in (small, big):
        blobs.put_bytes(store, data)
    proxy.reset()
    for data in (small, big):
        blobs.put_bytes(store, data)
    assert dict(proxy.counts) == {("GET", "object"): 2, ("PATCH", "object"): 2}
    assert proxy.sent < 1000


def test_an_upload_that_somebody_else_finished_first_counts_as_created(store: GcsStore) -> None:
    class Late(GcsStore):
        def size(self, key: str) -> int | None:
            return None

    store.create("a", b"first")
    assert Late(store.uri).create_from("a", b"second")
    assert store.read("a") == b"first"


def test_a_corrupted_download_is_noticed(store: GcsStore, proxy: FlakyProxy, tmp_path: Path) -> None:
    store.create("a", b"content")
    proxy.is_corrupting = True
    with pytest.raises(StoreError, match="cannot read the store gs://.*differs from its checksum"):
        store.read("a")
    with pytest.raises(StoreError, match="differs from its checksum"):
        store.download("a", tmp_path / "a")


def test_a_store_that_is_down_is_one_sentence_after_the_deadline(gcs: Cloud, proxy: FlakyProxy) -> None:
    store = GcsStore(gcs.uri(), deadline=0.5)
    store.create("a", b"content")
    proxy.down()
    with pytest.raises(
        StoreError, match=r"cannot write to the store gs://.*no good answer for \d s.*check the network"
    ):
        store.replace("a", b"new")
    with pytest.raises(StoreError, match="cannot read the store"):
        store.read("a")
    with pytest.raises(StoreError, match="cannot list the store"):
        list(store.list("a"))
    proxy.up()
    assert store.read("a") == b"content"


def test_an_answer_that_never_gets_better_is_named(gcs: Cloud, proxy: FlakyProxy) -> None:
    proxy.fail_every, proxy.fail_status = 1, 429
    with pytest.raises(StoreError, match=r"\(429 Too Many Requests\)"):
        GcsStore(gcs.uri(), deadline=0.5).read("a")


def test_a_host_that_nobody_listens_at_is_one_sentence(gcs: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:1")
    with pytest.raises(StoreError, match="no good answer"):
        GcsStore("gs://bucket/x", deadline=0.3).read("a")


@pytest.mark.parametrize(
    "use",
    [
        lambda store: store.read("a"),
        lambda store: store.create("a", b"1"),
        lambda store: store.replace("a", b"1"),
        lambda store: store.swap("a", b"1", None),
        lambda store: store.create_from("a", b"1" * (2 * CHUNK)),
        lambda store: store.delete("a"),
        lambda store: store.size("a"),
        lambda store: list(store.list("a")),
        lambda store: list(store.walk("a")),
        lambda store: store.as_file("a"),
    ],
)
def test_a_bucket_that_does_not_exist_is_one_sentence(gcs: Cloud, use: Callable[[Store], object]) -> None:
    with pytest.raises(StoreError, match="there is no bucket nowhere; create it with gcloud storage buckets create"):
        use(GcsStore("gs://nowhere/x", chunk=CHUNK))


def test_what_is_not_permitted_names_the_role(store: GcsStore, proxy: FlakyProxy) -> None:
    proxy.is_forbidding = True
    sentence = (
        "cannot read the store.*lacks storage.objects.get on gs://bucket; grant it roles/storage.objectUser there"
    )
    with pytest.raises(StoreError, match=sentence):
        store.read("a")
    with pytest.raises(StoreError, match="cannot write to the store"):
        store.create("a", b"1")
    store.touch("a")


def test_missing_credentials_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STORAGE_EMULATOR_HOST", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    with pytest.raises(StoreError, match="no valid credentials; run gcloud auth application-default login, or let"):
        GcsStore("gs://bucket/x").read("a")


def test_a_broken_key_of_a_service_account_is_one_sentence_without_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key.json").write_text('{"type": "service_account", "private_key": "SECRET"}')
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    with pytest.raises(StoreError, match="no valid credentials") as caught:
        GcsStore("gs://bucket/x").read("a")
    assert "SECRET" not in str(caught.value)


def test_a_missing_library_is_one_sentence_with_the_command(gcs: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("google.")]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(google_store, "_client", google_store._client.__wrapped__)
    store = GcsStore("gs://bucket/x")
    for use in (lambda: store.read("a"), lambda: store.touch("a"), lambda: list(store.list("a"))):
        with pytest.raises(MissingDependency, match=re.escape("pip install 'quanttaas-jupyter[gcs]'")):
            use()


@pytest.mark.parametrize(
    "uri",
    [
        "gs://",
        "gs://B/x",
        "gs://a",
        "gs:///x",
        "gs://bucket//x",
        "gs://bucket/a//b",
        "gs://bucket/a/../b",
        "gs://b c/x",
    ],
)
def test_a_malformed_uri_is_one_sentence(uri: str) -> None:
    with pytest.raises(StoreError, match="no valid store: use gs://bucket or gs://bucket/prefix"):
        open_store(uri)


@pytest.mark.parametrize(
    ("uri", "normalised"),
    [
        ("gs://bucket", "gs://bucket"),
        ("gs://bucket/", "gs://bucket"),
        ("gs://my.bucket_1/a/b-c/", "gs://my.bucket_1/a/b-c"),
    ],
)
def test_the_uri_of_a_store_is_normalised(uri: str, normalised: str) -> None:
    assert open_store(uri).uri == normalised


def test_a_store_may_be_a_whole_bucket(gcs: Cloud) -> None:
    store, other = GcsStore("gs://bucket"), GcsStore(gcs.uri())
    other.create("folder/a", b"1")
    top = other.uri.rpartition("/")[2]
    assert store.read(f"{top}/folder/a") == b"1"
    assert list(store.list(top)) == ["folder"]
    assert list(store.walk(top)) == [f"{top}/folder/a"]


def test_stores_of_one_bucket_do_not_see_each_other(gcs: Cloud) -> None:
    one, another = GcsStore(gcs.uri()), GcsStore(gcs.uri())
    one.create("a", b"1")
    assert another.size("a") is None


def test_a_folder_made_in_the_console_is_no_key(gcs: Cloud) -> None:
    store = GcsStore(gcs.uri())
    store.create("top/a", b"1")
    store._object("top/a").bucket.blob(f"{store.uri.rpartition('/')[2]}/top/").upload_from_string(b"")
    assert list(store.list("top")) == ["a"]
    assert list(store.walk("top")) == ["top/a"]


def test_a_store_travels_by_pickle_and_by_uri(gcs: Cloud) -> None:
    store = open_store(gcs.uri())
    store.create("a", b"1")
    assert pickle.loads(pickle.dumps(store)).read("a") == b"1"
    assert open_store(store.uri).read("a") == b"1"


def test_a_forked_process_speaks_for_itself(gcs: Cloud) -> None:
    store = GcsStore(gcs.uri())
    store.create("parent", b"1")
    process = multiprocessing.get_context("fork").Process(target=store.create, args=("child", b"2"))
    process.start()
    assert store.read("parent") == b"1"
    process.join(30)
    assert process.exitcode == 0
    assert store.read("child") == b"2"


def test_one_client_serves_all_stores_of_a_process(gcs: Cloud) -> None:
    one, another = GcsStore(gcs.uri()), GcsStore(gcs.uri())
    assert one._object("a").client is another._object("a").client


def test_opening_a_store_imports_nothing_of_google() -> None:
    code = "import sys; from quanttaas_jupyter.store import open_store; open_store('gs://bucket/x'); "
    code += "sys.exit(any(name.startswith('google') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_shards_of_data_arrive_in_order(gcs: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(shards, "SHARD_BYTES", 1)
    parts = tuple(batches.Batch([torch.full((2, 3), float(n))], [torch.tensor([n, n])]) for n in range(9))
    data = batches.Batches(parts, ("x",), None, None)
    store = open_store(gcs.uri())
    reference = shards.write_batches(store, data)
    assert len(reference["shards"]) == 9
    assert reference == shards.write_batches(open_store(tmp_path / "store"), data)
    found = shards.read_batches(store, reference)
    assert [float(batch.inputs[0][0, 0]) for batch in found.batches] == [float(number) for number in range(9)]


NAMES = st.lists(st.text("ab-.", min_size=1, max_size=4).filter(lambda name: name[0] in "ab"), max_size=12)


@given(NAMES, NAMES, st.integers(1, 4), st.text("ab-.", max_size=2))
def test_pages_in_googles_order_become_names_in_order(
    items: list[str], folders: list[str], size: int, after: str
) -> None:
    raw = sorted({f"top/{name}" for name in items} | {f"top/{name}/" for name in folders})
    raw = [name for name in raw if name >= f"top/{after}"]
    cut = [raw[start : start + size] for start in range(0, len(raw), size)]
    pages = [([n for n in page if n[-1] != "/"], [n for n in page if n[-1] == "/"]) for page in cut]
    found = list(google_store._ordered(iter(pages), "top/", after))
    assert found == sorted({name for name in (*items, *folders) if name > after})


def test_a_listing_fetches_no_page_before_it_is_needed() -> None:
    def pages() -> Iterator[tuple[list[str], list[str]]]:
        yield ["top/1", "top/2"], []
        raise AssertionError("nobody asked for this page")

    names = google_store._ordered(pages(), "top/", "")
    assert [next(names), next(names)] == ["1", "2"]


def test_a_listing_asks_only_for_names(store: GcsStore, proxy: FlakyProxy) -> None:
    store.create("top/a", b"1")
    proxy.reset()
    assert list(store.list("top")) == ["a"]
    assert dict(proxy.counts) == {("GET", "list"): 1}


def test_a_missing_key_is_no_missing_bucket(store: GcsStore, proxy: FlakyProxy) -> None:
    for _ in range(2):
        with pytest.raises(MissingKey):
            store.read("a")
    # The bucket is asked for once.
    assert proxy.counts["GET", "list"] == 1
