"""Studies and trials in plain text: the same words as in the notebook and the panel."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from quanttaas_jupyter.core.records.trial import TrialConfig
from quanttaas_jupyter.core.state import StudyState, TrialState
from quanttaas_jupyter.views.text import study_text, trial_line

METRICS: dict[str, Any] = {
    "metric": 0.9893,
    "metric_low": 0.976,
    "metric_high": 0.995,
    "size_bytes": 12_345_678,
    "size_ratio": 0.145,
    "latency_ms": 2.414,
    "speedup": 0.5,
}


def trial(quantize: str = "int8", **changes: Any) -> TrialState:
    config = TrialConfig(None, quantize, "onnxruntime")
    return TrialState("int8", config, status="finished", metrics={**METRICS, **changes})


def state(*trials: TrialState, percent: bool = True) -> StudyState:
    metric = {"name": "accuracy", "percent": percent}
    return StudyState("7f3a", name="digits", metric=metric, trials={item.name: item for item in trials})


def test_a_file_of_twelve_megabytes_is_told_in_megabytes() -> None:
    line = trial_line(trial(), state())
    assert line == "int8: accuracy 98.9 %, 12.3 MB, 6.9x smaller, 2.41 ms, 2.0x slower"


def test_a_metric_that_is_no_share_has_three_decimals() -> None:
    assert "accuracy 0.989, " in trial_line(trial(), state(percent=False))


def test_a_baseline_is_compared_with_nothing() -> None:
    assert trial_line(trial("none"), state()) == "int8: accuracy 98.9 %, 12.3 MB, 2.41 ms"


def test_a_trial_without_latency_has_a_line_without_it() -> None:
    assert trial_line(trial(latency_ms=None, speedup=None), state()) == "int8: accuracy 98.9 %, 12.3 MB, 6.9x smaller"


def test_a_study_is_a_header_and_a_line_a_trial() -> None:
    head, line, read = study_text(state(trial()), read_at=1e9).splitlines()
    assert head == "Study 7f3a (digits): queued, 1 of 1 trials"
    assert line.startswith("  int8: accuracy")
    assert read.startswith("as of ")


def test_a_study_that_was_not_read_says_so_and_an_ended_one_needs_no_time() -> None:
    assert study_text(state(), read_at=None) == (
        "Study 7f3a (digits): not read from the store yet; study.state reads it"
    )
    assert (
        study_text(replace(state(), status="finished"), read_at=1e9) == "Study 7f3a (digits): finished, 0 of 0 trials"
    )
