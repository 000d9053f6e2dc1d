"""From a metric's description in a study's record to the meter that measures it."""

from __future__ import annotations

import copy
import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ...core.failures import StageError, explain
from ...core.understanding import Judging
from . import losses
from .estimates import transformed
from .explained import ExplainedState
from .meters import BLOCKS, BLOCKS_OF_LISTS, BlockMeter, Meter, RatioMeter, UnmergedMeter, WholeMeter
from .r2 import R2State
from .recalls import RecallState
from .taken import feed_of, in_double, places
from .tensors import aligned, counted, judged, judged_output, judged_targets, leaves_of, predicted
from .torchmetrics_state import as_number, holds_lists, is_mergeable, maker

MOST_BYTES = 2 << 30
"""Default of the recipe's ``max_bytes``."""
_NOTHING_COUNTS = "every label is an ignored one, so that nothing can be counted"
_MOST_NATS = 700.0
"""Cross-entropy, in nats, beyond which a perplexity is no floating-point number any more."""


def meter_of(
    metric: Mapping[str, Any], function: Any, judging: Judging, samples: int, most_bytes: int = MOST_BYTES
) -> Meter:
    """Return the meter of a metric.

    Args:
        metric: Its description: ``kind``, ``name``, ``takes``, ``options`` and so on, see ``client.inspection.metric``.
        function: What travelled as a pickle: a callable, a loss, a metric, or a dict of metrics by name.
        judging: How outputs are compared with targets.
        samples: Number of samples that will be seen.
        most_bytes: Bytes that a metric which needs everything at once may keep.

    Raises:
        StageError: A named metric cannot be made where this runs.
    """
    kind = metric["kind"]
    if kind == "built-in":
        return _BUILT_IN[metric["name"]](judging, samples)
    if kind == "torchmetrics":
        return _of_torchmetrics(_made(metric), metric, judging, samples)
    if kind == "instance":
        return _of_torchmetrics(function[metric["name"]], metric, judging, samples)
    if kind == "loss":
        return RatioMeter(losses.sums_of(function, judging), _NOTHING_COUNTS)
    if metric.get("per_sample"):
        return RatioMeter(_sums_of(function, metric), _NOTHING_COUNTS)
    number = _number_of(function, metric)
    if kind == "sklearn":
        feed = functools.partial(places, metric["takes"], judging=judging)
        return WholeMeter(number, metric["name"], most_bytes, feed=feed)
    return WholeMeter(number, metric["name"], most_bytes, (judging.output_dim, judging.target_dim))


def agreement_meter(judging: Judging, samples: int, blocks: int = BLOCKS) -> Meter:
    """Return the meter of how far a model says what the baseline says.

    It is the share of places with the baseline's class; of outputs that are no class scores R2 against the
    baseline's outputs (0 at worst). With one of ``blocks`` it has no interval, and takes less memory.
    """
    if judging.class_dim is None and judging.scores not in ("classes", "logits", "probabilities"):
        return BlockMeter(ExplainedState, lambda o, t, r: _both(o, r, judging), samples, judging.is_cut, blocks)

    def sums(outputs: Any, targets: Any, reference: Any) -> tuple[np.ndarray, np.ndarray]:
        mine, theirs = (predicted(output, judging) for output in _both(outputs, reference, judging))
        same = mine == theirs
        labels = judged_targets(targets, judging) if targets is not None and leaves_of(targets) else None
        # Places that accuracy does not count, such as padding, say nothing of agreement either.
        if labels is None or labels.shape != same.shape:
            return _sums(same, same | True)
        return _sums(same, counted(labels, judging))

    return RatioMeter(sums, _NOTHING_COUNTS)


def _both(outputs: Any, reference: Any, judging: Judging) -> tuple[Any, Any]:
    mine = judged_output(outputs, judging)
    return mine, mine if reference is None else judged_output(reference, judging)


def _accuracy(judging: Judging, samples: int) -> Meter:
    def sums(outputs: Any, targets: Any, reference: Any) -> tuple[np.ndarray, np.ndarray]:
        output, labels = judged(outputs, targets, judging)
        found, labels = aligned(predicted(output, judging), labels)
        return _sums(found.long() == labels.long(), counted(labels, judging))

    return RatioMeter(sums, _NOTHING_COUNTS)


def _balanced_accuracy(judging: Judging, samples: int) -> Meter:
    def feed(outputs: Any, targets: Any, reference: Any) -> tuple[Any, Any, Any]:
        output, labels = judged(outputs, targets, judging)
        found, labels = aligned(predicted(output, judging), labels)
        return found, labels, counted(labels, judging)

    return BlockMeter(RecallState, feed, samples, judging.is_cut)


def _perplexity(judging: Judging, samples: int) -> Meter:
    return _Exponential(RatioMeter(losses.cross_entropy(judging), _NOTHING_COUNTS))


