"""Judges a model's outputs a batch at a time: metric, paired drop, agreement and signal to noise."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ...core.failures import StageError, one_line
from ...core.understanding import Judging
from . import intervals
from .divergence import Divergence
from .estimates import Estimate
from .meters import Meter, WholeMeter
from .metrics import MOST_BYTES, agreement_meter, meter_of
from .sqnr import LOSSLESS_DB, SignalToNoise
from .tensors import leaves_of

Batch = tuple[Any, Any, Any]
"""Outputs, targets (None without labels), and outputs of the baseline (None where there is none)."""


@dataclass(frozen=True)
class Measure:
    """What to measure, as a study's record says it.

    Attributes:
        metric: Description of the metric; under ``others`` those of further ones.
        function: What travelled with it as a pickle, if anything did.
        judging: How outputs are compared with targets.
        postprocess: Turns raw outputs into what the metric takes; None where nothing stands between.
        seed: Seed of resampling.
        most_bytes: Bytes that a metric which needs everything at once may keep.
    """

    metric: Mapping[str, Any]
    function: Any
    judging: Judging
    postprocess: Any = None
    seed: int = 0
    most_bytes: int = MOST_BYTES

    def metrics(self) -> list[Mapping[str, Any]]:
        """Return the metric that leads, then the others."""
        return [self.metric, *self.metric.get("others", [])]

    def processed(self, outputs: Any) -> Any:
        """Return outputs as metrics take them. Raises StageError where the person's function fails."""
        if self.postprocess is None or outputs is None:
            return outputs
        try:
            return self.postprocess(outputs)
        except Exception as error:
            name = getattr(self.postprocess, "__name__", "postprocess")
            raise StageError(f"postprocess {name} fails: {one_line(error)}") from error


class Judge:
    """Takes batches; ``measurements`` are the numbers of a trial."""

    def __init__(self, measure: Measure, samples: int, is_compared: bool) -> None:
        """Judge ``samples`` samples; with ``is_compared`` against the baseline's outputs."""
        self._measure, self._is_compared = measure, is_compared
        self._mine = [self._meter(metric, samples) for metric in measure.metrics()]
        self._theirs = [self._meter(metric, samples) for metric in measure.metrics()] if is_compared else []
        self._agreement = agreement_meter(measure.judging, samples, blocks=1)
        self._noise = SignalToNoise()
        self._divergence = Divergence(measure.judging) if measure.judging.task == "language-model" else None
        self._can_agree = True

    def update(self, outputs: Any, targets: Any, reference: Any = None) -> None:
        """Take a batch. Raises StageError where outputs are not finite or do not fit the metric."""
        refuse_nan(outputs)
        mine, theirs = self._measure.processed(outputs), self._measure.processed(reference)
        for meter in self._mine:
            meter.update(mine, targets, theirs)
        for meter in self._theirs:
            meter.update(theirs, targets, None)
        if self._is_compared:
            self._noise.update(outputs, reference)
            if self._divergence is not None:
                self._divergence.update(mine, targets, theirs)
            self._agree(mine, targets, theirs)

    @property
    def can_tell_early(self) -> bool:
        """Whether ``measurements`` before the last batch cost little: no function is called on everything anew."""
        return not any(isinstance(meter, WholeMeter) for meter in self._mine)

    def measurements(self) -> dict[str, Any]:
        """Return the numbers of a trial under their public names."""
        seed = self._measure.seed
        estimates = [meter.estimate() for meter in self._mine]
        whole = intervals.interval_of(estimates[0], seed, bounds_of(self._measure.metric))
        found: dict[str, Any] = {"metric": whole.value, "metric_low": whole.low, "metric_high": whole.high}
        if estimates[0].is_of_samples:
            # Samples without a label that counts judge nothing.
            found["samples"] = len(estimates[0].parts)
        names = [metric["name"] for metric in self._measure.metrics()]
        others = {name: other.value for name, other in zip(names[1:], estimates[1:], strict=True)}
        if others or self._divergence is not None:
            found["others"] = others | self._diverged()
        if not self._is_compared:
            return found | {"drop": 0.0, "drop_low": 0.0, "drop_high": 0.0, "agreement": 1.0, "sqnr_db": None}
        higher = bool(self._measure.metric["higher_is_better"])
        decibels = self._noise.decibels
        drop = intervals.drop_of(estimates[0], self._theirs[0].estimate(), higher, seed)
        return found | {
            "drop": drop.value,
            "drop_low": drop.low,
            "drop_high": drop.high,
            "agreement": self._agreed(),
            "sqnr_db": decibels if decibels < LOSSLESS_DB else None,
        }

    def value(self) -> Estimate:
        """Return the metric that leads."""
        return self._mine[0].estimate()

    def _meter(self, metric: Mapping[str, Any], samples: int) -> Meter:
        measure = self._measure
        return meter_of(metric, measure.function, measure.judging, samples, measure.most_bytes)

    def _agree(self, mine: Any, targets: Any, theirs: Any) -> None:
        if self._can_agree:
            try:
                self._agreement.update(mine, targets, theirs)
            except (StageError, AttributeError):
                # Results of a postprocess need not be tensors.
                self._can_agree = False

    def _diverged(self) -> dict[str, float | None]:
        """KL to the original in nats a token, of a language model; the baseline has none."""
        if self._divergence is None:
            return {}
        return {"kl": self._divergence.nats if self._is_compared else 0.0}

    def _agreed(self) -> float | None:
        if not self._can_agree:
            return None
        try:
            return self._agreement.estimate().value
        except StageError:
            return None


def drop_between(measure: Measure, batches: Iterable[Batch], samples: int) -> float:
    """Return how much worse outputs are than their reference, in the metric's unit; 1 - agreement without targets."""
    parts = iter(batches)
    first = next(parts)
    parts = itertools.chain([first], parts)
    if measure.metric["name"] == "agreement" or first[1] is None:
        meter = agreement_meter(measure.judging, samples)
        for outputs, targets, reference in parts:
            meter.update(measure.processed(outputs), targets, measure.processed(reference))
        return 1.0 - meter.estimate().value
    sides = [meter_of(measure.metric, measure.function, measure.judging, samples, measure.most_bytes) for _ in range(2)]
    for outputs, targets, reference in parts:
        refuse_nan(outputs)
        sides[0].update(measure.processed(outputs), targets, None)
        sides[1].update(measure.processed(reference), targets, None)
    mine, theirs = (side.estimate().value for side in sides)
    return (theirs - mine) * (1.0 if measure.metric["higher_is_better"] else -1.0)


def bounds_of(metric: Mapping[str, Any]) -> tuple[float, float]:
    """Return the smallest and largest value that a metric can have, as far as its description tells."""
    if metric.get("percent") or metric["name"] in ("accuracy", "agreement"):
        return 0.0, 1.0
    known = {"r2": (-math.inf, 1.0), "perplexity": (1.0, math.inf)} if metric["kind"] == "built-in" else {}
    return known.get(metric["name"], (-math.inf, math.inf))


def refuse_nan(outputs: Any) -> None:
    """Raise StageError where outputs are NaN or infinite, with their share."""
    import torch

    for leaf in leaves_of(outputs):
        # A sum is finite only if all its terms are, and takes one pass rather than several; it may overflow, though.
        if leaf.is_floating_point() and not math.isfinite(leaf.sum()) and not bool(torch.isfinite(leaf).all()):
            share = 1 - int(torch.isfinite(leaf).sum()) / leaf.numel()
            raise StageError(
                f"{share:.1%} of the outputs are NaN or infinite",
                "keep the overflowing layers in higher precision with 'ignore'",
            )
