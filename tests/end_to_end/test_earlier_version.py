"""A study that an earlier version wrote opens and shows what was measured; it is not measured on."""

import dataclasses
import json
from pathlib import Path

import pytest

import quanttaas_jupyter as qt
from quanttaas_jupyter.core.records.study import StudyRecord
from quanttaas_jupyter.core.records.trial import TrialConfig
from quanttaas_jupyter.notebook import still_view
from quanttaas_jupyter.planning.plan import Planner
from quanttaas_jupyter.study_store import records
from tests.engine.inline import WatchedStore, drive, resume
from tests.measured import number
from tests.networks import Mlp, regression_data

RECIPE = {"prune": [0], "quantize": ["none", "int8"], "latency": {"threads": 1}}


@pytest.fixture
def earlier(tmp_path: Path) -> tuple[Path, StudyRecord]:
    """A finished study whose record says nothing of how outputs were compared, as before that was recorded."""
    _, record, _ = drive(tmp_path, Mlp().eval(), regression_data(), RECIPE)
    before = dataclasses.replace(record, understanding=None)
    (tmp_path / "studies" / record.id / "study.json").write_text(json.dumps({**before.stored(), "class_dim": None}))
    return tmp_path, records.read_study(WatchedStore(tmp_path), record.id)


def test_it_opens_with_its_numbers(earlier: tuple[Path, StudyRecord]) -> None:
    root, record = earlier
    study = qt.open(record.id, store=root)
    assert study.status == "finished"
    assert study.understanding is None
    assert number(study["int8"], "size_ratio") < 1
    assert len(study.frame()) == 2
    assert "int8" in still_view.html(study.state)


def test_its_stages_miss_the_cache_and_it_asks_to_be_submitted_again(earlier: tuple[Path, StudyRecord]) -> None:
    root, record = earlier
    store = WatchedStore(root)
    with pytest.raises(qt.QuantTaaSError, match="submitted by an earlier version.*submit it again"):
        Planner(record).add(TrialConfig(None, "int8", "onnxruntime"))
    state, _, executor = resume(store, record)
    assert state.status == "failed"
    assert "submit it again" in state.error
    assert executor.ran == []
    assert state.trials["int8"].metrics["metric"] is not None
