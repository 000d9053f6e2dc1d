from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from quanttaas_jupyter.bundle.data import open_source
from quanttaas_jupyter.engine.quantize import QUANTIZERS, QuantizeJob
from quanttaas_jupyter.engine.runtimes import RUNTIMES
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


@pytest.mark.parametrize(("name", "most"), [("fp16", 0.55), ("int8", 0.4), ("int8-dynamic", 0.4)])
def test_bytes_fall_every_layer_is_quantized_and_predictions_stay(
    digits: Digits, exported: Path, tmp_path: Path, name: str, most: float
) -> None:
    path = quantized(digits, exported, tmp_path / "q.onnx", name)
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


def test_ignored_modules_stay_in_float(digits: Digits, exported: Path, tmp_path: Path) -> None:
    for name in ("int8", "fp16", "int8-dynamic"):
        path = quantized(digits, exported, tmp_path / f"{name}.onnx", name, ignore=("blocks.1", "head"))
        kept = RUNTIME.layers(path).kept
        assert set(kept) == {"blocks.1.conv1", "blocks.1.conv2", "blocks.1.skip.0", "head"}, name


def test_the_unquantized_file_counts_as_not_quantized(exported: Path) -> None:
    layers = RUNTIME.layers(exported)
    assert (layers.quantized, layers.quantizable) == (0, 10)
    assert layers.kept[0] == "stem.0"


def test_modules_are_named_alike_by_both_exporters(tmp_path: Path) -> None:
    from quanttaas_jupyter.engine.runtimes import onnx_export
    from quanttaas_jupyter.engine.runtimes.onnx_graph import layers_of, load_graph

    model, x = ResidualNet().eval(), torch.randn(2, 1, 8, 8)
    flat = onnx_export._flat(model, "tensor")
    flat(x)
    plan = onnx_export._Plan(flat, (x,), ("input",), ("output",), ({0: "batch"},))
    found = []
    for write in (onnx_export._trace, onnx_export._torch_export):
        write(plan, tmp_path / "model.onnx")
        found.append([layer.module for layer in layers_of(load_graph(tmp_path / "model.onnx"))])
    assert found[0] == found[1]
    assert "blocks.2.skip.0" in found[0]
