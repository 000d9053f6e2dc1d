"""Runtimes, one module each: build an artifact from a module, run it, say what in it is quantized."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ...bundle.batches import Batches
from ..registry import Registry


@dataclass(frozen=True)
class Layers:
    """What of an artifact is quantized.

    Attributes:
        quantizable: Layers with weights.
        quantized: Those with weights of less than four bytes a number; a model may be born with float16.
        kept: Names of the others.
        integers: Those with weights that are integers.
    """

    quantizable: int
    quantized: int
    kept: tuple[str, ...] = ()
    integers: int = 0


@dataclass(frozen=True)
class Built:
    """What building reports.

    Attributes:
        export_error: Largest absolute difference between the artifact's outputs and the module's.
        about: What loading needs: names of inputs and structures of inputs and outputs.
        warnings: Sentences for the person.
        graph: What quantizations start from and layers are counted in, where the artifact itself cannot be changed or
            read any more; None where it can.
    """

    export_error: float
    about: dict[str, Any]
    warnings: tuple[str, ...] = field(default=())
    graph: Path | None = None


class Notes(Protocol):
    """What a runtime learns while it builds, kept in the store for the next build, whichever node does it."""

    def read(self, name: str) -> bytes | None:
        """What was noted under a name, or None."""

    def write(self, name: str, data: bytes) -> None:
        """Note it in place of what was there."""


Session = Callable[[Sequence[Any]], "list[Any]"]
"""May tell more than outputs: ``seconds(arrays)``, the duration of a call by a device's own clock, and
``gpu_memory_bytes``."""


class Runtime(Protocol):
    """One place to deploy. Registered under its name in ``RUNTIMES``."""

    suffix: str

    def build(self, model: Any, examples: Batches, path: Path, report: Callable[[str], None]) -> Built:
        """Write the unquantized artifact of a module. Raises StageError naming the operator or line."""

    def open(self, path: Path, threads: int, names: Sequence[str]) -> Session:
        """Load an artifact; the session takes NumPy arrays, the inputs ``names`` in order, and returns arrays."""

    def layers(self, path: Path) -> Layers:
        """Count what is quantized in an artifact, or in its graph where it has one."""

    def why_not_run(self) -> str:
        """Why artifacts cannot run on this machine; empty where they can."""
        return ""

    def open_graph(self, path: Path, threads: int, names: Sequence[str]) -> Session:
        """Stands in for ``open`` where artifacts cannot run: computes what the artifact's graph says."""
        return self.open(path, threads, names)

    def aimed_at(self, targets: Sequence[str], notes: Notes | None = None) -> Runtime:
        """The runtime that builds for these GPU architectures; asked of those registered with the need ``targets``."""
        return self


RUNTIMES: Registry[Runtime] = Registry("runtime")
