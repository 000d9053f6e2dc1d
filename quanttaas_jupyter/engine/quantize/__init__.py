"""Quantization techniques, one module each, registered under (quantization, runtime).

A technique is ``quantize(job: QuantizeJob) -> None``: it writes the quantized artifact to ``job.target``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...bundle.batches import Batches
from ..registry import Registry


@dataclass(frozen=True)
class QuantizeJob:
    """What a quantization is given.

    Attributes:
        source: The unquantized artifact of the runtime.
        target: Where the quantized artifact goes.
        calibration: Samples that set the ranges.
        names: Names of the artifact's inputs, in the order of the samples' leaves.
        ignore: Names of modules, or of their classes, that stay in higher precision.
        report: Called with a line for the log.
    """

    source: Path
    target: Path
    calibration: Batches
    names: tuple[str, ...]
    ignore: tuple[str, ...]
    report: Callable[[str], None]


QUANTIZERS: Registry[Callable[[QuantizeJob], None]] = Registry(__name__)
