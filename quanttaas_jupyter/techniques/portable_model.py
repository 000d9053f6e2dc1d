"""Models for another version of Python: exported programs, because a pickle holds bytecode that it could not run.

An exported program computes the same as the module, but has no modules left that could be pruned or trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bundle.batches import Batches
from ..bundle.structure import flatten, is_one_argument, unflatten
from ..core.failures import StageError

if TYPE_CHECKING:
    import torch

WHY_NOT = "the model came from another version of Python as an exported program, which cannot be pruned or trained"
WHAT_INSTEAD = "use a kernel with the cluster's version of Python, or an image with yours; or quantize only"


def pack(model: torch.nn.Module, examples: Batches, path: Path) -> dict[str, Any]:
    """Export a module to a file, and return the structures of its inputs and outputs.

    Raises:
        StageError: The module cannot be exported.
    """
    from .runtimes.torch_export import TorchExport

    built = TorchExport().build(model, examples, path, lambda line: None)
    return {"inputs": built.signature.inputs, "outputs": built.signature.outputs}


def load(path: Path, signature: Mapping[str, Any]) -> torch.nn.Module:
    """Return a module that runs a packed program and is called like the original.

    Raises:
        StageError: The program holds pickled objects.
    """
    import torch

    from .runtimes.torch_graph import load as load_graph

    program = load_graph(path)

    class Portable(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.program = program

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            wanted = signature["inputs"]
            by_name = isinstance(wanted, dict) and not is_one_argument(wanted)
            inputs = kwargs if by_name else _nested(args, wanted)
            leaves = [leaf for _, leaf in flatten(inputs)[0]]
            return unflatten(signature["outputs"], list(self.program(*leaves)))

        def train(self, mode: bool = True) -> Portable:
            # An exported program has one mode only, and raises an error for another.
            self.training = False
            return self

    return Portable().train(False)


def refuse(model: Mapping[str, Any]) -> None:
    """Check that a study's model can be pruned and trained.

    Raises:
        StageError: The model was sent as an exported program.
    """
    if "portable" in model:
        raise StageError(WHY_NOT, WHAT_INSTEAD)


def _nested(args: tuple[Any, ...], structure: Any) -> Any:
    return list(args) if isinstance(structure, list) else args[0]
