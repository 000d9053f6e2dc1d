"""Data sets in shards: what is read from them, and what is held meanwhile."""

from __future__ import annotations

import gc
import json
import weakref
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quanttaas_jupyter.bundle import shards
from quanttaas_jupyter.bundle.batches import Batch, Batches, LazyBatches
from quanttaas_jupyter.bundle.shards import Spool, read_batches, write_batches
from quanttaas_jupyter.store.local import LocalStore


def data_of(sizes: list[int], width: int = 3) -> Batches:
    starts = [sum(sizes[:at]) for at in range(len(sizes))]
    batches = tuple(
        Batch(
            [torch.arange(start * width, (start + size) * width, dtype=torch.float32).reshape(size, width)],
            [torch.arange(start, start + size) % 3],
        )
        for start, size in zip(starts, sizes, strict=True)
    )
    return Batches(batches, ("x",), "tensor", "tensor")


def values(data: Batches) -> list[tuple[list[float], list[int]]]:
    return [(batch.inputs[0].flatten().tolist(), torch.as_tensor(batch.targets[0]).tolist()) for batch in data.batches]


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path / "store")


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(shards, "SHARD_BYTES", 100)


VIEWS = st.one_of(
    st.tuples(st.just("head"), st.integers(1, 40)),
    st.tuples(st.just("rebatched"), st.integers(1, 9)),
    st.tuples(st.sampled_from(["first part", "second part"]), st.floats(0.1, 0.9)),
)


def seen_through(data: Batches, views: list[tuple[str, Any]]) -> Batches:
    for kind, value in views:
        if not data.samples:
            break
        if kind == "head":
            data = data.head(value)
        elif kind == "rebatched":
            data = data.rebatched(value)
        else:
            data = data.split(value, 1000, seed=3)[kind == "second part"]
    return data


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(1, 7), min_size=1, max_size=6), views=st.lists(VIEWS, max_size=4))
def test_views_of_stored_batches_hold_what_views_of_batches_in_memory_hold(sizes, views, tmp_path_factory):
    store = LocalStore(tmp_path_factory.mktemp("store"))
    before = data_of(sizes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "SHARD_BYTES", 100)
        after = read_batches(store, write_batches(store, before))
    assert isinstance(after.batches, LazyBatches)

    mine, theirs = seen_through(after, views), seen_through(before, views)

    assert values(mine) == values(theirs)
    assert mine.outlines == theirs.outlines
    assert (mine.samples, mine.bytes, mine.is_uniform()) == (theirs.samples, theirs.bytes, theirs.is_uniform())


def test_a_spool_of_many_batches_lies_in_files_that_go_when_nobody_holds_its_batches(tmp_path, small_shards):
    data = data_of([5, 5, 5, 2])
    spool = Spool(tmp_path, data)
    for batch in data.batches:
        spool.add(batch)
    read = spool.batches()
    del spool
    assert values(read) == values(data)
    assert list(tmp_path.iterdir())
    part = read.head(3)
    del read
    assert values(part) == values(data.head(3))
    del part
    assert not list(tmp_path.iterdir())


def test_a_spool_of_few_batches_writes_no_file(tmp_path):
    data = data_of([5, 2])
    spool = Spool(tmp_path, data)
    for batch in data.batches:
        spool.add(batch)
    assert values(spool.batches()) == values(data)
    assert not list(tmp_path.iterdir())


def test_one_shard_at_a_time_is_open(store, small_shards, monkeypatch):
    data = read_batches(store, write_batches(store, data_of([6, 6, 6, 6])))
    opened = []

    def batch(shard: Any, at: int) -> Batch:
        opened.append(shard)
        return data_of([6]).batches[0]

    monkeypatch.setattr(shards._Shard, "batch", batch)
    batches = iter(data.batches)
    for _ in range(4):
        next(batches)
    marks = [weakref.ref(shard) for shard in opened]
    opened.clear()
    gc.collect()
    assert [mark() is None for mark in marks] == [True, True, True, False]


def test_references_of_before_that_say_no_sizes_are_read(store, small_shards):
    reference = write_batches(store, data_of([6, 6, 3]))
    old = {key: reference[key] for key in ("digest", "shards", "samples", "labelled")}
    assert values(read_batches(store, old)) == values(data_of([6, 6, 3]))


def test_the_digest_of_data_does_not_depend_on_whether_it_was_spooled(store, tmp_path, monkeypatch):
    data = data_of([6, 6, 6])
    whole = write_batches(store, data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "SHARD_BYTES", 100)
        spool = Spool(tmp_path / "spool", data)
        for batch in data.batches:
            spool.add(batch)
        spooled = spool.batches()
    assert write_batches(store, spooled) == whole


def test_a_list_of_one_tensor_a_sample_travels_through_shards(store, small_shards):
    targets = [torch.zeros(2, 4), torch.ones(0, 4), torch.ones(3, 4)]
    batch = Batch([torch.zeros(3, 5)], [targets])
    data = Batches((batch, batch), ("x",), "tensor", {"each": "tensor"})
    after = read_batches(store, json.loads(json.dumps(write_batches(store, data))))
    assert [leaf.shape for leaf in after.batches[1].targets[0]] == [leaf.shape for leaf in targets]
    assert after.is_sliceable()
