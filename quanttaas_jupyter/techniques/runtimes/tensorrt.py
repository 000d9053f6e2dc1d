"""TensorRT on NVIDIA GPUs: artifacts are engines, which can be built ahead of time without a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...bundle.batches import Batches
from ...core.catalogue import Technique
from . import RUNTIMES, Built, Layers, Notes, Runtime, Session

if TYPE_CHECKING:
    import torch


class TensorRt(Runtime):
    """TensorRT: builds engines from ONNX; without a matching GPU, accuracy is evaluated with the ONNX graph."""

    suffix = ".engine"

    def __init__(self, targets: Sequence[str] = (), notes: Notes | None = None) -> None:
        """Build for these GPU architectures; empty for this machine's GPU or the default. Notes hold kernel timings."""
        self._targets, self._notes = tuple(targets), notes

    def build(self, model: torch.nn.Module, examples: Batches, path: Path, report: Callable[[str], None]) -> Built:
        """Export to ONNX, compare that with the module, and build an engine from it.

        Raises:
            StageError: ONNX cannot express the module, or TensorRT cannot build it.
        """
        from .onnx_export import export
        from .tensorrt_engine import build, package, shapes_of

        package()
        graph = path.with_suffix(".onnx")
        error, signature = export(model, examples, graph, lambda file, names: self.open_graph(file, 1, names), report)
        build(graph, path, self._targets, shapes_of(graph, seen_by(examples, signature.input_names)), self._notes)
        return Built(error, signature, graph=graph)

    def open(self, path: Path, threads: int, names: Sequence[str]) -> Session:
        """Open an engine on this machine's GPU.

        Raises:
            StageError: There is no GPU, or the engine is for another one or another version.
        """
        from .tensorrt_engine import open_engine

        return open_engine(path, names)

    def layers(self, path: Path) -> Layers:
        """Count the nodes with weights in the engine's ONNX graph, and those that are quantized."""
        from .onnx_graph import summarize

        return summarize(path)

    def why_not_run(self) -> str:
        """Return that there is no GPU, or none of the targets; otherwise an empty string."""
        from .tensorrt_engine import gpu

        here = gpu()
        if not here:
            return "there is no NVIDIA GPU here"
        return "" if not self._targets or here in self._targets else f"this GPU is {here}, and engines are for others"

    def open_graph(self, path: Path, threads: int, names: Sequence[str]) -> Session:
        """Open the ONNX graph in ONNX Runtime without fusions, which compute float8 wrongly."""
        from .onnxruntime import open_session

        return open_session(path, threads, names, fuses=False)

    def aimed_at(self, targets: Sequence[str], notes: Notes | None = None) -> TensorRt:
        """Return the runtime that builds for these GPU architectures."""
        return TensorRt(targets, notes)


def seen_by(examples: Batches, names: Sequence[str]) -> dict[str, list[tuple[int, ...]]]:
    """Return the shapes of the data's batches by input."""
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
