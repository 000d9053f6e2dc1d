"""What building stages make of trials that change nothing, break the model, or spend what pruning has spent already."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from quanttaas_jupyter import stages
from quanttaas_jupyter.bundle.batches import Batch, Batches
from quanttaas_jupyter.core.failures import StageError
from quanttaas_jupyter.core.records.artifact import Signature
from quanttaas_jupyter.core.records.stage import StageResult
from quanttaas_jupyter.planning.search import first_plan
from quanttaas_jupyter.stages import building
from quanttaas_jupyter.store import blobs
from quanttaas_jupyter.store.local import LocalStore
from quanttaas_jupyter.techniques.evaluate.sqnr import LOSSLESS_DB
from quanttaas_jupyter.techniques.runtimes import Runtime
from tests.engine.inline import drive
from tests.planning.test_plan import record
from tests.techniques.quantize.on_onnx import RUNTIME, quantize

X = torch.randn(160, 16, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()
GRID: dict[str, Any] = {"prune": [0], "recover": "none"}


def halved(path: Path) -> Path:
    """A file with two products in float16 between inputs and outputs in float32."""
    weights = [numpy_helper.from_array(np.full((16, 16), 0.1, np.float16), name) for name in ("first", "second")]
    nodes = [
        helper.make_node("Cast", ["input"], ["x"], to=TensorProto.FLOAT16),
        helper.make_node("MatMul", ["x", "first"], ["y"], "a"),
        helper.make_node("MatMul", ["y", "second"], ["z"], "b"),
        helper.make_node("Cast", ["z"], ["output"], to=TensorProto.FLOAT),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 16]) for name in ("input", "output")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return path


def facts_of(path: Path) -> dict[str, int]:
    layers = RUNTIME.layers(path)
    counts = {"quantized_layers": layers.quantized, "quantizable_layers": layers.quantizable}
    return {**counts, "integer_layers": layers.integers, "size_bytes": path.stat().st_size}


@pytest.mark.parametrize("name", ["int8-weight", "bf16"])
def test_a_quantization_that_leaves_a_float16_model_as_it_was_fails(name: str, tmp_path: Path) -> None:
    source = halved(tmp_path / "m.onnx")
    path, _ = quantize(source, X, name)
    assert facts_of(source)["quantized_layers"] == 2
    with pytest.raises(StageError, match=f"{name} changed none of the 2 layers with weights"):
        building._quantization_warnings(name, facts_of(path), facts_of(source))


def test_integers_count_where_integers_were_asked_for() -> None:
    source = {"quantized_layers": 2, "quantizable_layers": 2, "integer_layers": 0, "size_bytes": 9}
    made = {**source, "integer_layers": 2, "size_bytes": 5}
    assert building._quantization_warnings("int8", made, source) == []
    with pytest.raises(StageError, match="bf16 changed none of the 2 layers"):
        building._quantization_warnings("bf16", made, source)


def test_everything_ignored_leaves_nothing_to_quantize_also_where_the_model_is_one_layer(tmp_path: Path) -> None:
    recipe = {**GRID, "quantize": ["none", "int8", "int8-weight", "mixed"], "ignore": ["Linear"]}
    state, _, _ = drive(tmp_path, nn.Linear(16, 2), (X[:80], Y[:80]), recipe, train=(X[80:], Y[80:]))
    reasons = {name: trial.error["reason"] for name, trial in state.trials.items() if trial.error}
    assert set(reasons) == {"int8", "int8-weight", "mixed"}
    assert reasons["int8"] == "int8 changed none of the 1 layers with weights"
    assert "finds no layer with weights that may be quantized" in reasons["mixed"]


def test_a_name_that_no_module_bears_is_the_model_itself() -> None:
    classes = {"a": "Linear", "b": "Sequential", "b.0": "Conv2d"}
    assert building.ignored_modules(("b",), classes) == ["b"]
    assert building.ignored_modules(("Linear", "b.0"), classes) == ["a", "b.0"]
    assert building.ignored_modules(("Net",), classes) == [""]


class Files(Runtime):
    """A runtime whose files hold their outputs."""

    suffix = ".npy"

    def build(self, *given: Any) -> Any: ...

    def layers(self, path: Path) -> Any: ...

    def open(self, path: Path, threads: int, names: Any) -> Any:
        return lambda arrays: [np.load(path)[: len(arrays[0])]]


def context_of(store: LocalStore, inputs: dict[str, StageResult], monkeypatch: pytest.MonkeyPatch) -> stages.Context:
    monkeypatch.setattr(stages.Context, "runtime", property(lambda self: Files()))
    metric = {"kind": "built-in", "name": "accuracy", "digest": "accuracy", "higher_is_better": True}
    judging = {"task": "classification", "class_dim": 1, "classes": 2, "scores": "logits", "labels": "ids"}
    return stages.Context(
        store, {"metric": metric, "judging": judging, "seed": 0, "max_bytes": 1 << 30}, inputs, 1, lambda line: None
    )


def test_what_a_quantized_file_loses_counts_from_the_original_and_not_from_the_pruned_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(tmp_path / "store")
    right = np.eye(2, dtype=np.float32)[[0, 1] * 5]
    answers = {"original": right, "pruned": right.copy(), "quantized": right.copy()}
    answers["pruned"][:2], answers["quantized"][:3] = right[:2, ::-1], right[:3, ::-1]
    for name, array in answers.items():
        with (tmp_path / name).open("wb") as file:
            np.save(file, array)
    signature = Signature(input_names=("x",), outputs="tensor")
    blobs_of = {name: {"artifact": blobs.put_file(store, tmp_path / name)} for name in answers}
    inputs = {
        "source": StageResult(blobs=blobs_of["pruned"], signature=signature),
        "original": StageResult(blobs=blobs_of["original"], signature=signature),
    }
    samples = Batches((Batch([torch.zeros(10, 1)], [torch.from_numpy(right.argmax(1))]),), ("x",), "tensor", "tensor")
    judge = building.CalibrationJudge(context_of(store, inputs, monkeypatch), samples)
    assert judge.drop(tmp_path / "quantized") == pytest.approx(0.3)
    assert judge.drop(tmp_path / "pruned") == pytest.approx(0.2)
    assert judge.sqnr_db(tmp_path / "pruned") == LOSSLESS_DB


def test_the_original_is_an_input_of_what_decides_by_the_goal_and_so_in_its_key() -> None:
    plan = first_plan(record({"prune": [0.5], "quantize": ["int8", "mixed"], "search": "grid"}))
    stages_ = {s.settings["quantization"]: s for s in plan.stages.values() if s.kind == "quantize"}
    assert stages_["mixed"].inputs["original"] == plan.trials["baseline"].build
    assert stages_["mixed"].inputs["source"] != plan.trials["baseline"].build
    assert "original" not in stages_["int8"].inputs


class Outliers(nn.Module):
    """One channel of its middle is so much larger than the others that eight bits leave nothing of these."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 2)
        self.first.weight.data[0] *= 1e6
        self.second.weight.data[:, 0] = 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x)))


def test_a_file_that_says_something_else_than_its_source_warns(tmp_path: Path) -> None:
    torch.manual_seed(0)
    recipe = {**GRID, "quantize": ["none", "int8", "int8-weight"]}
    state, _, _ = drive(tmp_path, Outliers(), (X[:80], Y[:80]), recipe, train=(X[80:], Y[80:]))
    (warning,) = [line for line in state.trials["int8"].warnings if "breaks this model" in line]
    assert warning.startswith("outputs at ")
    assert warning.endswith(
        "dB of the original: int8 breaks this model in onnxruntime; try mixed or int8-weight or fp16"
    )
    assert not state.trials["int8-weight"].warnings
