"""Runtimes, one module each: each builds an artifact from a module, runs it, and reports its quantized layers."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ...bundle.batches import Batches
from ...core.records.artifact import Signature
from ..registry import Registry

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Layers:
    """Layers of an artifact, and which of them are quantized.

    Attributes:
        quantizable: Number of layers with weights.
        quantized: Number of those with weights of less than four bytes per number; the original may have float16
            weights.
        kept: Names of the others.
        integers: Number of layers with integer weights.
    """

    quantizable: int
    quantized: int
    kept: tuple[str, ...] = ()
    integers: int = 0


@dataclass(frozen=True)
class Built:
    """Result of building an artifact.

    Attributes:
        export_error: Largest absolute difference between the outputs of the artifact and of the module.
        signature: Its inputs and outputs.
        warnings: Sentences for the user.
        graph: File that quantizations start from and layers are counted in, if the artifact itself cannot be changed or
            read; otherwise None.
    """

    export_error: float
    signature: Signature
    warnings: tuple[str, ...] = field(default=())
    graph: Path | None = None


class Notes(Protocol):
    """Measurements that a runtime makes while it builds, kept in the store for later builds on any node."""

    def read(self, name: str) -> bytes | None:
        """Return the data under a name, or None."""

    def write(self, name: str, data: bytes) -> None:
        """Write data under a name, and replace what was there."""


Session = Callable[[Sequence[Any]], "list[Any]"]
"""A function from input arrays to output arrays.

It may have an attribute ``seconds(arrays)``, which measures a call by the device's own clock, and ``gpu_memory_bytes``.
"""


class Runtime(Protocol):
    """Interface of a runtime, registered under its name in ``RUNTIMES``."""

    suffix: str

    def build(self, model: torch.nn.Module, examples: Batches, path: Path, report: Callable[[str], None]) -> Built:
        """Write the unquantized artifact of a module.

        Raises:
            StageError: The runtime cannot express the module; the message names the operator or line.
        """

    def open(self, path: Path, threads: int, names: Sequence[str]) -> Session:
        """Load an artifact; the session takes NumPy arrays for the inputs ``names`` in order, and returns arrays."""

    def layers(self, path: Path) -> Layers:
        """Count the quantized layers of an artifact, or of its graph if it has one."""

    def suffix_of(self, path: Path) -> str:
        """Return the ending of an artifact's name."""
        return self.suffix

    def exported_name(self, filename: str) -> str:
        """Return the name under which an artifact is exported into a folder."""
        return filename

    def export(self, artifact: Path, target: Path) -> None:
        """Write an artifact where a person wants it."""
        shutil.copyfile(artifact, target)

    def why_not_run(self) -> str:
        """Return why artifacts cannot run on this machine, or an empty string if they can."""
        return ""

    def why_code(self, path: Path) -> str:
        """Return why loading an artifact may run code of the person who wrote it; an empty string if it is data."""
        return ""

    def open_graph(self, path: Path, threads: int, names: Sequence[str]) -> Session:
        """Load an artifact's graph, which is evaluated instead of the artifact on machines that cannot run it."""
        return self.open(path, threads, names)

    def aimed_at(self, targets: Sequence[str], notes: Notes | None = None) -> Runtime:
        """Return the runtime that builds for these GPU architectures; for runtimes with the need ``targets``."""
        return self


RUNTIMES: Registry[Runtime] = Registry("runtime")
