"""PyTorch on CPUs: artifacts are exported programs (``.pt2``), which do not need the model's source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...bundle.batches import Batches
from ...core.catalogue import Technique
from ...core.failures import StageError
from ...core.records.artifact import Signature
from . import RUNTIMES, Built, Layers, Runtime, Session
from .export_check import Mismatch, arrays_of, difference, flattened, named, probes_of, varying

if TYPE_CHECKING:
    import torch


class TorchExport(Runtime):
    """PyTorch runtime: builds with ``torch.export``, runs the program's graph with folded constants."""

    suffix = ".pt2"

    def build(self, model: torch.nn.Module, examples: Batches, path: Path, report: Callable[[str], None]) -> Built:
        """Export the module, and compare the outputs of the file with the module's at several batch sizes.

        Raises:
            StageError: ``torch.export`` cannot express or reproduce the module.
        """
        import torch

        from .torch_graph import save

        probes = probes_of(examples)
        flat = flattened(model, examples.inputs)
        answers = [arrays_of(flat(*batch.inputs)) for batch in probes]
        dynamic = [dict.fromkeys(dims, torch.export.Dim.AUTO) for dims in varying(examples, probes)]
        try:
            save(flat, probes[0].inputs, dynamic, path)
            error = difference(self.open(path, 1, examples.names), probes, answers)
        except Mismatch as mismatch:
            raise StageError(f"torch.export does not reproduce the model: {mismatch}") from mismatch
        except Exception as problem:
            raise StageError(f"torch.export cannot express this model: {named(problem)}") from problem
        signature = Signature(examples.inputs, examples.names, flat.structure)
        return Built(error, signature)

    def open(self, path: Path, threads: int, names: Sequence[str]) -> Session:
        """Open a session that takes the inputs ``names`` in order, and sets the process's number of threads."""
        import torch

        from .torch_graph import fold, load

        module = load(path)
        with torch.no_grad():
            fold(module)

        def run(arrays: Sequence[Any]) -> list[Any]:
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
            with torch.inference_mode():
                outputs = module(*(torch.from_numpy(array) for array in arrays))
            return [leaf.numpy() for leaf in outputs]

        return run

    def why_code(self, path: Path) -> str:
        """Return what of a file is on no list of plain graphs and weights; ``torch.export.load`` evaluates much."""
        from .plain_program import why_code

        return why_code(path)

    def layers(self, path: Path) -> Layers:
        """Count the calls with weights, and those with narrow weights."""
        from .torch_graph import summarize

        return summarize(path)


RUNTIMES.register(
    "torch",
    Technique(
        help="a .pt2 file for PyTorch",
        order=2,
    ),
)(TorchExport())
