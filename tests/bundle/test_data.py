import gc
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, SubsetRandomSampler, TensorDataset

from quanttaas_jupyter.bundle.batches import Batches, stratified
from quanttaas_jupyter.bundle.data import open_source
from quanttaas_jupyter.bundle.shards import read_batches, write_batches
from quanttaas_jupyter.core.errors import DataError
from quanttaas_jupyter.store.local import LocalStore

X = torch.arange(40, dtype=torch.float32).reshape(20, 2)
Y = torch.arange(20)


class Noisy(Dataset):
    """A data set with random augmentation."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.fails_at = fails_at

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if index == self.fails_at:
            raise OSError("no such picture")
        noise = random.random() + np.random.rand() + float(torch.rand(1))
        return X[index] + noise, index


class Stream(IterableDataset):
    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return iter(zip(X, Y, strict=True))


def read(given: Any, max_samples: int = 10_000) -> Batches:
    return open_source(given, "--data", max_samples, seed=0).read()


def targets_of(batches: Batches) -> torch.Tensor:
    """The targets of all samples, which are one tensor."""
    (targets,) = batches.joined().targets
    assert isinstance(targets, torch.Tensor)
    return targets


@pytest.mark.parametrize(
    "given",
    [
        (X, Y),
        (X.numpy(), Y.numpy()),
        TensorDataset(X, Y),
        DataLoader(TensorDataset(X, Y), batch_size=8),
        DataLoader(TensorDataset(X, Y), batch_size=8, shuffle=True, drop_last=True),
        [(X[:15], Y[:15]), (X[15:], Y[15:])],
        Stream(),
        DataLoader(Stream(), batch_size=4),
    ],
)
def test_every_kind_of_data_gives_all_samples_in_order(given: Any) -> None:
    whole = read(given)
    assert torch.equal(whole.joined().inputs[0], X)
    assert torch.equal(targets_of(whole), Y)


def test_dicts_tuples_and_label_keys_are_understood() -> None:
    by_key = read([{"ids": X, "mask": X > 0, "labels": Y}])
    assert by_key.names == ("ids", "mask")
    assert by_key.inputs == {"dict": {"ids": "tensor", "mask": "tensor"}}
    several = read((X, X * 2, Y))
    assert several.inputs == ["tuple", "tensor", "tensor"]
    unlabelled = read((X,))
    assert not unlabelled.has_targets


def test_a_shuffled_loader_gives_the_same_digest_every_time(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    loader = DataLoader(Noisy(), batch_size=8, shuffle=True)
    assert write_batches(store, read(loader))["digest"] == write_batches(store, read(loader))["digest"]


class Collecting(Dataset):
    """Collects garbage; its targets are the number of the process that reads it."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        gc.collect()
        return X[index], os.getpid()


class CollectingStream(IterableDataset):
    def __iter__(self) -> Iterator[tuple[torch.Tensor, int]]:
        return iter([Collecting()[0]])


class Native:
    """As a session of a native library, it must not be finalized in a fork."""

    def __init__(self) -> None:
        self.home = os.getpid()
        self.itself = self

    def __del__(self) -> None:
        if os.getpid() != self.home:
            os._exit(1)


@pytest.mark.skipif(sys.platform != "linux", reason="data is read in a forked worker on Linux")
@pytest.mark.parametrize("loader", [DataLoader(Collecting()), DataLoader(CollectingStream(), num_workers=1)])
def test_what_the_notebook_left_for_collection_is_not_finalized_in_a_worker(loader: DataLoader) -> None:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        Native()
        readers = targets_of(read(loader))
    finally:
        gc.collect()
        if was_enabled:
            gc.enable()
    assert os.getpid() not in readers.tolist()


@pytest.mark.parametrize("given", [Noisy(), [(X + random.random(), Y)], DataLoader(Noisy(), batch_size=4)])
def test_reading_leaves_the_random_states_alone(given: Any) -> None:
    states = random.getstate(), np.random.get_state(legacy=False)["state"]["key"].tolist(), torch.get_rng_state()
    read(given)
    assert random.getstate() == states[0]
    assert np.random.get_state(legacy=False)["state"]["key"].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_a_sampler_of_a_subset_is_respected_in_index_order() -> None:
    loader = DataLoader(TensorDataset(X, Y), batch_size=3, sampler=SubsetRandomSampler([7, 3, 11, 5]))
    assert targets_of(read(loader)).tolist() == [3, 5, 7, 11]


def test_no_more_than_max_samples_are_read_and_the_choice_is_seeded() -> None:
    chosen = [targets_of(read((X, Y), max_samples=7)).tolist() for _ in range(2)]
    assert chosen[0] == chosen[1]
    assert len(chosen[0]) == 7
    assert read(iter([(X, Y), (X, Y)]), max_samples=7).samples == 7


