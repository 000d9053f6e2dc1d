"""No sample that judges is read by a stage that decides anything."""

from pathlib import Path

import pytest
import torch

from quanttaas_jupyter.bundle.shards import read_batches
from quanttaas_jupyter.core.records.study import StudyRecord
from tests.engine.inline import InlineExecutor, WatchedStore, drive
from tests.networks import Digits

JUDGES = {"preview", "evaluate on eval"}


def shards(record: StudyRecord, name: str) -> set[str]:
    return set(record.data[name]["shards"])


def readers(executor: InlineExecutor, blobs: set[str]) -> set[str]:
    return {kind for kind, reads in executor.reads.items() if reads & blobs}


@pytest.mark.slow
def test_in_a_search_judged_samples_are_read_by_judging_stages_only(digits: Digits, tmp_path: Path) -> None:
    recipe = {"search": "auto", "recover": {"method": "distill", "epochs": 2}, "budget": {"trials": 9}}
    state, record, executor = drive(tmp_path, digits.model, digits.test, recipe, train=digits.train)
    assert state.status == "finished"
    assert {"prune", "screen", "recover", "export", "quantize", "sensitivity", "latency"} <= set(executor.kinds)
    assert readers(executor, shards(record, "eval")) == JUDGES
    assert readers(executor, shards(record, "guide")) == {"evaluate on guide", "screen"}


@pytest.mark.slow
def test_in_a_grid_judged_samples_are_read_by_judging_stages_only(digits: Digits, tmp_path: Path) -> None:
    recipe = {
        "prune": [0, {"amount": 0.5, "spread": 1.0}],
        "quantize": ["none", "int8", "mixed"],
        "recover": {"method": "qat", "epochs": 1},
    }
    state, record, executor = drive(tmp_path, digits.model, digits.test, recipe, train=digits.train)
    assert state.status == "finished"
    assert not [trial.error for trial in state.trials.values() if trial.error]
    assert readers(executor, shards(record, "eval")) == JUDGES


def test_guide_judge_and_calibration_share_no_sample(digits: Digits, tmp_path: Path) -> None:
    inputs = torch.randn(120, 1, 8, 8)
    data = (inputs, torch.randint(0, 10, (120,)))
    recipe = {"search": "auto", "prune": [0], "quantize": ["int8"], "budget": {"trials": 2}}
    _, record, _ = drive(tmp_path, digits.model, data, recipe)
    store = WatchedStore(tmp_path)
    found = {name: read_batches(store, reference).joined().inputs[0] for name, reference in record.data.items()}
    assert set(found) == {"eval", "guide", "calibration"}
    rows = [tuple(row.flatten().tolist()) for part in found.values() for row in part]
    assert len(rows) == len(set(rows)) == 120
    assert abs(len(found["eval"]) - len(found["guide"])) <= 1
