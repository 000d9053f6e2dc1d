from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quanttaas_jupyter.core.device import Device
from quanttaas_jupyter.core.errors import RecipeError
from quanttaas_jupyter.core.recipe import Recipe
from quanttaas_jupyter.core.records.study import StudyRecord
from quanttaas_jupyter.core.records.trial import TrialConfig
from quanttaas_jupyter.core.understanding import Judging, Understanding
from quanttaas_jupyter.planning.plan import Planner
from quanttaas_jupyter.planning.search import first_plan as make_plan

GRID = {"search": "grid"}


JUDGING = Judging("classification", class_dim=1, classes=10, scores="logits", labels="ids")


def record(recipe: dict[str, Any], **changes: Any) -> StudyRecord:
    reference = {"digest": "d", "shards": ["s"], "samples": 10, "labelled": True}
    given = {
        "id": "abcd1234",
        "name": "net",
        "created": 1.0,
        "cluster": "local",
        "recipe": Recipe.parse(recipe).model_dump(mode="json"),
        "model": {"digest": "m", "blob": "b", "class": "Net"},
        "metric": {"kind": "built-in", "name": "accuracy", "digest": "accuracy", "higher_is_better": True},
        "data": {"eval": reference, "calibration": {**reference, "digest": "c"}},
        "understanding": Understanding(JUDGING),
    }
    return StudyRecord(**{**given, **changes})


def names(recipe: dict[str, Any]) -> list[str]:
    return list(make_plan(record(recipe)).trials)


def test_trials_are_named_by_their_configuration_and_the_baseline_is_first() -> None:
    recipe = {"prune": [0.5, 0], "quantize": ["int8", "none"]}
    assert names(recipe) == ["baseline", "prune50-int8", "prune50", "int8"]
    assert names({"prune": {"method": "unstructured", "amount": 0.8}, "quantize": "fp16"}) == [
        "baseline",
        "unstructured80-fp16",
    ]


def test_a_budget_of_trials_keeps_the_baseline() -> None:
    assert names({**GRID, "budget": {"trials": 2}}) == ["baseline", "fp16"]
    assert names({"prune": [0.5], "quantize": ["int8"], "budget": {"trials": 1}}) == ["baseline"]


@pytest.mark.parametrize("quantization", ["int8", "mixed"])
def test_layers_that_stay_precise_are_handed_to_a_quantization_that_keeps_them(quantization: str) -> None:
    planner = Planner(record({"quantize": [quantization]}))
    planner.add(TrialConfig.baseline("onnxruntime"))
    trial = planner.add(TrialConfig(None, quantization, "onnxruntime", keep=3))
    stage = planner.plan.stages[trial.build]
    assert stage.settings["keep"] == 3
    assert "ranking" in stage.inputs


@pytest.mark.parametrize(("quantization", "runtime"), [("fp16", "onnxruntime"), ("int8-weight", "torch")])
def test_a_quantization_that_keeps_no_layers_is_not_asked_to(quantization: str, runtime: str) -> None:
    planner = Planner(record({"quantize": [quantization], "runtime": [runtime]}))
    planner.add(TrialConfig.baseline(runtime))
    with pytest.raises(RecipeError, match=f"{quantization} on {runtime} keeps no layers in higher precision"):
        planner.add(TrialConfig(None, quantization, runtime, keep=3))
    assert planner.add(TrialConfig(None, quantization, runtime, keep=0)).build


def test_trials_share_stages() -> None:
    plan = make_plan(record({"prune": [0, 0.3, 0.5], "quantize": ["none", "fp16", "int8"]}))
    kinds = [stage.kind for stage in plan.stages.values()]
    assert len(plan.trials) == 9
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "preview": 1,
        "prune": 2,
        "recover": 2,
        "export": 3,
        "quantize": 6,
        "evaluate": 9,
        "latency": 9,
    }


def test_measurements_run_apart_from_builds_and_timing_runs_alone() -> None:
    plan = make_plan(record(GRID))
    for stage in plan.stages.values():
        assert stage.is_measurement == (stage.kind in ("preview", "evaluate", "latency"))
        assert stage.is_exclusive == (stage.kind == "latency")


