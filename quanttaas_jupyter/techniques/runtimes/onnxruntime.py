"""ONNX Runtime on CPUs: artifacts are ``.onnx`` files, or archives of two files beyond 2 GB."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...bundle.batches import Batches
from ...core.catalogue import Technique
from . import RUNTIMES, Built, Session, onnx_parts
from .onnx_artifact import OnnxArtifact

if TYPE_CHECKING:
    import torch


class OnnxRuntime(OnnxArtifact):
    """ONNX Runtime on CPUs: builds with ``torch.onnx``, runs with the CPU provider."""

    def build(self, model: torch.nn.Module, examples: Batches, path: Path, report: Callable[[str], None]) -> Built:
        """Export the module, and compare the outputs of the file with the module's.

        Raises:
            StageError: ONNX cannot express the module.
        """
        from .onnx_export import export

        error, signature = export(model, examples, path, lambda file, names: self.open(file, 1, names), report)
        return Built(error, signature)

    def open(self, path: Path, threads: int, names: Sequence[str]) -> Session:
        """Open an inference session on ``threads`` threads that takes the inputs ``names`` in order."""
        return open_session(path, threads, names)


def open_session(path: Path, threads: int, names: Sequence[str], fuses: bool = True) -> Session:
    """Open a session as ``OnnxRuntime.open``; without ``fuses``, operators are computed one by one."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if not fuses:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    # Spinning threads of several sessions disturb each other's latency many times over.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    source = onnx_parts.source_of(path, options)
    session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    # The graph has no input that the model never reads.
    wanted = {item.name for item in session.get_inputs()}

    def run(arrays: Sequence[Any]) -> list[Any]:
        feed = {name: array for name, array in zip(names, arrays, strict=True) if name in wanted}
        return list(session.run(None, feed))

    return run


RUNTIMES.register(
    "onnxruntime",
    Technique(
        help="an ONNX file: phones, boards, servers",
        order=1,
    ),
)(OnnxRuntime())
