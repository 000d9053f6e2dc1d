"""TensorRT on NVIDIA GPUs: artifacts are engines, built ahead of time where there is no GPU to run them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ...bundle.batches import Batches
from ...core.catalogue import Technique
from . import RUNTIMES, Built, Layers, Notes, Runtime, Session


class TensorRt(Runtime):
    """Builds from ONNX, runs on the GPU at hand; without one, the graph that was built from stands in for accuracy."""

    suffix = ".engine"

    def __init__(self, targets: Sequence[str] = (), notes: Notes | None = None) -> None:
        """For these GPU architectures; empty for the GPU at hand, or for the usual one. Notes hold timings."""
        self._targets, self._notes = tuple(targets), notes

    def build(self, model: Any, examples: Batches, path: Path, report: Callable[[str], None]) -> Built:
        """Export to ONNX, compare that with the module, and build its engine. Raises StageError."""
        from .onnx_export import export
        from .tensorrt_engine import build, package, shapes_of

        package()
        graph = path.with_suffix(".onnx")
        error, about = export(model, examples, graph, lambda file, names: self.open_graph(file, 1, names), report)
        build(graph, path, self._targets, shapes_of(graph, seen_by(examples, about["input_names"])), self._notes)
        return Built(error, about, graph=graph)

    def open(self, path: Path, threads: int, names: Sequence[str]) -> Session:
        """An engine on this machine's GPU. Raises StageError where it is for another one."""
        from .tensorrt_engine import open_engine

        return open_engine(path, names)

    def layers(self, path: Path) -> Layers:
        """Nodes with weights in the graph that was built from, and which of them are quantized."""
        from .onnx_graph import summarize

        return summarize(path)

    def why_not_run(self) -> str:
        """That there is no GPU, or not one of those that engines are built for."""
        from .tensorrt_engine import gpu

        here = gpu()
        if not here:
            return "there is no NVIDIA GPU here"
        return "" if not self._targets or here in self._targets else f"this GPU is {here}, and engines are for others"

    def open_graph(self, path: Path, threads: int, names: Sequence[str]) -> Session:
        """The graph that an engine was built from, in ONNX Runtime, whose fusions compute float8 wrongly."""
        from .onnxruntime import open_session

        return open_session(path, threads, names, fuses=False)

    def aimed_at(self, targets: Sequence[str], notes: Notes | None = None) -> TensorRt:
        """The runtime that builds for these GPU architectures."""
        return TensorRt(targets, notes)


def seen_by(examples: Batches, names: Sequence[str]) -> dict[str, list[tuple[int, ...]]]:
    """Shapes of the data's batches by input."""
    return {name: [tuple(batch.inputs[i].shape) for batch in examples.batches] for i, name in enumerate(names)}


RUNTIMES.register(
    "tensorrt",
    Technique(
        help="an engine for NVIDIA GPUs",
        order=3,
    ),
    needs=("gpu", "targets"),
    extra="tensorrt-rtx",
)(TensorRt())
