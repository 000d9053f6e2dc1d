"""Records of studies, stages and trials: what is stored stays as it was, and is read whatever else it holds."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quanttaas_jupyter.core.recipe import Prune
from quanttaas_jupyter.core.records.artifact import Artifact
from quanttaas_jupyter.core.records.stage import StageResult
from quanttaas_jupyter.core.records.study import StudyRecord
from quanttaas_jupyter.core.records.summary import StudySummary
from quanttaas_jupyter.core.records.trial import Pruning, TrialConfig

PRUNE = {"method": "structured", "amount": 0.5, "importance": "auto", "scope": "global", "spread": 0.25}
SHA = "ab" * 32
ABOUT = {"inputs": "tensor", "input_names": ["x"], "outputs": "tensor"}
FIXED = {"fixed_batch": 1, "why_fixed": "the file takes one sample at a time"}
BUILT_FROM = {"modules": {"fc": "Linear"}, "weights": {"linear": 64}}
JUDGING = {
    "task": "classification",
    "output": "",
    "output_dim": 0,
    "target_dim": 0,
    "class_dim": 1,
    "classes": 10,
    "scores": "logits",
    "labels": "ids",
    "ignore_label": None,
    "is_shifted": False,
    "is_cut": True,
}
UNDERSTANDING = {
    "judging": JUDGING,
    "inputs": ["x"],
    "targets": ["y"],
    "unused": [],
    "left_out": [],
    "batch_dim": 0,
    "metric": "accuracy",
    "higher_is_better": True,
    "notes": ["a note"],
}
STUDY: dict[str, Any] = {
    "format": 1,
    "id": "abcd1234",
    "name": "net",
    "created": 1.5,
    "who": "me",
    "cluster": "local",
    "versions": {"python": "3.11.7"},
    "recipe": {"prune": [PRUNE], "goal": {"minimize": "size", "max_drop": 0.01}},
    "model": {"class": "Net", "params": 64, "bytes": 256, "digest": "d", "blob": SHA},
    "metric": {"name": "accuracy", "kind": "built-in", "higher_is_better": True, "digest": "m"},
    "understanding": UNDERSTANDING,
    "notes": ["a note"],
    "postprocess": {"name": "mine", "digest": "p", "blob": SHA},
    "recover": {"name": "heal", "digest": "r", "blob": SHA},
    "data": {"eval": {"digest": "e", "shards": [SHA], "samples": 9, "labelled": True}},
}
CONFIGS: list[dict[str, Any]] = [
    {"prune": None, "quantize": "none", "runtime": "onnxruntime"},
    {"prune": PRUNE, "quantize": "int8", "runtime": "torch"},
    {"prune": PRUNE, "quantize": "int8", "runtime": "torch", "recover": "qat", "effort": 3.0},
    {"prune": None, "quantize": "mixed", "runtime": "openvino", "keep": 0},
]
STAGES: list[dict[str, Any]] = [
    {
        "blobs": {"model": SHA},
        "facts": {"pruned_share": 0.5},
        "warnings": ["a warning"],
        "choices": {"importance": "taylor"},
        "began": 1.5,
        "seconds": 2.5,
    },
    {
        "blobs": {"artifact": SHA},
        "facts": {"size_bytes": 9},
        "warnings": [],
        "choices": {},
        "kept": ["fc"],
        "suffix": ".onnx",
        "about": {**ABOUT, **FIXED, **BUILT_FROM},
        "began": 1.5,
        "seconds": 2.5,
    },
    {"blobs": {}, "facts": {}, "warnings": [], "choices": {}, "ranking": [["fc", 9.5]], "began": 1.5, "seconds": 2.5},
    {"blobs": {}, "facts": {}, "warnings": [], "choices": {}, "ranking": [], "began": 1.5, "seconds": 2.5},
    {
        "blobs": {"outputs0": SHA},
        "facts": {"metric": 0.9},
        "warnings": [],
        "choices": {},
        "outputs": {"digest": "o", "shards": [SHA]},
        "began": 1.5,
        "seconds": 2.5,
    },
]
ARTIFACT = {
    "blob": SHA,
    "size": 9,
    "filename": "int8.onnx",
    "runtime": "onnxruntime",
    "kept": ["fc"],
    "choices": {"calibrator": "minmax"},
    "about": ABOUT,
}
SUMMARY: dict[str, Any] = {
    "id": "abcd1234",
    "name": "net",
    "created": 1.5,
    "cluster": "local",
    "model": "Net",
    "status": "finished",
    "seq": 7,
    "total": 3,
    "done": 2,
    "failed": 1,
    "cut": 0,
    "best": "Take int8",
    "ended": 9.5,
    "reason": "",
    "metric": {"name": "accuracy", "higher_is_better": True},
    "minimize": "size",
    "recommended": {"trial": "int8", "size_ratio": 0.25, "speedup": None},
    "frontier": [[9.0, 0.9], [36.0, 0.95]],
}


@pytest.mark.parametrize(
    ("record", "stored"),
    [
        (StudyRecord, STUDY),
        (StudySummary, SUMMARY),
        (StudySummary, {**SUMMARY, "ended": None, "recommended": None, "frontier": []}),
        (Artifact, ARTIFACT),
        *((TrialConfig, config) for config in CONFIGS),
        *((StageResult, stage) for stage in STAGES),
    ],
)
class TestStored:
    def test_what_is_read_is_written_as_it_was(self, record: Any, stored: dict[str, Any]) -> None:
        assert json.dumps(record.of(stored).stored()) == json.dumps(stored)

    def test_what_a_newer_version_adds_is_ignored(self, record: Any, stored: dict[str, Any]) -> None:
        assert record.of({**stored, "newer": {"than": "this"}}) == record.of(stored)


def test_a_study_of_an_earlier_version_lacks_what_came_later() -> None:
    later = ("format", "versions", "understanding", "postprocess", "recover")
    record = StudyRecord.of({key: value for key, value in STUDY.items() if key not in later})
    assert (record.understanding, record.postprocess, record.recover) == (None, None, None)
    assert record.goal == {"minimize": "size", "max_drop": 0.01}
    assert not {"understanding", "postprocess", "recover"} & record.stored().keys()


def test_an_event_that_says_nothing_of_a_configuration_says_not_that_it_is_the_baseline() -> None:
    assert not TrialConfig.of({}).is_baseline


def test_the_baseline_is_the_configuration_that_changes_nothing() -> None:
    assert TrialConfig.of({"prune": None, "quantize": "none", "runtime": "torch"}) == TrialConfig.baseline("torch")
    assert TrialConfig.baseline("torch").is_baseline
    assert not TrialConfig(Pruning(amount=0.5), "none", "torch").is_baseline
    assert not TrialConfig(None, "int8", "torch").is_baseline


def test_configurations_are_equal_by_what_they_do() -> None:
    spelled_out = {"prune": None, "quantize": "int8", "runtime": "torch", "effort": 1.0, "keep": None}
    assert TrialConfig.of(spelled_out) == TrialConfig(None, "int8", "torch")
    assert len({TrialConfig.of(config) for config in (*CONFIGS, *CONFIGS, spelled_out)}) == len(CONFIGS) + 1


configs = st.builds(
    TrialConfig,
    st.none() | st.builds(Pruning, st.sampled_from(["structured", "new"]), st.floats(0.01, 0.99)),
    st.sampled_from(["none", "int8", "new"]),
    st.sampled_from(["torch", "new"]),
    st.sampled_from(["", "qat"]),
    st.sampled_from([1.0, 3.0]),
    st.none() | st.integers(0, 9),
)


@given(configs)
def test_every_configuration_comes_back_from_json(config: TrialConfig) -> None:
    assert TrialConfig.of(json.loads(json.dumps(config.stored()))) == config


@pytest.mark.parametrize(
    ("method", "amount", "name"),
    [
        ("structured", 0.5, "prune50"),
        ("structured", 0.29, "prune29"),
        ("structured", 0.125, "prune12.5"),
        ("unstructured", 0.8, "unstructured80"),
        ("2:4", 0.5, "2:4"),
        ("2:4-modelopt", 0.5, "2:4-modelopt"),
    ],
)
def test_a_pruning_names_its_trials(method: str, amount: float, name: str) -> None:
    pruning = Prune(method=method, amount=amount).pruning
    assert pruning is not None
    assert pruning.name == name


def test_a_pruning_of_nothing_is_none() -> None:
    assert Prune(amount=0.0).pruning is None
