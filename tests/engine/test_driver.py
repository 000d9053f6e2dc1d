"""A search in the driver: proposals, early cuts, and going on after a stop."""

from pathlib import Path

import pytest

from quanttaas_jupyter.study_store import records
from tests.engine.inline import WatchedStore, drive, resume
from tests.measured import number
from tests.networks import Digits

RECIPE = {"search": "auto", "recover": {"method": "distill", "epochs": 2}, "budget": {"trials": 8}}


@pytest.mark.slow
def test_a_search_ends_with_a_recommendation_that_holds_on_both_halves(digits: Digits, tmp_path: Path) -> None:
    state, record, _ = drive(tmp_path, digits.model, digits.test, RECIPE, train=digits.train)
    assert state.status == "finished"
    assert len(state.trials) == 8
    assert {"prune", "quantize@onnxruntime"} == set(state.sensitivity)
    assert all(trial.metrics["guide_drop"] is not None for trial in state.trials.values() if trial.metrics)
    recommended = state.trials[state.recommendation.removeprefix("Take ").partition(":")[0]]
    assert number(recommended, "drop") <= 0.01
    assert number(recommended, "guide_drop") <= 0.01
    assert number(recommended, "size_ratio") < 0.4
    events = list(records.read_events(WatchedStore(tmp_path), record.id))
    proposed = [event["trial"] for event in events if event["type"] == "trial_proposed"]
    assert [name for name in state.trials if name != "baseline"] == proposed


@pytest.mark.slow
def test_a_finished_search_that_is_resumed_runs_no_stage_and_proposes_nothing(digits: Digits, tmp_path: Path) -> None:
    first, record, _ = drive(tmp_path, digits.model, digits.test, RECIPE, train=digits.train)
    again, _, executor = resume(WatchedStore(tmp_path), record)
    assert executor.kinds == []
    assert list(again.trials) == list(first.trials)
    assert again.recommendation == first.recommendation


@pytest.mark.slow
def test_the_same_search_in_a_new_study_runs_no_stage(digits: Digits, tmp_path: Path) -> None:
    first, _, _ = drive(tmp_path, digits.model, digits.test, RECIPE, train=digits.train)
    second, _, executor = drive(tmp_path, digits.model, digits.test, RECIPE, train=digits.train)
    assert executor.kinds == []
    assert list(second.trials) == list(first.trials)
