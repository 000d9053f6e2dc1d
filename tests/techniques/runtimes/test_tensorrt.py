"""TensorRT: what every runtime promises, by engines of TensorRT-RTX built without a GPU and the graphs behind them."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from quanttaas_jupyter.core.failures import StageError
from quanttaas_jupyter.techniques.prune import PRUNERS, PruneJob
from quanttaas_jupyter.techniques.runtimes.tensorrt import TensorRt
from quanttaas_jupyter.techniques.runtimes.tensorrt_engine import build, read
from tests.networks import ResidualNet
from tests.techniques.quantize.on_onnx import integer_products
from tests.techniques.runtimes.contract import Contract, Transformer, batches, images


def shapes_from(source: Path) -> dict[str, list[tuple[int, ...]]]:
    """Batches of one and of 64 images for the only input of a file."""
    return {onnx.load(str(source)).graph.input[0].name: [(1, 1, 8, 8), (1, 1, 8, 8), (64, 1, 8, 8)]}


class TestTensorRt(Contract):
    runtime, package, extra = "tensorrt", "tensorrt_rtx", "tensorrt-rtx"
    # Engines hold code beside weights: their ratios are what they are, below that of fp32.
    precisions: ClassVar = {"int8": (0.9, 20), "fp8": (0.9, 15), "fp16": (0.9, 50), "bf16": (0.99, 35)}

    def run(self, path: Path, x: torch.Tensor) -> np.ndarray:
        session = self.place.open_graph(path.with_suffix(".onnx"), 1, self.built.signature.input_names)
        return np.asarray(session([x.numpy()])[0])

    def layers_of(self, path: Path) -> Any:
        return self.place.layers(path.with_suffix(".onnx"))

    def integer_layers(self, path: Path) -> list[str]:
        return integer_products(path.with_suffix(".onnx"))

    def test_engines_say_what_they_were_built_by_and_for(self, tmp_path: Path) -> None:
        self.build(ResidualNet(), images(), tmp_path)
        made, plan = read(self.path)
        assert made["built_by"] == "tensorrt_rtx"
        assert made["targets"] == ["SM89"]
        assert len(plan) > 100_000
        with pytest.raises(StageError, match=r"runs on GPUs of SM89, and this machine has none"):
            self.place.open(self.path, 1, ["x"])

    def test_engines_are_built_for_the_named_targets(self, tmp_path: Path) -> None:
        self.build(ResidualNet(), images(), tmp_path)
        shapes = shapes_from(self.source)
        for targets in (["SM80"], ["SM86", "SM120"]):
            build(self.source, tmp_path / "other.engine", targets, shapes)
            assert read(tmp_path / "other.engine")[0]["targets"] == targets
        with pytest.raises(StageError, match=r"builds for SM75.*not for SM90"):
            build(self.source, tmp_path / "other.engine", ["SM90"], shapes)
        with pytest.raises(StageError, match=r"cannot build this model for SM75: .*head.*FP32 GEMM is not supported"):
            build(self.source, tmp_path / "other.engine", ["SM75"], shapes)

    def test_without_a_gpu_the_reason_is_told(self) -> None:
        assert TensorRt(["SM80"]).why_not_run() == "there is no NVIDIA GPU here"

    def test_a_node_that_the_parser_refuses_is_named(self, tmp_path: Path) -> None:
        self.build(nn.Linear(4, 4), torch.randn(4, 4), tmp_path)
        model = onnx.load(str(self.source))
        model.graph.node[0].name, model.graph.node[0].op_type, model.graph.node[0].domain = "inner", "Unheard", "of.you"
        onnx.save(model, str(tmp_path / "bad.onnx"))
        with pytest.raises(StageError, match=r"parser refuses the Unheard node inner: .*; ignore inner"):
            build(tmp_path / "bad.onnx", tmp_path / "bad.engine", [], {})

    def test_structured_pruning_makes_the_engine_smaller(self, tmp_path: Path) -> None:
        model = ResidualNet(32)
        self.build(model, images(), tmp_path)
        whole = self.path.stat().st_size
        job = PruneJob(model=model, amount=0.7, examples=batches(images()), ignore=(), report=print)
        self.build(PRUNERS.get("structured")(job).model, images(), tmp_path)
        assert self.path.stat().st_size < 0.6 * whole
        int8, _ = self.quantize("int8", images())
        assert len(self.integer_layers(int8)) == self.layers_of(int8).quantizable == 10

    def test_products_of_bf16_are_of_that_type_in_the_engine_and_rounded_alike_where_it_is_judged(
        self, tmp_path: Path
    ) -> None:
        model = ResidualNet(32)
        self.build(model, images(), tmp_path)
        bf16, done = self.quantize("bf16", images(), ignore=("head",))
        assert bf16.stat().st_size < 0.7 * self.path.stat().st_size
        assert self.layers_of(bf16).kept == ("head",)
        typed = onnx.load(str(bf16.with_suffix(".typed.onnx")))
        narrow = {item.name for item in typed.graph.initializer if item.data_type == onnx.TensorProto.BFLOAT16}
        products = [node for node in typed.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
        assert [node.input[1] in narrow for node in products].count(False) == 1
        judged = onnx.load(str(done.graph))
        assert {item.name for item in judged.graph.initializer if item.data_type == onnx.TensorProto.BFLOAT16} == narrow

    def test_transposed_convolutions_stay_float_in_bf16_and_that_is_said(self, tmp_path: Path) -> None:
        self.build(nn.Sequential(nn.Conv2d(1, 8, 3), nn.ConvTranspose2d(8, 4, 2, stride=2)), images(), tmp_path)
        bf16, done = self.quantize("bf16", images())
        assert done.warnings == ("transposed convolutions stay float32",)
        assert self.layers_of(bf16).quantized == 1

    def test_timings_are_kept_and_read_again(self, tmp_path: Path) -> None:
        class Kept(dict[str, bytes]):
            def read(self, name: str) -> bytes | None:
                return self.get(name)

            def write(self, name: str, data: bytes) -> None:
                self[name] = data

        notes = Kept()
        self.build(ResidualNet(), images(), tmp_path)
        shapes = shapes_from(self.source)
        build(self.source, tmp_path / "first.engine", ["SM89"], shapes, notes)
        (name,) = notes
        assert name.startswith("tensorrt/tensorrt_rtx-")
        build(self.source, tmp_path / "second.engine", ["SM89"], shapes, notes)
        notes.write(name, b"not a cache")
        build(self.source, tmp_path / "third.engine", ["SM89"], shapes, notes)
        assert read(tmp_path / "third.engine")[0]["targets"] == ["SM89"]

    def test_two_of_four_zeros_are_told_to_the_builder(self, tmp_path: Path) -> None:
        model = Transformer(64)
        for layer in model.modules():
            if isinstance(layer, nn.Linear):
                layer.weight.data.reshape(-1, 4)[:, :2] = 0
        self.build(model, images(), tmp_path)
        assert read(self.path)[0]["is_sparse"]
        self.build(Transformer(64), images(), tmp_path)
        assert not read(self.path)[0]["is_sparse"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("network", [ResidualNet, Transformer])
def test_on_a_gpu_the_engine_itself_is_run_and_timed(network: type[nn.Module], tmp_path: Path) -> None:
    for session in TestTensorRt().sessions_on_a_gpu(network(), tmp_path):
        assert session.gpu_memory_bytes > 0
