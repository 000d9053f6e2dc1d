"""One answer to "which trial?": the notebook, the panel, the list and the engine all ask here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from quanttaas_jupyter.core.frontier import best_trial, is_uncertain, pareto, recommended_trial
from quanttaas_jupyter.core.records.trial import TrialConfig
from quanttaas_jupyter.core.state import StudyState, TrialState

BASELINE = TrialConfig.baseline("onnxruntime")
INT8 = TrialConfig(None, "int8", "onnxruntime")


def trial(name: str, size: int, drop: float, status: str = "finished", **metrics: Any) -> TrialState:
    config = BASELINE if name == "baseline" else INT8
    return TrialState(name, config, status, {"size_bytes": size, "drop": drop, "metric": 0.9 - drop, **metrics})


def study(*trials: TrialState, **goal: Any) -> StudyState:
    given = {"minimize": "size", "max_drop": 0.01, **goal}
    return StudyState("7f3a", goal=given, trials={item.name: item for item in trials})


def named(found: TrialState | None) -> str | None:
    return found.name if found else None


def test_the_best_is_the_smallest_whose_drop_stays_within_the_goal() -> None:
    state = study(trial("baseline", 100, 0.0), trial("a", 40, 0.005), trial("b", 20, 0.02))
    assert named(best_trial(state)) == "a"
    assert named(best_trial(state, max_drop=0.05)) == "b"
    assert best_trial(state, max_drop=-1) is None


def test_the_goal_may_count_latency() -> None:
    state = study(trial("a", 40, 0.0, latency_ms=2.0), trial("b", 50, 0.0, latency_ms=1.0), minimize="latency")
    assert named(best_trial(state)) == "b"
    assert named(best_trial(state, minimize="size")) == "a"


def test_a_search_must_meet_the_goal_on_both_halves() -> None:
    state = study(trial("a", 40, 0.005, guide_drop=0.02), trial("b", 50, 0.005, guide_drop=0.001))
    assert named(best_trial(state)) == "b"


def test_a_failed_trial_is_neither_the_best_nor_on_the_frontier() -> None:
    state = study(trial("a", 10, 0.0, status="failed"), trial("b", 50, 0.0))
    assert named(best_trial(state)) == "b"
    assert [item.name for item in pareto(state.trials.values())] == ["b"]


def test_a_trial_without_its_latency_yet_counts_for_its_size() -> None:
    assert named(best_trial(study(trial("a", 10, 0.0, status="measured")))) == "a"


def test_a_baseline_is_never_recommended_and_without_a_goal_nothing_is() -> None:
    assert recommended_trial(study(trial("baseline", 100, 0.0), trial("a", 40, 0.5))) is None
    assert recommended_trial(StudyState("7f3a", trials={"a": trial("a", 40, 0.0)})) is None


def test_a_trial_is_uncertain_where_its_interval_crosses_the_goal_but_a_baseline_never_is() -> None:
    assert is_uncertain(trial("a", 40, 0.005, drop_high=0.02), 0.01)
    assert not is_uncertain(trial("a", 40, 0.005, drop_high=0.008), 0.01)
    assert not is_uncertain(trial("baseline", 40, 0.0, drop_high=0.02), 0.01)


def test_a_trial_that_is_still_being_evaluated_is_neither_the_best_nor_on_the_frontier() -> None:
    partial = replace(trial("a", 20, 0.0, "measured"), of_samples=400)
    state = study(trial("baseline", 100, 0.0), partial)
    assert named(best_trial(state)) == "baseline"
    assert [found.name for found in pareto(state.trials.values())] == ["baseline"]
    assert named(best_trial(study(trial("baseline", 100, 0.0), replace(partial, of_samples=None)))) == "a"