def test_changes_after_opening_do_not_show() -> None:
    x = X.clone()
    source = open_source(TensorDataset(x, Y), "--data", 100, 0)
    x.zero_()
    assert torch.equal(source.read().joined().inputs[0], X)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "--data is empty"),
        (TensorDataset(X[:0], Y[:0]), "--data is empty"),
        ((X[:0], Y[:0]), "--data is empty"),
        (3, "--data is a int"),
        ("words", "--data is a str"),
        ([(["some", "text"], Y)], "tokenise text"),
        ((X, Y[:3]), "different numbers of samples"),
        ([(X, Y), {"x": X}], "nested unlike the first batch"),
        (Noisy(fails_at=0), "cannot be read at batch 0: OSError: no such picture"),
    ],
)
def test_bad_data_is_one_sentence(given: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read(given)


def test_batches_survive_the_store(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    before = read([{"ids": X[:n], "mask": X[:n] > 0, "labels": Y[:n]} for n in (3, 2)])
    after = read_batches(store, write_batches(store, before))
    assert after.inputs == before.inputs
    assert after.names == before.names
    for mine, theirs in zip(after.batches, before.batches, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine.inputs, theirs.inputs, strict=True))
    assert torch.equal(targets_of(after), targets_of(before))


def test_a_split_is_disjoint_and_complete() -> None:
    rest, part = read((X, Y)).split(0.25, limit=100, seed=0)
    assert part.samples == 5
    assert sorted(targets_of(rest).tolist() + targets_of(part).tolist()) == list(range(20))


def test_batches_of_different_lengths_stay_apart() -> None:
    ragged = read([(torch.zeros(2, 3), torch.zeros(2)), (torch.zeros(2, 5), torch.zeros(2))])
    assert not ragged.is_uniform()
    assert ragged.rebatched(64) is ragged
    assert ragged.head(3).samples == 3


class Ready(Dataset):
    """A data set whose items are batches."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return X[5 * index : 5 * index + 5], Y[5 * index : 5 * index + 5]


def test_a_loader_without_batch_size_hands_out_whole_batches() -> None:
    whole = read(DataLoader(Ready(), batch_size=None))
    assert torch.equal(whole.joined().inputs[0], X)
    assert torch.equal(targets_of(whole), Y)


@given(
    classes=st.lists(st.integers(0, 4), min_size=1, max_size=60),
    share=st.floats(0, 1),
)
def test_a_stratified_sample_keeps_the_share_of_every_class(classes: list[int], share: float) -> None:
    labels = torch.tensor(classes)
    count = max(1, int(len(classes) * share))
    chosen = stratified(labels, count)
    assert len(set(chosen.tolist())) == count
    for label in set(classes):
        wanted = classes.count(label) * count / len(classes)
        assert abs(int((labels[chosen] == label).sum()) - wanted) <= 1


def test_splitting_keeps_the_shares_of_classes() -> None:
    labels = torch.tensor([0] * 90 + [1] * 10)
    whole = open_source((torch.arange(100.0).reshape(-1, 1), labels), "--data", 1000, 0).read()
    rest, part = whole.split(0.5, 100, seed=1)
    counts = [int((targets_of(side) == 1).sum()) for side in (rest, part)]
    assert counts == [5, 5]


class Listed(Dataset):
    """A data set that keeps its labels in ``targets``, as those of torchvision do."""

    def __init__(self) -> None:
        self.targets = [0] * 90 + [1] * 10

    def __len__(self) -> int:
        return 100

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.tensor([float(index)]), self.targets[index]


@pytest.mark.parametrize(
    "given_data",
    [
        (torch.arange(100.0).reshape(-1, 1), torch.tensor([0] * 90 + [1] * 10)),
        TensorDataset(torch.arange(100.0).reshape(-1, 1), torch.tensor([0] * 90 + [1] * 10)),
        Listed(),
        DataLoader(Listed(), batch_size=7, shuffle=True),
        Subset(Listed(), list(range(100))),
    ],
    ids=["arrays", "tensors", "targets", "loader", "subset"],
)
def test_a_sample_of_many_keeps_the_shares_of_classes_and_is_the_same_every_time(given_data: Any) -> None:
    first, again, other = (open_source(given_data, "--data", 20, seed).read() for seed in (0, 0, 1))
    assert sorted(targets_of(first).tolist()) == [0] * 18 + [1] * 2
    assert torch.equal(first.joined().inputs[0], again.joined().inputs[0])
    assert not torch.equal(first.joined().inputs[0], other.joined().inputs[0])


def sorted_batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    classes = torch.arange(4).repeat_interleave(25)
    rows = torch.arange(100, dtype=torch.float32)[:, None]
    return [(rows[start : start + 20], classes[start : start + 20]) for start in range(0, 100, 20)]


@pytest.mark.parametrize("as_given", [list, tuple])
def test_of_a_long_list_of_sorted_batches_every_class_keeps_its_share(as_given: type) -> None:
    found = read(as_given(sorted_batches()), max_samples=40)
    whole = found.joined()
    assert targets_of(found).bincount().tolist() == [10, 10, 10, 10]
    assert whole.inputs[0].flatten().tolist() == sorted(set(whole.inputs[0].flatten().tolist()))
    assert torch.equal(whole.inputs[0].flatten().long() // 25, targets_of(found))
    again = read(as_given(sorted_batches()), max_samples=40).joined()
    assert torch.equal(whole.inputs[0], again.inputs[0])


def test_of_a_long_list_of_batches_that_differ_in_length_whole_ones_are_drawn() -> None:
    given = [(torch.full((4, 3 + index % 5), float(index)), torch.full((4,), index)) for index in range(30)]
    found = read(given, max_samples=40)
    assert [batch.samples for batch in found.batches] == [4] * 10
    drawn = [int(batch.targets[0][0]) for batch in found.batches]
    assert drawn == sorted(drawn)
    assert drawn != list(range(10))


def test_of_a_stream_the_first_samples_are_taken_and_a_note_says_so() -> None:
    source = open_source(iter(sorted_batches()), "--data", 40, 0)
    assert source.read().joined().inputs[0].flatten().tolist() == list(range(40))
    assert source.note == "--data is a stream of which the first 40 samples were taken (max_samples)"
    for data_ in (iter(sorted_batches()), sorted_batches()):
        whole = open_source(data_, "--data", 100, 0)
        assert whole.read().samples == 100
        assert whole.note == ""
