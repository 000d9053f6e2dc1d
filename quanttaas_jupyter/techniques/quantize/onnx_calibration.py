"""Observation of an ONNX graph's activations on calibration samples, ranges for them, and SQNR of quantized graphs."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..evaluate.sqnr import sqnr_db
from . import QuantizeJob

_SAMPLES = 512
"""Calibration samples for ranges; chosen, not tuned. More samples cost time in proportion."""
COMPARED = 128
"""Calibration samples on which graphs are compared; chosen, not tuned. Fewer make close choices noisy."""
_BATCH = 32
"""Samples per batch; chosen, not tuned."""
_FETCHED_BYTES = 256 << 20
"""Bytes of activations fetched at once; chosen, not tuned. A larger bound costs memory, a smaller one time."""
_FED_BYTES = 32 << 20
"""Bytes of outputs of one batch; chosen, not tuned."""
_KEPT_VALUES = 1 << 16
"""Values of each tensor kept for percentiles and histograms; chosen, not tuned."""
_PERCENTILE = 99.99
"""Percent of values within a ``percentile`` range, a usual choice. Less cuts outliers and leaves finer steps."""
_BINS = 2048
"""Bins of the entropy histogram, as in Migacz (2017)."""
_LEVELS = 128
"""Levels of the magnitude in eight bits, as in Migacz (2017)."""
_STEP = 16
"""Bins between two cuts that are compared; chosen, not tuned. 1 is exact, and takes 16 times as long."""

Ranges = dict[str, tuple[np.float32, np.float32]]
"""Smallest and largest value to represent, by tensor; the range always contains zero."""


@dataclass
class Activation:
    """Observations of one tensor: exact ends, an even sample of its values, and optionally each channel's magnitude."""

    low: float = 0.0
    high: float = 0.0
    parts: list[np.ndarray] = field(default_factory=list)
    channels: np.ndarray | None = None

    @property
    def values(self) -> np.ndarray:
        """About 65,000 of its values at most, taken at even distances."""
        return np.concatenate(self.parts)


