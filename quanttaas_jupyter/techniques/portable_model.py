"""A model on its way to another Python: as an exported program, where a pickle would carry bytecode it cannot run.

An exported program computes what the module computes; it has no modules left that could be pruned or trained.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..bundle.batches import Batches
from ..bundle.structure import flatten, unflatten
from ..core.failures import StageError

WHY_NOT = "the model came from another version of Python as an exported program, which cannot be pruned or trained"
WHAT_INSTEAD = "use a kernel with the cluster's version of Python, or an image with yours; or quantize only"


def pack(model: Any, examples: Batches) -> tuple[bytes, dict[str, Any]]:
    """Export a module; returns the program and how its inputs and outputs are nested. Raises StageError."""
    from .runtimes.torch_export import TorchExport

    with tempfile.TemporaryDirectory(prefix="quanttaas-") as folder:
        path = Path(folder) / "model.pt2"
        built = TorchExport().build(model, examples, path, lambda line: None)
        return path.read_bytes(), {"inputs": built.about["inputs"], "outputs": built.about["outputs"]}


def load(data: bytes, about: Mapping[str, Any]) -> Any:
    """The module of a packed program: called like the original. Raises StageError where it holds pickled objects."""
    import torch

    from .runtimes.torch_graph import load as load_graph

    with tempfile.TemporaryDirectory(prefix="quanttaas-") as folder:
        path = Path(folder) / "model.pt2"
        path.write_bytes(data)
        program = load_graph(path)

    class Portable(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.program = program

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            inputs = kwargs if isinstance(about["inputs"], dict) else _nested(args, about["inputs"])
            leaves = [leaf for _, leaf in flatten(inputs)[0]]
            return unflatten(about["outputs"], list(self.program(*leaves)))

        def train(self, mode: bool = True) -> Any:
            # An exported program knows one mode only, and says so with an error.
            self.training = False
            return self

    return Portable().train(False)


def refuse(model: Mapping[str, Any]) -> None:
    """Raise StageError if a study's model cannot be pruned or trained because of how it travelled."""
    if "portable" in model:
        raise StageError(WHY_NOT, WHAT_INSTEAD)


def _nested(args: tuple[Any, ...], structure: Any) -> Any:
    return list(args) if isinstance(structure, list) else args[0]
