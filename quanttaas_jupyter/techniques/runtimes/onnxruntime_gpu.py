"""ONNX Runtime on NVIDIA GPUs, by its CUDA or its TensorRT execution provider: artifacts are ``.onnx`` files.

The providers come with the distribution ``onnxruntime-gpu``, installed in place of ``onnxruntime``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...bundle.batches import Batches
from ...core.catalogue import Technique
from ...core.failures import StageError
from . import RUNTIMES, Built, Session, onnx_parts
from .onnx_artifact import OnnxArtifact
from .onnxruntime import open_session

if TYPE_CHECKING:
    import torch

_FLOAT16, _NARROW = 10, (3, 17)  # int8, float8 (E4M3)


class OnnxRuntimeGpu(OnnxArtifact):
    """ONNX Runtime with one GPU provider; without a GPU, accuracy is evaluated with the same file on the CPU."""

    def __init__(self, provider: str) -> None:
        """Use the provider ``CUDA`` or ``Tensorrt``; CUDA computes operators that the latter does not support."""
        self._provider = f"{provider}ExecutionProvider"

    def build(self, model: torch.nn.Module, examples: Batches, path: Path, report: Callable[[str], None]) -> Built:
        """Export the module, and compare the outputs of the file with the module's.

        Raises:
            StageError: ONNX cannot express the module.
        """
        from .onnx_export import export

        open_ = self.open_graph if self.why_not_run() else self.open
        error, signature = export(model, examples, path, lambda file, names: open_(file, 1, names), report)
        return Built(error, signature)

    def open(self, path: Path, threads: int, names: Sequence[str]) -> Session:
        """Open a session on this machine's GPU.

        Raises:
            StageError: ONNX Runtime falls back to the CPU.
        """
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 3
        places: list[Any] = [(self._provider, _flags(path) if "Tensorrt" in self._provider else {})]
        places += ["CUDAExecutionProvider"] if "Tensorrt" in self._provider else []
        source = onnx_parts.source_of(path, options)
        session = ort.InferenceSession(source, options, providers=[*places, "CPUExecutionProvider"])
        if self._provider not in session.get_providers():
            raise StageError(
                f"ONNX Runtime cannot load its {self._provider} here, and would compute on the CPU",
                "install the CUDA, cuDNN and TensorRT releases that this onnxruntime-gpu is built for",
            )
        return _OnGpu(session, names)

    def why_not_run(self) -> str:
        """Return that there is no GPU, or that this ONNX Runtime lacks the provider; otherwise an empty string."""
        import onnxruntime as ort
        import torch

        if not torch.cuda.is_available():
            return "there is no NVIDIA GPU here"
        if self._provider not in ort.get_available_providers():
            return f"this ONNX Runtime has no {self._provider} (install onnxruntime-gpu in place of onnxruntime)"
        return ""

    def open_graph(self, path: Path, threads: int, names: Sequence[str]) -> Session:
        """Open the same file on the CPU, with operators computed one by one."""
        return open_session(path, threads, names, fuses=False)


class _OnGpu:
    """Session whose inputs and outputs are bound to GPU memory; arrays are copied there and back."""

    def __init__(self, session: Any, names: Sequence[str]) -> None:
        self._session, self._names = session, names
        self._wanted = {item.name for item in session.get_inputs()}

    def __call__(self, arrays: Sequence[Any]) -> list[Any]:
        """Return the outputs for input arrays."""
        binding = self._bound(arrays)
        self._session.run_with_iobinding(binding)
        return list(binding.copy_outputs_to_cpu())

    def seconds(self, arrays: Sequence[Any]) -> float:
        """Return the seconds of a call until the GPU is done, without the copies of inputs and outputs."""
        binding = self._bound(arrays)
        binding.synchronize_inputs()
        start = time.perf_counter()
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return time.perf_counter() - start

    def _bound(self, arrays: Sequence[Any]) -> Any:
        import numpy as np
        import onnxruntime as ort

        binding = self._session.io_binding()
        for name, array in zip(self._names, arrays, strict=True):
            if name in self._wanted:
                binding.bind_ortvalue_input(
                    name, ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), "cuda", 0)
                )
        for item in self._session.get_outputs():
            binding.bind_output(item.name, "cuda")
        return binding


def _flags(path: Path) -> dict[str, bool]:
    """Return the precisions that TensorRT may use: those of the products in the graph, so that a baseline stays one.

    Weights that are only stored as float16 are widened first, since arithmetic in float16 could overflow.
    """
    graph = onnx_parts.load(path).graph
    kinds = {item.name: item.data_type for item in graph.initializer}
    products = [node for node in graph.node if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul")]
    weights = {kinds[node.input[1]] for node in products if node.input[1] in kinds}
    return {
        "trt_fp16_enable": weights == {_FLOAT16},
        "trt_int8_enable": not set(_NARROW).isdisjoint(kinds.values()),
    }


RUNTIMES.register("onnxruntime-cuda", Technique(help="an ONNX file, run on NVIDIA GPUs", order=6), needs=("gpu",))(
    OnnxRuntimeGpu("CUDA")
)
RUNTIMES.register(
    "onnxruntime-tensorrt", Technique(help="an ONNX file, run on NVIDIA GPUs by TensorRT", order=7), needs=("gpu",)
)(OnnxRuntimeGpu("Tensorrt"))
