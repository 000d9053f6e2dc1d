"""OpenVINO on CPUs: artifacts are ZIP files of its graph and its weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ...bundle.batches import Batches
from ...core.catalogue import Technique
from . import RUNTIMES, Built, Layers, Runtime, Session


class OpenVino(Runtime):
    """OpenVINO on CPUs: builds through ONNX, runs with the CPU plugin."""

    suffix = ".openvino.zip"

    def build(self, model: Any, examples: Batches, path: Path, report: Callable[[str], None]) -> Built:
        """Convert the module, and compare the outputs of the file with the module's at several batch sizes.

        Raises:
            StageError: ONNX cannot express the module, or OpenVINO is not installed.
        """
        from .onnx_export import export
        from .openvino_file import core, save

        def converted(file: Path, names: Sequence[str]) -> Session:
            save(core().read_model(str(file)), path)
            return self.open(path, 1, names)

        with TemporaryDirectory() as folder:
            graph = Path(folder) / "model.onnx"
            error, signature = export(model, examples, graph, converted, report)
            # The graph that was tried last may not be the one that was kept.
            save(core().read_model(str(graph)), path)
        return Built(error, signature)

    def open(self, path: Path, threads: int, names: Sequence[str]) -> Session:
        """Compile a model for ``threads`` threads that takes the inputs ``names`` in order.

        Raises:
            StageError: OpenVINO is not installed.
        """
        from .openvino_file import core, load, session_of

        options = {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            # Where processors have bfloat16, OpenVINO would compute a float32 model in it.
            "INFERENCE_PRECISION_HINT": "f32",
        }
        return session_of(core().compile_model(load(path), "CPU", options), names)

    def layers(self, path: Path) -> Layers:
        """Count the nodes with weights, and those that are quantized."""
        from .openvino_file import summarize

        return summarize(path)


RUNTIMES.register(
    "openvino",
    Technique(
        help="a model for Intel processors",
        order=5,
    ),
    extra="openvino",
)(OpenVino())
