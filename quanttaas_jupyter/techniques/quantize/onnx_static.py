"""``int8`` on ONNX Runtime: static QDQ with unsigned activations and signed per-channel weights (U8S8, for CPUs)."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any

from ...core.catalogue import Rounding, Technique
from ...core.failures import StageError, one_line
from ..runtimes.onnx_graph import ignored_nodes, layers_of
from . import QUANTIZERS, Quantized, QuantizeJob
from .onnx_calibration import Activation, Ranges, Reference, observe, ranges_by
from .onnx_file import load_prepared, plain_biases, save
from .onnx_qdq import nodes_to_quantize, read_floats, split_biases, tensors_of, with_activations, with_qdq
from .onnx_smooth import smooth
from .onnx_weights import store_int8, without_kernels
from .saturation import FULL_BITS, NARROW_BITS, saturates

_GOOD_DB = 35.0
"""SQNR in decibels at which no further calibrator is tried: in the tests, none that reached it changed a prediction."""
_BROKEN_DB = 3.0
"""SQNR in decibels below which a kernel or a range must be wrong, as rounding to eight bits never costs so much."""


@QUANTIZERS.register(
    ("int8", "onnxruntime"),
    Technique(
        help="weights and activations in 8 bits, calibrated: smallest and fastest on most processors",
        order=3,
        color="#E69F00",
        starts={"convolution": 1, "linear": 1, "other": 3},
        makes_integers=True,
        rounding=Rounding("int8", inputs=True),
    ),
    needs=("calibrator", "processor", "keep"),
)
def quantize(job: QuantizeJob) -> Quantized:
    """Calibrate ranges, then write QDQ nodes around layers with integer kernels, and store other weights as int8.

    ``auto`` uses minimum and maximum if that leaves 35 dB on calibration samples. Otherwise it tries smoothing,
    percentile and entropy, all from the same pass over the samples, and keeps the one closest to the original. If the
    processor's int8 sums saturate, each is also tried with weights of seven bits.

    Raises:
        StageError: The graph cannot be prepared or calibrated.
    """
    return Static.of(job).write()


@dataclass(frozen=True)
class Calibrated:
    """Graph with the ranges of its activations.

    Attributes:
        model: The graph, in float.
        ranges: Ranges of its activations.
        calibrator: Name of the method that chose the ranges.
        smoothed: Ranges that smoothing changed.
        between: Names of nodes between the layers that stay in float.
        weight_bits: Bits of weights; 7 if 8 would saturate the processor's sums.
    """

    model: Any
    ranges: Ranges
    calibrator: str
    smoothed: Ranges = field(default_factory=dict)
    between: frozenset[str] = frozenset()
    weight_bits: int = FULL_BITS

    @property
    def choices(self) -> dict[str, Any]:
        """The calibrator, and other choices that differ from the default."""
        choices: dict[str, Any] = {"calibrator": self.calibrator}
        if self.smoothed:
            choices["smoothed"] = True
        if self.weight_bits != FULL_BITS:
            choices["weight_bits"] = self.weight_bits
        return choices

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences for the user about the choices."""
        if not self.between:
            return ()
        return ("ONNX Runtime computes this model's int8 activations wrongly: between the layers it is float32",)