def test_keys_depend_on_content_and_not_on_where_bytes_lie() -> None:
    first = make_plan(record(GRID))
    moved = make_plan(record(GRID, model={"digest": "m", "blob": "another pickle", "class": "Net"}))
    assert set(first.stages) == set(moved.stages)
    retrained = make_plan(record(GRID, model={"digest": "m2", "blob": "b", "class": "Net"}))
    assert not set(first.stages) & set(retrained.stages)


def test_another_metric_measures_again_but_builds_nothing_again() -> None:
    first = make_plan(record(GRID))
    metric = {"kind": "built-in", "name": "agreement", "digest": "agreement", "higher_is_better": True}
    other = make_plan(record(GRID, metric=metric))
    shared = {first.stages[key].kind for key in set(first.stages) & set(other.stages)}
    assert shared == {"prune", "recover", "export", "quantize", "latency"}


@pytest.mark.parametrize(
    ("runtime", "quantizations"),
    [("onnxruntime", ("int8", "int8-dynamic", "mixed")), ("openvino", ("int8", "mixed"))],
)
def test_on_another_kind_of_processor_only_what_its_sums_decide_is_made_and_measured_anew(
    runtime: str, quantizations: tuple[str, ...]
) -> None:
    kinds = []
    for machine in ("x86_64", "x86_64 without VNNI"):
        planner = Planner(record(GRID), device=Device(machine, "one name", 2))
        for quantize in ("fp16", *quantizations):
            planner.add(TrialConfig(None, quantize, runtime))
        kinds.append(planner.plan.stages)
    first, other = kinds
    same = {stage.label for key, stage in first.items() if key in other and stage.kind not in ("latency", "preview")}
    assert same == {f"baseline: building for {runtime}", "fp16: quantizing"}


@settings(max_examples=40, deadline=None)
@given(
    prune=st.lists(st.sampled_from([0, 0.1, 0.5, 0.9]), min_size=1, max_size=4),
    quantize=st.lists(st.sampled_from(["none", "fp16", "int8", "int8-dynamic"]), min_size=1, max_size=4),
    recover=st.sampled_from(["none", "batchnorm", "distill"]),
)
def test_no_stage_stands_twice_and_every_trial_can_be_reached(
    prune: list[float], quantize: list[str], recover: str
) -> None:
    plan = make_plan(record({"prune": prune, "quantize": quantize, "recover": recover}))
    described = [(s.kind, str(sorted(s.inputs.items())), str(s.settings)) for s in plan.stages.values()]
    assert len(described) == len(set(described))
    needed = {plan.preview}
    for trial in plan.trials.values():
        for target in trial.targets:
            needed |= {stage.key for stage in plan.chain(target)}
    assert needed == set(plan.stages)
    assert all(trial.name == name for name, trial in plan.trials.items())


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ({"runtime": "executorch", "quantize": "fp8"}, "'fp8' is not built yet for executorch"),
        (
            {"runtime": ["torch", "tensorrt"], "quantize": "fp8"},
            "'fp8' is not built yet for torch; built are none, bf16",
        ),
        (
            {"runtime": ["torch", "openvino"], "quantize": ["none", "fp8"]},
            "'fp8' is not built yet for torch or openvino",
        ),
        ({"targets": "SM89"}, "targets are for runtimes that build for GPUs .tensorrt."),
        ({"quantize": "fp8"}, "built are none, .*int8-dynamic"),
    ],
)
def test_what_is_known_but_not_built_is_refused(recipe: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        make_plan(record(recipe))


def test_a_quantization_is_tried_in_the_runtimes_that_take_it() -> None:
    plan = make_plan(record({"prune": 0, "quantize": ["fp16", "int8", "fp8"], "runtime": ["executorch", "tensorrt"]}))
    assert list(plan.trials) == [
        "baseline@executorch",
        "baseline@tensorrt",
        "int8@executorch",
        "fp16@tensorrt",
        "int8@tensorrt",
        "fp8@tensorrt",
    ]


def test_where_the_classes_lie_is_part_of_the_keys() -> None:
    judgings = [replace(JUDGING, class_dim=value) for value in (1, None, 2)]
    keys = [frozenset(make_plan(record(GRID, understanding=Understanding(judging))).stages) for judging in judgings]
    assert len(set(keys)) == 3


def test_a_study_of_an_earlier_version_is_planned_no_more_but_told_to_be_submitted_again() -> None:
    with pytest.raises(RecipeError, match="submitted by an earlier version.*submit it again"):
        make_plan(record(GRID, understanding=None))
