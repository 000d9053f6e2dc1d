"""What all runtimes of ONNX files do alike with them."""

from __future__ import annotations

from pathlib import Path

from . import Layers, Runtime, onnx_parts


class OnnxArtifact(Runtime):
    """Runtime whose artifacts are ONNX files, or archives of graph and weights beyond 2 GB."""

    suffix = ".onnx"

    def layers(self, path: Path) -> Layers:
        """Count the nodes with weights, and those that are quantized."""
        from .onnx_graph import summarize

        return summarize(path)

    def suffix_of(self, path: Path) -> str:
        """Return the ending of an artifact's name, which tells an archive."""
        return onnx_parts.SUFFIX if onnx_parts.is_packed(path) else self.suffix

    def exported_name(self, filename: str) -> str:
        """Return the name of the graph: an archive is exported as the two files that ONNX's tools open."""
        return f"{filename.removesuffix(onnx_parts.SUFFIX)}{self.suffix}" if filename.endswith(".zip") else filename

    def export(self, artifact: Path, target: Path) -> None:
        """Write an artifact; of an archive to a name that ends with ``.onnx``, a graph and its weights beside it."""
        if target.suffix == self.suffix and onnx_parts.is_packed(artifact):
            onnx_parts.unpack(artifact, target)
        else:
            super().export(artifact, target)