@dataclass(frozen=True)
class Static:
    """One pass over the calibration samples, from which any number of int8 graphs can be made.

    A quantization with the same calibration and other integers is a subclass with its own ``with_integers``.
    """

    job: QuantizeJob
    model: Any
    seen: dict[str, Activation]
    ignored: frozenset[str]

    @classmethod
    def of(cls, job: QuantizeJob) -> Static:
        """Prepare the graph, and observe its activations.

        Raises:
            StageError: The graph cannot be prepared, or ONNX Runtime cannot run it.
        """
        model = load_prepared(job.source)
        plain_biases(model.graph)
        ignored = frozenset(ignored_nodes(model.graph, job.ignore))
        tensors = tensors_of(model.graph, nodes_to_quantize(model.graph, ignored))
        norms = {node.output[0] for node in model.graph.node if node.op_type == "LayerNormalization"}
        try:
            seen = observe(model, tensors, job, norms)
        except Exception as error:
            reason = f"ONNX Runtime cannot run the calibration samples: {one_line(error)}"
            raise StageError(reason, "try fp16") from error
        return cls(job, model, seen, ignored)

    def write(self) -> Quantized:
        """Write the graph with the best ranges, in which ``job.keep`` sensitive layers stay in float."""
        sensitive = [module for module, _ in self.job.ranking[: self.job.keep or 0]]
        kept = self.nodes_of(sensitive)
        chosen = self.calibrated(kept)
        save(self.quantized(chosen, kept), self.job.target)
        choices = {**chosen.choices, "kept": sensitive} if sensitive else chosen.choices
        return Quantized((*self.warnings, *chosen.warnings), choices)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences about layers of which only the weights are integers."""
        names = without_kernels(self.model.graph) - self.ignored
        types = sorted({layer.op_type for layer in layers_of(self.model.graph) if layer.node in names} - {"Gather"})
        return (f"{' and '.join(types)}: int8 weights, float32 arithmetic",) if types else ()

    @property
    def modules(self) -> list[str]:
        """Paths of the modules with layers to quantize, in order."""
        layers = layers_of(self.model.graph)
        return list(dict.fromkeys(layer.module for layer in layers if layer.node not in self.ignored))

    def nodes_of(self, modules: Collection[str]) -> set[str]:
        """Return the names of the nodes with weights that come from these modules."""
        return {layer.node for layer in layers_of(self.model.graph) if layer.module in modules}

    def calibrated(self, kept: Collection[str]) -> Calibrated:
        """Return the graph with ranges by ``job.calibrator``; ``auto`` tries several and keeps the best."""
        calibrator = "minmax" if self.job.calibrator == "auto" else self.job.calibrator
        reference = Reference(self.model, self.job)
        best = Calibrated(self.model, ranges_by(calibrator, self.seen), calibrator)
        quality = -math.inf
        widths = (FULL_BITS, NARROW_BITS) if saturates() else (FULL_BITS,)

        def consider(candidate: Calibrated, least: float = -math.inf) -> None:
            nonlocal best, quality
            # Narrow ranges make large integers, so that the best range for eight bits need not be best for seven.
            for sized in (replace(candidate, weight_bits=bits) for bits in widths):
                if quality >= _GOOD_DB:
                    break
                decibels = reference.sqnr_db(self.quantized(sized, kept))
                if decibels > max(quality, least):
                    best, quality = sized, decibels

        consider(best)
        if quality < _BROKEN_DB:
            consider(self._apart(best), _BROKEN_DB)
        if self.job.calibrator == "auto":
            for change in (self._smoothed, self._by_percentile, self._by_entropy):
                if quality < _GOOD_DB and (candidate := change(best)) is not None:
                    consider(candidate)
            self.job.report(f"calibrated by {best.calibrator}: {quality:.1f} dB on calibration samples")
        return best

    def _apart(self, base: Calibrated) -> Calibrated:
        """Return a variant without integers between layers, since ONNX Runtime fuses some operators there wrongly."""
        layers = {layer.node for layer in layers_of(self.model.graph)}
        names = {node.name for node in nodes_to_quantize(self.model.graph, self.ignored)}
        return replace(base, between=frozenset(names - layers))

    def _smoothed(self, base: Calibrated) -> Calibrated | None:
        smoothed = smooth(base.model, self.seen)
        if smoothed is None:
            return None
        return replace(base, model=smoothed.model, ranges=base.ranges | smoothed.ranges, smoothed=smoothed.ranges)

    def _by_percentile(self, base: Calibrated) -> Calibrated:
        return replace(base, ranges=ranges_by("percentile", self.seen) | base.smoothed, calibrator="percentile")

    def _by_entropy(self, base: Calibrated) -> Calibrated:
        return replace(base, ranges=ranges_by("entropy", self.seen) | base.smoothed, calibrator="entropy")

    def quantized(self, calibrated: Calibrated, kept: Collection[str]) -> Any:
        """Return the int8 graph, with ignored and ``kept`` nodes in float."""
        left = with_activations(self.model.graph, self.ignored.union(kept)) | calibrated.between
        names = [node.name for node in nodes_to_quantize(self.model.graph, left)]
        model = self.with_integers(calibrated, names, without_kernels(self.model.graph) - left)
        read_floats(model.graph, left)
        split_biases(model.graph)
        return model

    def quantized_alone(self, calibrated: Calibrated, module: str) -> Any:
        """Return a graph in which only this module's layers are int8."""
        nodes = self.nodes_of((module,)) - self.ignored
        stored = without_kernels(self.model.graph) & nodes
        model = self.with_integers(calibrated, nodes - stored, stored)
        split_biases(model.graph)
        return model

    def with_integers(self, calibrated: Calibrated, nodes: Collection[str], stored: Collection[str]) -> Any:
        """Return a copy of the calibrated graph with integers.

        Args:
            calibrated: The graph, and the ranges of its activations.
            nodes: Names of nodes that compute in integers.
            stored: Names of nodes of which only the weights are integers.
        """
        model = with_qdq(calibrated.model, calibrated.ranges, nodes, narrow=calibrated.weight_bits == NARROW_BITS)
        store_int8(model.graph, stored)
        return model
