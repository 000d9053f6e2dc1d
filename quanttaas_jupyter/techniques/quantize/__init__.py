"""Quantization techniques, one module each, registered under (quantization, runtime).

A technique is a function ``quantize(job: QuantizeJob) -> Quantized`` that writes the quantized artifact to
``job.target``. A runtime that can rank layers by the damage of quantizing each alone registers ``rank(job) -> Ranking``
in ``RANKERS`` under its name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ...bundle.batches import Batches
from ...core.catalogue import Technique, describe
from ..registry import Registry
from ..runtimes import Notes, Session

if TYPE_CHECKING:
    import torch

Ranking = Sequence[tuple[str, float]]
"""Layers (module paths) with the SQNR in dB of the model's outputs when only that layer is quantized; worst first."""


class Judge(Protocol):
    """Evaluation of an artifact on calibration data, never on the data that judges trials."""

    def drop(self, path: Path) -> float:
        """Return the drop from the original, unpruned model; 1 - agreement if there are no targets."""

    def drop_of(self, session: Session) -> float:
        """Return the ``drop`` of an open session."""

    def sqnr_db(self, path: Path) -> float:
        """Return the SQNR of the outputs against the unquantized ones, in decibels; 120 if they are equal."""


@dataclass(frozen=True)
class QuantizeJob:
    """Arguments of a quantization technique.

    Attributes:
        source: The unquantized artifact of the runtime, or its graph if it has one.
        target: Path for the quantized artifact.
        calibration: Samples that set the ranges.
        names: Names of the artifact's inputs, in the order of the samples' leaves.
        ignore: Names of modules that stay in higher precision, with all their submodules; "" is the whole model.
        report: Called with lines for the log.
        calibrator: ``minmax``, ``entropy``, ``percentile``, or ``auto`` for the best on calibration data.
        keep: Number of layers from the head of ``ranking`` that stay in higher precision; None lets the technique
            decide. Other than 0 only for techniques with the need ``keep``, and None only for those that know the goal.
        ranking: Sensitivity of the layers, made by the runtime's ranker; empty if the technique does not need it.
        max_drop: The drop that the goal allows, in the metric's unit.
        judge: Evaluates artifacts on calibration data; None if the technique decides nothing.
        targets: GPU architectures to build for, for runtimes with that need; empty for the default.
        module: Loads the module that the source was built from, in eval mode; for techniques with the need ``module``.
        class_dim: The dimension of the main output that holds one score a class, or None.
        output: Dotted name of the output that is judged; empty for ``logits`` or the first.
        notes: What the runtime learned in earlier builds; None where nothing keeps it.
    """

    source: Path
    target: Path
    calibration: Batches
    names: tuple[str, ...]
    ignore: tuple[str, ...]
    report: Callable[[str], None]
    calibrator: str = "auto"
    keep: int | None = 0
    ranking: Ranking = ()
    max_drop: float = 0.01
    judge: Judge | None = None
    targets: tuple[str, ...] = ()
    module: Callable[[], torch.nn.Module] | None = None
    notes: Notes | None = None
    class_dim: int | None = None
    output: str = ""


@dataclass(frozen=True)
class Quantized:
    """Result of a quantization technique.

    Attributes:
        warnings: Sentences for the user.
        choices: Decisions of the technique, such as the calibrator; small JSON.
        graph: The graph of the artifact, if the runtime has one.
    """

    warnings: tuple[str, ...] = ()
    choices: dict[str, Any] = field(default_factory=dict)
    graph: Path | None = None


QUANTIZERS: Registry[Callable[[QuantizeJob], Quantized]] = Registry("quantize")
RANKERS: Registry[Callable[[QuantizeJob], Ranking]] = Registry(None)

describe(
    "quantize", "none", Technique(help="32-bit floats, as trained", order=0, color="#808080", makes_integers=False)
)
