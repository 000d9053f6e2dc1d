"""ONNX Runtime on GPUs: what every runtime promises, by the graphs that its providers would run."""

from pathlib import Path
from typing import ClassVar

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import nn

from quanttaas_jupyter.core.failures import StageError
from quanttaas_jupyter.techniques.quantize import QUANTIZERS
from quanttaas_jupyter.techniques.runtimes.onnxruntime_gpu import OnnxRuntimeGpu, _flags
from tests.networks import ResidualNet
from tests.techniques.quantize.on_onnx import integer_products
from tests.techniques.runtimes.contract import Contract, Transformer, images


class TestOnTensorRt(Contract):
    runtime, package = "onnxruntime-tensorrt", "onnxruntime"
    precisions: ClassVar = {"int8": (0.30, 20), "fp8": (0.30, 15), "fp16": (0.55, 50), "int4-weight": (0.30, 15)}

    def run(self, path: Path, x: torch.Tensor) -> np.ndarray:
        return np.asarray(self.place.open_graph(path, 1, self.built.signature.input_names)([x.numpy()])[0])

    def integer_layers(self, path: Path) -> list[str]:
        return integer_products(path)

    def test_without_its_package_the_pip_command_is_told(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert self.place.why_not_run() == "there is no NVIDIA GPU here"
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
        assert "install onnxruntime-gpu in place of onnxruntime" in self.place.why_not_run()

    def test_tensorrt_may_use_the_precisions_of_the_graph_and_no_others(self, tmp_path: Path) -> None:
        self.build(ResidualNet(), images(), tmp_path)
        found = {name: _flags(self.quantize(name, images())[0]) for name in ("int8", "fp16", "fp8")}
        assert _flags(self.path) == {"trt_fp16_enable": False, "trt_int8_enable": False}
        assert found["fp16"] == {"trt_fp16_enable": True, "trt_int8_enable": False}
        assert found["int8"] == found["fp8"] == {"trt_fp16_enable": False, "trt_int8_enable": True}


def test_cuda_takes_what_tensorrt_takes_but_float8() -> None:
    built = QUANTIZERS.keys()
    cuda, tensorrt = ({q for q, place in built if place == f"onnxruntime-{name}"} for name in ("cuda", "tensorrt"))
    assert tensorrt - cuda == {"fp8", "fp8-modelopt"}
    assert cuda < tensorrt


@pytest.mark.skipif(torch.cuda.is_available(), reason="looks at a machine without a GPU")
def test_a_silent_fall_back_to_the_cpu_is_an_error(tmp_path: Path) -> None:
    test = TestOnTensorRt()
    test.build(nn.Linear(4, 4), torch.randn(4, 4), tmp_path)
    with pytest.raises(StageError, match=r"cannot load its CUDAExecutionProvider here, and would compute on the CPU"):
        OnnxRuntimeGpu("CUDA").open(test.path, 1, ["input"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("network", [ResidualNet, Transformer])
@pytest.mark.parametrize("runtime", ["onnxruntime-cuda", "onnxruntime-tensorrt"])
def test_on_a_gpu_the_provider_runs_and_is_timed(runtime: str, network: type[nn.Module], tmp_path: Path) -> None:
    test = TestOnTensorRt()
    test.runtime = runtime
    assert len(list(test.sessions_on_a_gpu(network(), tmp_path))) == 3
