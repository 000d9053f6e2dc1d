"""What studies share: results of stages, pickles of models and proposals of searches, each under a key."""

from __future__ import annotations

from pathlib import Path

import pytest

from quanttaas_jupyter.core.records.stage import StageResult
from quanttaas_jupyter.core.records.trial import Pruning, TrialConfig
from quanttaas_jupyter.store import blobs
from quanttaas_jupyter.store.local import LocalStore
from quanttaas_jupyter.study_store import stage_cache


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


def test_a_result_is_found_while_its_blobs_are_there(store: LocalStore) -> None:
    sha = blobs.put_bytes(store, b"a model")
    result = StageResult(blobs={"model": sha}, measurements={"pruned_share": 0.5}, began=1.0, seconds=2.0)
    stage_cache.keep(store, "key", result)
    assert stage_cache.find(store, "key") == result
    assert stage_cache.find_all(store, ["key", "other", "key"]) == {"key": result, "other": None}
    store.delete(f"blobs/{sha}")
    assert stage_cache.find(store, "key") is None


def test_the_pickle_of_a_model_is_found_by_its_key(store: LocalStore) -> None:
    sha = blobs.put_bytes(store, b"a pickle")
    stage_cache.keep_model(store, "key", sha)
    assert store.read("cache/key.json").startswith(f'{{"blobs":{{"model":"{sha}"}},"signature":'.encode())
    assert stage_cache.find_model(store, "key") == sha
    assert stage_cache.find_model(store, "other") is None


def test_proposals_are_found_in_their_order(store: LocalStore) -> None:
    proposals = [TrialConfig.baseline("torch"), TrialConfig(Pruning(amount=0.5), "int8", "torch", "qat", 3.0)]
    stage_cache.keep_proposals(store, "key", proposals)
    assert stage_cache.find_proposals(store, "key") == proposals
    assert stage_cache.find_proposals(store, "other") is None


@pytest.mark.parametrize("entry", [b"", b"{"])
def test_what_cannot_be_read_is_a_miss(store: LocalStore, entry: bytes) -> None:
    store.replace("cache/key.json", entry)
    assert stage_cache.find(store, "key") is None
