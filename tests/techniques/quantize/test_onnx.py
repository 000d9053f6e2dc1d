from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from quanttaas_jupyter.bundle.data import open_source
from quanttaas_jupyter.techniques.quantize import QUANTIZERS, QuantizeJob
from quanttaas_jupyter.techniques.runtimes import RUNTIMES
from tests.networks import Digits, ResidualNet

RUNTIME = RUNTIMES.get("onnxruntime")


@pytest.fixture(scope="module")
def exported(digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    examples = open_source(digits.test, "--data", 512, 0).read()
    RUNTIME.build(digits.model, examples, path, lambda line: None)
    return path


def quantized(digits: Digits, exported: Path, target: Path, name: str, ignore: tuple[str, ...] = ()) -> Path:
    calibration = open_source(digits.train, "--train", 512, 0).read()
    job = QuantizeJob(exported, target, calibration, ("input",), ignore, lambda line: None)
    QUANTIZERS.get((name, "onnxruntime"))(job)
    return target


@pytest.mark.parametrize(
    ("name", "most"), [("fp16", 0.51), ("bf16", 0.51), ("int8", 0.28), ("int8-dynamic", 0.28), ("int8-weight", 0.28)]
)
def test_bytes_fall_every_layer_is_quantized_and_predictions_stay(
    digits: Digits, exported: Path, tmp_path: Path, name: str, most: float
) -> None:
    path = quantized(digits, exported, tmp_path / "q.onnx", name)
    onnx.checker.check_model(str(path))
    assert path.stat().st_size < most * exported.stat().st_size
    layers = RUNTIME.layers(path)
    assert (layers.quantized, layers.quantizable, layers.kept) == (10, 10, ())
    x = digits.test.dataset.tensors[0].numpy()  # type: ignore[attr-defined]
    mine, theirs = RUNTIME.open(path, 1, ["input"])([x])[0], RUNTIME.open(exported, 1, ["input"])([x])[0]
    assert (mine.argmax(1) == theirs.argmax(1)).mean() > 0.97
    assert not np.array_equal(mine, theirs)


def test_int8_has_unsigned_activations_and_signed_weights_per_channel(
    digits: Digits, exported: Path, tmp_path: Path
) -> None:
    graph = onnx.load(str(quantized(digits, exported, tmp_path / "q.onnx", "int8"))).graph
    constants = {item.name: item for item in graph.initializer}
    producers = {output: node for node in graph.node for output in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 9
    for node in convolutions:
        weight, activation = producers[node.input[1]], producers[node.input[0]]
        assert constants[weight.input[0]].data_type == onnx.TensorProto.INT8
        assert len(constants[weight.input[1]].dims) == 1
        assert constants[activation.input[2]].data_type == onnx.TensorProto.UINT8


def test_an_int8_file_is_little_more_than_a_byte_a_parameter(digits: Digits, exported: Path, tmp_path: Path) -> None:
    path = quantized(digits, exported, tmp_path / "q.onnx", "int8")
    parameters = sum(parameter.numel() for parameter in digits.model.parameters())
    assert path.stat().st_size < 1.12 * parameters
    graph = onnx.load(str(path)).graph
    assert [item.name for item in (*graph.input, *graph.output)] == ["input", "output"]
    assert {node.name for node in graph.node if node.op_type == "Conv"} >= {"stem.0", "blocks.1.conv1"}


def test_integers_flow_from_convolution_to_convolution(digits: Digits, exported: Path, tmp_path: Path) -> None:
    graph = onnx.load(str(quantized(digits, exported, tmp_path / "q.onnx", "int8"))).graph
    readers: dict[str, list[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
    scores = graph.output[0].name
    for node in graph.node:
        if node.op_type in ("Conv", "Add", "Relu") and node.output[0] != scores:
            assert readers[node.output[0]] == ["QuantizeLinear"], node.op_type


@pytest.mark.parametrize("calibrator", ["minmax", "percentile", "entropy"])
def test_each_calibrator_sets_its_own_ranges_and_is_good_enough(
    digits: Digits, exported: Path, tmp_path: Path, calibrator: str
) -> None:
    calibration = open_source(digits.train, "--train", 512, 0).read()
    scales = {}
    for name in ("minmax", calibrator):
        job = QuantizeJob(exported, tmp_path / name, calibration, ("input",), (), lambda line: None, calibrator=name)
        made = QUANTIZERS.get(("int8", "onnxruntime"))(job)
        assert made.choices["calibrator"] == name
        graph = onnx.load(str(job.target)).graph
        constants = {item.name: onnx.numpy_helper.to_array(item) for item in graph.initializer}
        scales[name] = [float(constants[n.input[1]]) for n in graph.node if n.op_type == "QuantizeLinear"]
    assert all(mine <= widest * 1.001 for mine, widest in zip(scales[calibrator], scales["minmax"], strict=True))
    assert (scales[calibrator] == scales["minmax"]) == (calibrator == "minmax")
    x = digits.test.dataset.tensors[0].numpy()  # type: ignore[attr-defined]
    mine, theirs = (RUNTIME.open(file, 1, ["input"])([x])[0] for file in (tmp_path / calibrator, exported))
    assert (mine.argmax(1) == theirs.argmax(1)).mean() > 0.98


def test_where_minimum_and_maximum_are_good_enough_nothing_else_is_tried(
    digits: Digits, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quanttaas_jupyter.techniques.quantize import onnx_calibration

    monkeypatch.setattr(onnx_calibration, "_percentile", lambda activation: pytest.fail("percentile was tried"))
    calibration = open_source(digits.train, "--train", 512, 0).read()
    job = QuantizeJob(exported, tmp_path / "q.onnx", calibration, ("input",), (), lambda line: None)
    assert QUANTIZERS.get(("int8", "onnxruntime"))(job).choices["calibrator"] == "minmax"


class Overflowing(nn.Module):
    """Its first layer's outputs pass 65504, the largest float16."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(16, 256), nn.Linear(256, 256), nn.Linear(256, 4)
        self.first.weight.data *= 1e5
        self.second.weight.data /= 1e5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.second(torch.relu(self.first(x)))))


def test_fp16_keeps_what_overflows_in_float32_and_says_so(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 16)
    data = open_source((x, torch.zeros(64)), "--data", 512, 0).read()
    RUNTIME.build(Overflowing().eval(), data, tmp_path / "m.onnx", lambda line: None)
    job = QuantizeJob(tmp_path / "m.onnx", tmp_path / "q.onnx", data, ("input",), (), lambda line: None)
    made = QUANTIZERS.get(("fp16", "onnxruntime"))(job)
    assert {"first", "second"} <= set(made.choices["kept"])
    assert "overflow float16 and stay in float32" in made.warnings[0]
    assert RUNTIME.layers(job.target).kept == ("first", "second")
    outputs = [RUNTIME.open(path, 1, ["input"])([x.numpy()])[0] for path in (job.source, job.target)]
    assert np.abs(outputs[0] - outputs[1]).max() < 1e-2 * np.abs(outputs[0]).max()


@pytest.mark.parametrize(
    ("name", "kind"), [("bf16", onnx.TensorProto.BFLOAT16), ("int8-weight", onnx.TensorProto.INT8)]
)
def test_narrow_weights_are_widened_by_what_onnxruntime_folds_at_load(
    digits: Digits, exported: Path, tmp_path: Path, name: str, kind: int
) -> None:
    path = quantized(digits, exported, tmp_path / "q.onnx", name)
    assert [item.data_type for item in onnx.load(str(path)).graph.initializer].count(kind) == 10
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "folded.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    left = {node.op_type for node in onnx.load(str(tmp_path / "folded.onnx")).graph.node}
    assert left.isdisjoint({"Cast", "Mul", "DequantizeLinear"})


def test_ignored_modules_stay_in_float(digits: Digits, exported: Path, tmp_path: Path) -> None:
    for name in ("int8", "fp16", "bf16", "int8-dynamic", "int8-weight"):
        path = quantized(digits, exported, tmp_path / f"{name}.onnx", name, ignore=("blocks.1", "head"))
        kept = RUNTIME.layers(path).kept
        assert set(kept) == {"blocks.1.conv1", "blocks.1.conv2", "blocks.1.skip.0", "head"}, name


def test_the_unquantized_file_counts_as_not_quantized(exported: Path) -> None:
    layers = RUNTIME.layers(exported)
    assert (layers.quantized, layers.quantizable) == (0, 10)
    assert layers.kept[0] == "stem.0"


def test_modules_are_named_alike_by_both_exporters(tmp_path: Path) -> None:
    from quanttaas_jupyter.techniques.runtimes import export_check, onnx_export
    from quanttaas_jupyter.techniques.runtimes.onnx_graph import layers_of, load_graph

    model, x = ResidualNet().eval(), torch.randn(2, 1, 8, 8)
    flat = export_check.flattened(model, "tensor")
    flat(x)
    plan = onnx_export._Plan(flat, (x,), ("input",), ("output",), ({0: "batch"},))
    found = []
    for write in (onnx_export._trace, onnx_export._torch_export):
        write(plan, tmp_path / "model.onnx")
        found.append([layer.module for layer in layers_of(load_graph(tmp_path / "model.onnx"))])
    assert found[0] == found[1]
    assert "blocks.2.skip.0" in found[0]