class _Exponential:
    """Perplexity: the exponential of the mean cross-entropy of a place, in nats."""

    def __init__(self, inner: RatioMeter) -> None:
        self._inner = inner
        self.update = inner.update

    def estimate(self) -> Any:
        entropy = self._inner.estimate()
        if entropy.value > _MOST_NATS:
            raise StageError(f"the cross-entropy is {entropy.value:.3g} nats a token, beyond any perplexity")
        value = float(np.exp(entropy.value))
        return transformed(entropy, value, value)


def _r2(judging: Judging, samples: int) -> Meter:
    def feed(outputs: Any, targets: Any, reference: Any) -> tuple[Any, Any]:
        output, target = aligned(*judged(outputs, targets, judging))
        # Pictures and sequences are pooled as ``ExplainedState`` pools them; the first batch tells.
        states["is_pooled"] = states.get("is_pooled", sum(size > 1 for size in target.shape[1:]) > 1)
        return output.reshape(len(output), -1).double(), target.reshape(len(target), -1).double()

    states: dict[str, bool] = {}
    return BlockMeter(lambda: R2State(**states), feed, samples, judging.is_cut)


_BUILT_IN: dict[str, Callable[[Judging, int], Meter]] = {
    "accuracy": _accuracy,
    "balanced_accuracy": _balanced_accuracy,
    "r2": _r2,
    "perplexity": _perplexity,
    "agreement": agreement_meter,
}


def _made(metric: Mapping[str, Any]) -> Any:
    module, _, name = str(metric["class"]).rpartition(".")
    if module.partition(".")[0] != "torchmetrics":
        raise StageError(f"metric {metric['name']!r} is none of TorchMetrics")
    try:
        return getattr(importlib.import_module(module), name)(**metric.get("options", {}))
    except Exception as error:
        raise StageError(f"metric {metric['name']!r} cannot be made: {explain(error)['reason']}") from error


def _of_torchmetrics(metric: Any, described: Mapping[str, Any], judging: Judging, samples: int) -> Meter:
    import torch

    feed = feed_of(metric, described, judging)
    if type(metric).__module__.startswith("torchmetrics.regression"):
        # Their sums of squares lose a small variance beside a large mean in single precision.
        metric, feed = copy.deepcopy(metric).set_dtype(torch.float64), in_double(feed)
    make = maker(metric, bool(described.get("is_mean")))
    if not is_mergeable(metric):
        return UnmergedMeter(make, feed, samples, judging.is_cut)
    blocks = {"blocks": BLOCKS_OF_LISTS} if holds_lists(metric) else {}
    return BlockMeter(make, feed, samples, judging.is_cut, **blocks)


def _sums_of(function: Callable[..., Any], metric: Mapping[str, Any]) -> Callable[[Any, Any, Any], tuple[Any, Any]]:
    def sums(outputs: Any, targets: Any, reference: Any) -> tuple[np.ndarray, np.ndarray]:
        values = per_sample(_called(function, metric, outputs, targets), metric["name"])
        return values, np.ones(len(values))

    return sums


def _number_of(function: Callable[..., Any], metric: Mapping[str, Any]) -> Callable[[Any, Any], float]:
    def number(outputs: Any, targets: Any) -> float:
        if metric["kind"] == "sklearn":
            outputs, targets = outputs.numpy(), targets.numpy()
        found = _called(function, metric, outputs, targets)
        values = np.asarray(found.detach() if hasattr(found, "detach") else found, dtype=float)
        # A function that gave one number on the first batch may give one a sample where a batch is a single one.
        return as_number(float(values.mean()), metric["name"])

    return number


def per_sample(found: Any, name: str) -> np.ndarray:
    """Return one finite number a sample (n). Raises StageError for anything else."""
    values = np.asarray(found.detach() if hasattr(found, "detach") else found, dtype=float)
    if values.ndim > 1:
        raise StageError(f"metric {name!r} gave an array of shape {values.shape}", "return one number, or one a sample")
    if not np.isfinite(values).all():
        raise StageError(f"metric {name!r} is not a finite number", "check outputs and targets for NaN")
    return values.reshape(-1)


def _called(function: Callable[..., Any], metric: Mapping[str, Any], outputs: Any, targets: Any) -> Any:
    name = metric["name"]
    is_turned = metric["kind"] == "sklearn" or metric.get("takes_targets_first")
    try:
        found = function(targets, outputs) if is_turned else function(outputs, targets)
        if found is None:
            raise StageError(f"metric {name!r} returned nothing", "return one number, or one a sample")
        return found
    except StageError:
        raise
    except Exception as error:
        raise StageError(
            f"metric {name!r} cannot be computed: {explain(error)['reason']}",
            "check that outputs and targets are what it expects",
        ) from error


def _sums(right: Any, counts: Any) -> tuple[np.ndarray, np.ndarray]:
    """Right places and counted places of every sample (n)."""
    right, counts = (right & counts).reshape(len(right), -1), counts.reshape(len(counts), -1)
    return right.sum(1).double().numpy(), counts.sum(1).double().numpy()
