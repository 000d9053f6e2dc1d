"""What a study recommends, in the words that its trials are shown in."""

from __future__ import annotations

from typing import Any

from quanttaas_jupyter.core.records.stage import StageResult
from quanttaas_jupyter.core.records.trial import Pruning, TrialConfig
from quanttaas_jupyter.core.state import TrialState
from quanttaas_jupyter.engine.report import recommendation, warnings_of

GOAL = {"minimize": "size", "max_drop": 0.01}
ACCURACY = {"name": "accuracy", "percent": True}
METRICS: dict[str, Any] = {
    "drop": 0.009,
    "drop_low": 0.003,
    "drop_high": 0.015,
    "size_ratio": 1 / 14.5,
    "speedup": 1.5,
}
CONFIG = TrialConfig(Pruning(amount=0.75), "int8", "onnxruntime")


def trial(**changes: Any) -> TrialState:
    return TrialState("prune75-int8", CONFIG, metrics={**METRICS, **changes})


def test_a_recommendation_says_what_to_take_what_it_saves_and_what_it_costs() -> None:
    said = recommendation(trial(drop_high=0.0095), GOAL, ACCURACY)
    assert said == ("Take prune75-int8: 14.5x smaller, 1.5x faster, accuracy drop +0.9 pt (95 %: +0.3 to +0.9)."), said


def test_an_interval_beyond_the_goal_is_said() -> None:
    said = recommendation(trial(), GOAL, ACCURACY)
    assert said.endswith("(95 %: +0.3 to +1.5); its interval reaches beyond the goal.")


def test_a_metric_that_is_no_share_keeps_its_own_unit() -> None:
    said = recommendation(trial(speedup=None), GOAL, {"name": "r2", "percent": False})
    assert said.startswith("Take prune75-int8: 14.5x smaller, r2 drop +0.009 (95 %: +0.003 to +0.015)")


def test_without_a_trial_that_meets_the_goal_it_says_so() -> None:
    baseline = TrialState("baseline", TrialConfig.baseline("onnxruntime"))
    assert "within 1 point of the baseline" in recommendation(None, GOAL, ACCURACY)
    assert recommendation(baseline, GOAL, ACCURACY) == (
        "Nothing beats the unchanged model within 1 point of its accuracy."
    )


def test_a_slower_trial_is_warned_of() -> None:
    stage = StageResult()
    assert warnings_of(stage, stage, {"speedup": 0.5}, CONFIG) == ["2.0x slower than the baseline on this machine"]
