"""Quantization techniques, one module each, registered under (quantization, runtime).

A technique is ``quantize(job: QuantizeJob) -> Quantized``: it writes the quantized artifact to ``job.target``. A
runtime whose layers can be ranked by the damage that quantizing each alone does registers ``rank(job) -> Ranking`` in
``RANKERS`` under its name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ...bundle.batches import Batches
from ...core.catalogue import Technique, describe
from ..registry import Registry
from ..runtimes import Notes, Session

Ranking = Sequence[tuple[str, float]]
"""Layers (module paths) with the SQNR in dB of the model's outputs when that layer alone is quantized; worst first."""


class Judge(Protocol):
    """Looks at an artifact on calibration data; never on data that judges trials."""

    def drop(self, path: Path) -> float:
        """How much worse it is than the original model, pruned or not; 1 - agreement where there are no targets."""

    def drop_of(self, session: Session) -> float:
        """``drop`` of a model that is open already."""

    def sqnr_db(self, path: Path) -> float:
        """Signal to quantization noise of its outputs against the unquantized ones; infinite where they are equal."""


@dataclass(frozen=True)
class QuantizeJob:
    """What a quantization is given.

    Attributes:
        source: The unquantized artifact of the runtime, or its graph where it has one.
        target: Where the quantized artifact goes.
        calibration: Samples that set the ranges.
        names: Names of the artifact's inputs, in the order of the samples' leaves.
        ignore: Names of modules that stay in higher precision, each with all below it; "" stands for the whole model.
        report: Called with a line for the log.
        calibrator: ``minmax``, ``entropy``, ``percentile``, or ``auto`` for the best on calibration data.
        keep: So many layers from the head of ``ranking`` stay in higher precision; None lets the technique decide.
        ranking: Sensitivity of the layers, made by the runtime's ranker; empty where nothing asks for it.
        max_drop: What the person allows, in the metric's unit.
        judge: Compares artifacts on calibration data; None where there is nothing to decide.
        targets: GPU architectures to build for, for runtimes with that need; empty for the usual.
        module: Loads the module that the source was built from, in eval mode; for techniques with the need ``module``.
        class_dim: The dimension of the main output that holds one score a class, or None.
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
    module: Callable[[], Any] | None = None
    notes: Notes | None = None
    class_dim: int | None = None


@dataclass(frozen=True)
class Quantized:
    """What a quantization returns: sentences for the person, what it chose by itself (small JSON), the file's graph."""

    warnings: tuple[str, ...] = ()
    choices: dict[str, Any] = field(default_factory=dict)
    graph: Path | None = None


QUANTIZERS: Registry[Callable[[QuantizeJob], Quantized]] = Registry("quantize")
RANKERS: Registry[Callable[[QuantizeJob], Ranking]] = Registry(None)

describe("quantize", "none", Technique(help="32-bit floats, as trained", order=0, color="#808080"))