def open_model(model: Any) -> Any:
    """Open an inference session for a ``ModelProto``, with as many threads as torch uses here."""
    import onnxruntime as ort
    import torch

    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def observe(
    model: Any, tensors: Sequence[str], job: QuantizeJob, by_channel: Collection[str] = (), samples: int = _SAMPLES
) -> dict[str, Activation]:
    """Run the calibration samples once, and return observations of the floating-point tensors among ``tensors``.

    Memory stays bounded: as many samples run together as 256 MB of activations allow, and only a part of each tensor's
    values is kept.
    """
    import onnx

    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    outputs = {item.name for item in watched.graph.output}
    inputs = {item.name for item in watched.graph.input}
    wanted = [name for name in dict.fromkeys(tensors) if name not in inputs]
    watched.graph.output.extend(onnx.helper.make_empty_tensor_value_info(n) for n in wanted if n not in outputs)
    session = open_model(watched)
    first = session.run(wanted, next(feeds(model, job, 1, 1))) if wanted else []
    size = max(1, min(_BATCH, _FETCHED_BYTES // max(1, sum(array.nbytes for array in first))))
    activations: dict[str, Activation] = {}
    batches = list(feeds(model, job, samples, size))
    for feed in batches:
        arrays = {**dict(zip(wanted, session.run(wanted, feed), strict=True)), **feed} if wanted else feed
        for name, array in arrays.items():
            if array.dtype == np.float32 and array.size:
                activation = activations.setdefault(name, Activation())
                _note(activation, array, _KEPT_VALUES // len(batches), name in by_channel)
    return activations


def feeds(model: Any, job: QuantizeJob, samples: int, size: int) -> Iterator[dict[str, np.ndarray]]:
    """Yield calibration samples as inputs of a session, ``size`` at once if all have one shape."""
    names = {item.name for item in model.graph.input}
    for batch in job.calibration.head(samples).rebatched(size).batches:
        arrays = zip(job.names, (leaf.numpy() for leaf in batch.inputs), strict=True)
        yield {name: array for name, array in arrays if name in names}


def ranges_by(calibrator: str, seen: dict[str, Activation]) -> Ranges:
    """Return ranges by ``minmax``, ``percentile`` (99.99 %) or ``entropy``.

    Entropy calibration is that of Migacz ("8-bit Inference with TensorRT", 2017): the magnitude at which values are
    cut, such that 128 levels preserve the information of the histogram best.
    """
    choose = {"minmax": _minmax, "percentile": _percentile, "entropy": _entropy}[calibrator]
    ranges: Ranges = {}
    for name, activation in seen.items():
        low, high = choose(activation)
        ranges[name] = np.float32(min(low, 0.0)), np.float32(max(high, 0.0))
    return ranges


class Reference:
    """Outputs of the unquantized graph on a few calibration samples."""

    def __init__(self, model: Any, job: QuantizeJob, samples: int = COMPARED) -> None:
        session = open_model(model)
        one = session.run(None, next(feeds(model, job, 1, 1)))
        each = max(1, sum(array.nbytes for array in one))
        # Outputs of every pixel or token say as much about noise on fewer samples.
        samples = max(1, min(samples, _FETCHED_BYTES // each))
        self._feeds = list(feeds(model, job, samples, max(1, min(_BATCH, _FED_BYTES // each))))
        self._outputs = [session.run(None, feed) for feed in self._feeds]

    def sqnr_db(self, model: Any) -> float:
        """Return the SQNR in dB of a graph's outputs, from -120 (some are not finite) to 120."""
        session = open_model(model)
        return sqnr_db(_tensors([session.run(None, feed) for feed in self._feeds]), _tensors(self._outputs))


def _tensors(outputs: list[list[np.ndarray]]) -> list[Any]:
    import torch

    return [torch.from_numpy(array) for arrays in outputs for array in arrays if array.dtype.kind == "f"]


def _note(activation: Activation, array: np.ndarray, values: int, by_channel: bool) -> None:
    activation.low = min(activation.low, float(array.min()))
    activation.high = max(activation.high, float(array.max()))
    # An odd stride visits all channels of the usual even widths.
    stride = math.ceil(array.size / max(1, values)) | 1
    activation.parts.append(array.reshape(-1)[::stride].copy())
    if by_channel:
        largest = np.abs(array).max(axis=tuple(range(array.ndim - 1)))
        known = activation.channels
        activation.channels = largest if known is None else np.maximum(known, largest)


def _minmax(activation: Activation) -> tuple[float, float]:
    return activation.low, activation.high


def _percentile(activation: Activation) -> tuple[float, float]:
    outside = (100 - _PERCENTILE) / 2
    low, high = np.percentile(activation.values, [outside, 100 - outside])
    return float(low), float(high)


def _entropy(activation: Activation) -> tuple[float, float]:
    largest = max(-activation.low, activation.high)
    if not largest:
        return 0.0, 0.0
    counts, edges = np.histogram(np.abs(activation.values), _BINS, (0.0, largest))
    counts = counts.astype(np.float64)
    # Zeros, of which ReLU makes many, are represented exactly in any range.
    counts[0] = counts[1]
    divergences = {kept: _divergence(counts, kept) for kept in range(_LEVELS, _BINS + 1, _STEP)}
    cut = float(edges[min(divergences, key=lambda kept: divergences[kept])])
    return max(activation.low, -cut), min(activation.high, cut)


def _divergence(counts: np.ndarray, kept: int) -> float:
    """Return the Kullback-Leibler divergence of a histogram cut after ``kept`` bins from its form in 128 levels."""
    mine = counts[:kept].copy()
    mine[-1] += counts[kept:].sum()
    starts = np.arange(_LEVELS) * kept // _LEVELS
    filled = counts[:kept] > 0
    sums, bins = np.add.reduceat(counts[:kept], starts), np.add.reduceat(filled.astype(float), starts)
    widths = np.diff(np.append(starts, kept))
    coarse = np.repeat(sums / np.maximum(bins, 1), widths) * filled
    if not coarse.any():
        return math.inf
    mine, coarse = mine / mine.sum(), coarse / coarse.sum()
    there = mine > 0
    return float((mine[there] * np.log(mine[there] / np.maximum(coarse[there], 1e-9))).sum())
