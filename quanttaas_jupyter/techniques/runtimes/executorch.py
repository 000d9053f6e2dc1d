"""ExecuTorch with XNNPACK on CPUs: artifacts are ``.pte`` files, for phones and boards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...bundle.batches import Batch, Batches
from ...core.catalogue import Technique
from ...core.failures import StageError
from ...core.records.artifact import Signature
from . import RUNTIMES, Built, Layers, Runtime, Session
from .export_check import Mismatch, arrays_of, difference, flattened, named, probes_of, varying

if TYPE_CHECKING:
    import torch


class ExecuTorch(Runtime):
    """ExecuTorch runtime: builds with ``torch.export`` and XNNPACK, runs with ExecuTorch's Python bindings.

    Its files cannot be changed, so quantizations start from the exported graph, which is kept with the artifact.
    """

    suffix = ".pte"

    def build(self, model: torch.nn.Module, examples: Batches, path: Path, report: Callable[[str], None]) -> Built:
        """Lower the module, and compare the outputs of the file with the module's at several batch sizes.

        The batch varies up to 64, other dimensions up to twice the size in the data. If ``torch.export`` needs a fixed
        batch size, it is one sample.

        Raises:
            StageError: ExecuTorch cannot express or reproduce the module.
        """
        from .executorch_file import package

        package()
        probes = probes_of(examples)
        flat = flattened(model, examples.inputs)
        answers = [arrays_of(flat(*batch.inputs)) for batch in probes]
        signature = Signature(examples.inputs, examples.names, flat.structure)
        warnings: tuple[str, ...] = ()
        graph = path.with_suffix(".pt2")
        try:
            self._write(flat, probes[0], _bounded(examples, probes), graph, path)
            error = difference(self.open(path, 1, examples.names), probes, answers)
        except (StageError, Mismatch) as problem:
            if isinstance(problem, StageError) or not examples.is_sliceable():
                raise _refused(problem) from problem
            report(f"a batch of any size does not work ({problem}); trying single samples")
            error = self._built_for_one(flat, probes, answers, examples, graph, path)
            warnings = ("the file takes one sample at a time: torch.export freezes this model's batch size",)
        except Exception as problem:
            raise StageError(f"torch.export cannot express this model: {named(problem)}") from problem
        return Built(error, signature, warnings, graph)

    def open(self, path: Path, threads: int, names: Sequence[str]) -> Session:
        """Load a program on ``threads`` threads that takes the inputs ``names`` in order.

        Raises:
            StageError: The runtime refuses the file.
        """
        from .executorch_file import open_program

        return open_program(path, threads, len(names))

    def layers(self, path: Path) -> Layers:
        """Count the calls with weights in the exported graph, and those with narrow weights."""
        from .torch_graph import summarize

        return summarize(path)

    def _write(
        self, flat: torch.nn.Module, probe: Batch, dynamic: Sequence[dict[int, Any]], graph: Path, path: Path
    ) -> None:
        import torch

        from .executorch_file import lower
        from .torch_graph import save

        save(flat, probe.inputs, dynamic, graph)
        lower(torch.export.load(graph), path)

    def _built_for_one(
        self,
        flat: torch.nn.Module,
        probes: list[Batch],
        answers: list[list[Any]],
        examples: Batches,
        graph: Path,
        path: Path,
    ) -> float:
        one = Batch([leaf[:1] for leaf in probes[0].inputs], [])
        try:
            self._write(flat, one, [{} for _ in one.inputs], graph, path)
            return difference(self.open(path, 1, examples.names), probes, answers)
        except Mismatch as mismatch:
            raise _refused(mismatch) from mismatch


def _bounded(examples: Batches, probes: list[Batch]) -> list[dict[int, Any]]:
    """Return the dimensions of each input that vary, with their bounds."""
    import torch

    from .executorch_file import MOST_SAMPLES

    found = []
    for position, dims in enumerate(varying(examples, probes)):
        sizes = [batch.inputs[position].shape for batch in (*examples.batches, *probes)]
        most = {dim: 2 * max(shape[dim] for shape in sizes) for dim in dims}
        most |= {0: MOST_SAMPLES} if 0 in dims and examples.is_sliceable() else {}
        found.append({dim: torch.export.Dim.AUTO(min=1, max=most[dim]) for dim in dims})
    return found


def _refused(problem: Exception) -> StageError:
    if isinstance(problem, StageError):
        return problem
    return StageError(f"ExecuTorch does not reproduce the model: {problem}")


RUNTIMES.register(
    "executorch",
    Technique(
        help="a .pte file for phones and boards",
        order=4,
    ),
    extra="executorch",
)(ExecuTorch())
