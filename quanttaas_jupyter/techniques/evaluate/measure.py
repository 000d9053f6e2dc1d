"""Numbers with their uncertainty: a metric with its interval, a paired drop, fidelity, latency.

Intervals are 95 %. A share of right answers has Wilson's score interval (Wilson, 1927) and, paired, that of Bonett and
Price ("Adjusted Wald confidence interval for a difference of binomial proportions based on paired data", 2012); any
other metric has a percentile bootstrap over samples, paired by drawing the same samples for both sides.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np

from ...core.failures import StageError

_Z = NormalDist().inv_cdf(0.975)
_RESAMPLES = 400
_SLOW_RESAMPLES = 60
_SLOW_SECONDS = 0.02
IGNORED_LABEL = -100
# What stands for "never this class" in masked scores; it says nothing of a model's precision.
_MASKED = 1e8
# Outputs that vary by less than this share of their mean square are constants with rounding.
_STEADY = 1e-10
_WARM_UPS = 10
_TURN = 10
_FEWEST_CALLS = 100
_FEWEST_SECONDS = 0.2
_MOST_SECONDS = 3.0


@dataclass(frozen=True)
class Answers:
    """What a model said on the evaluation data, beside what is right.

    Attributes:
        outputs: The model's outputs, all batches concatenated, in the model's structure.
        targets: The targets, concatenated; None without labels.
        reference: The baseline's outputs, concatenated; None for the baseline itself.
        class_dim: The dimension of the main output that holds one score a class; None where there is none, or where
            the targets tell it by their shape.
    """

    outputs: Any
    targets: Any
    reference: Any = None
    class_dim: int | None = None


@dataclass(frozen=True)
class Score:
    """A metric's value and, where the metric is a mean over samples, the score of each."""

    value: float
    per_sample: np.ndarray | None = None


@dataclass(frozen=True)
class Interval:
    """A value with the ends of its 95 % interval."""

    value: float
    low: float
    high: float


def score(metric: dict[str, Any], function: Callable[..., Any] | None, answers: Answers) -> Score:
    """Compute a metric.

    Args:
        metric: The reference made by ``bundle.metric``.
        function: The callable itself where the metric is one.
        answers: Outputs and targets of all samples.

    Raises:
        StageError: The outputs or targets do not fit the metric, or are not finite.
    """
    _refuse_nan(answers.outputs)
    try:
        if metric["kind"] == "callable":
            assert function is not None
            found = function(answers.outputs, answers.targets)
        elif metric["kind"] == "torchmetrics":
            found = _torchmetrics(metric["name"], answers)
        else:
            found = _BUILT_IN[metric["name"]](answers)
    except StageError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        raise StageError(
            f"metric {metric['name']!r} cannot be computed: {type(error).__name__}: {lines[0]}",
            "check that outputs and targets are what it expects",
        ) from error
    return _as_score(found, metric["name"], _sample_counts(answers) if metric["kind"] == "callable" else None)


def interval_of(metric: dict[str, Any], function: Any, answers: Answers, whole: Score, seed: int) -> Interval:
    """The 95 % interval of a metric's value."""
    if whole.per_sample is not None:
        return _mean_interval(whole.per_sample, seed)
    draws = _bootstrap(metric, function, [answers], seed)
    low, high = np.percentile(draws[0], [2.5, 97.5])
    return Interval(whole.value, float(low), float(high))


def drop_of(
    metric: dict[str, Any], function: Any, candidate: Answers, whole: Score, baseline: Score, seed: int
) -> Interval:
    """How much worse a candidate is than the baseline (positive is worse), paired sample by sample."""
    sign = 1.0 if metric["higher_is_better"] else -1.0
    value = sign * (baseline.value - whole.value)
    if whole.per_sample is not None and baseline.per_sample is not None:
        difference = sign * (baseline.per_sample - whole.per_sample)
        if set(np.unique(difference)) <= {-1.0, 0.0, 1.0}:
            return _paired_shares(difference, value)
        return _bootstrap_mean(difference, seed)
    original = replace(candidate, outputs=candidate.reference)
    mine, theirs = _bootstrap(metric, function, [candidate, original], seed)
    low, high = np.percentile(sign * (theirs - mine), [2.5, 97.5])
    return Interval(value, float(low), float(high))


def agreement(answers: Answers) -> np.ndarray | float | None:
    """How far a model says what the baseline says.

    Returns:
        Per sample the share of places with the baseline's class; for outputs that are no class scores R2 against the
        baseline's outputs (0 at worst); None where nothing varies or nothing counts.
    """
    mine = main_output(answers.outputs)
    theirs = mine if answers.reference is None else main_output(answers.reference)
    dim = answers.class_dim
    if dim is not None and mine.ndim > dim:
        same = mine.argmax(dim) == theirs.argmax(dim)
    elif not mine.is_floating_point():
        same = mine == theirs
    else:
        return _explained(mine.double(), theirs.double())
    labels = main_output(answers.targets) if answers.targets is not None else None
    # Places that accuracy does not count, such as padding, say nothing of agreement either.
    counted = labels != IGNORED_LABEL if labels is not None and labels.shape == same.shape else same | True
    shares = _shares(same, counted)
    return shares if len(shares) else None


def class_dims(outputs: Any, targets: Any) -> list[int]:
    """Dimensions of ``outputs`` that may hold one score a class: 1 or the last, where the rest is as ``targets``."""
    if targets.ndim < 1 or outputs.ndim != targets.ndim + 1:
        return []
    fitting = [
        dim for dim in (1, outputs.ndim - 1) if outputs.shape[dim] > 1 and _without(outputs, dim) == targets.shape
    ]
    return list(dict.fromkeys(fitting))


def right_share(outputs: Any, targets: Any, dim: int) -> float:
    """The share of labels that are right when classes lie along ``dim``."""
    counted = targets != IGNORED_LABEL
    right = (outputs.argmax(dim) == targets) & counted
    return float(right.sum()) / max(1, int(counted.sum()))


def sqnr_db(outputs: Any, reference: Any) -> float | None:
    """Signal to quantization noise in decibels, over all floating-point outputs; None where they are equal.

    Places where the reference is masked (scores of -1e30) are left out: their squares would drown all others.
    """
    signal = noise = 0.0
    for mine, theirs in zip(_leaves(outputs), _leaves(reference), strict=True):
        if mine.is_floating_point():
            counted = _unmasked(theirs)
            kept = theirs[counted].double()
            signal += float((kept**2).sum())
            noise += float(((mine[counted].double() - kept) ** 2).sum())
    if noise == 0 or signal == 0:
        return None
    return 10 * math.log10(signal / noise)


def timed(
    session: Callable[[Sequence[Any]], Any], arrays: Sequence[Any], clock: Callable[[], float] = time.perf_counter
) -> Callable[[], float]:
    """A call of a session that returns its seconds: by the session's own clock where it has one (a GPU's events)."""
    own = getattr(session, "seconds", None)
    if own is not None:
        return lambda: float(own(arrays))

    def run() -> float:
        start = clock()
        session(arrays)
        return clock() - start

    return run


def interleaved_latency(
    runs: Sequence[Callable[[], float]], clock: Callable[[], float] = time.perf_counter
) -> list[np.ndarray]:
    """Seconds of single calls, the runs taking turns so that a drift of the machine's speed meets all alike.

    Each run returns its seconds; see ``timed``.

    A turn is ten calls: with single ones each run would find its threads asleep and its weights out of the caches.
    """
    for _ in range(_WARM_UPS):
        for run in runs:
            run()
    seconds: list[list[float]] = [[] for _ in runs]
    begun = clock()
    while True:
        calls, elapsed = len(seconds[0]), clock() - begun
        if calls >= _FEWEST_CALLS and elapsed >= _FEWEST_SECONDS:
            break
        if calls > 0 and elapsed >= _MOST_SECONDS:
            break
        for run, mine in zip(runs, seconds, strict=True):
            for _ in range(_TURN):
                mine.append(run())
    return [np.array(mine) for mine in seconds]


def main_output(outputs: Any) -> Any:
    """The tensor a named metric looks at: ``logits`` where there are some, else the first."""
    if isinstance(outputs, dict) and "logits" in outputs:
        return outputs["logits"]
    leaves = _leaves(outputs)
    if not leaves:
        raise StageError("there is no tensor to compute the metric from")
    return leaves[0]


def _accuracy(answers: Answers) -> np.ndarray:
    outputs, targets = main_output(answers.outputs), main_output(answers.targets)
    dims = class_dims(outputs, targets)
    if dims:
        predicted = outputs.argmax(answers.class_dim if answers.class_dim in dims else dims[0])
    elif outputs.numel() == targets.numel():
        is_probability = bool((outputs >= 0).all()) and bool((outputs <= 1).all())
        predicted = (outputs > (0.5 if is_probability else 0.0)).reshape(targets.shape).to(targets.dtype)
    else:
        raise StageError(
            f"outputs of shape {tuple(outputs.shape)} do not fit targets of shape {tuple(targets.shape)}",
            "accuracy wants one score a class along dimension 1 or the last, and one integer a sample",
        )
    shares = _shares(predicted == targets, targets != IGNORED_LABEL)
    if not len(shares):
        raise StageError(f"every label is {IGNORED_LABEL}, so that nothing can be counted", "give labels that count")
    return shares


def _without(outputs: Any, dim: int) -> Any:
    return outputs.shape[:dim] + outputs.shape[dim + 1 :]


def _shares(right: Any, counted: Any) -> np.ndarray:
    """The share of right places of every sample; samples in which nothing counts are left out."""
    right, counted = (right & counted).reshape(len(right), -1), counted.reshape(len(counted), -1)
    places = counted.sum(1)
    found: np.ndarray = (right.sum(1).double() / places.clamp(min=1))[places > 0].numpy()
    return found


def _agreement_metric(answers: Answers) -> Any:
    found = agreement(answers)
    if found is None:
        raise StageError("the outputs do not vary between samples, so that there is nothing to agree on")
    return found


def _explained(mine: Any, theirs: Any) -> float | None:
    """R2 of each output, 0 at worst, and their mean; sequences and pictures have one R2 over all their places."""
    mine, theirs, is_table = mine.reshape(len(mine), -1), theirs.reshape(len(theirs), -1), theirs.ndim <= 2
    error = ((mine - theirs) ** 2).sum(0)
    spread = ((theirs - theirs.mean(0)) ** 2).sum(0)
    varies = spread > _STEADY * (theirs**2).sum(0)
    if not bool(varies.any()):
        return None
    error, spread = error[varies], spread[varies]
    if not is_table:
        error, spread = error.sum(), spread.sum()
    return float((1 - error / spread).clamp(min=0).mean())


def _unmasked(reference: Any) -> Any:
    """Which places are no masks; all of them where everything is that large."""
    ordinary = reference.abs() < _MASKED
    return ordinary if bool((reference[ordinary] != 0).any()) else ordinary | True


def _r2_of(answers: Answers) -> float:
    outputs, targets = main_output(answers.outputs), main_output(answers.targets)
    if outputs.numel() != targets.numel():
        raise StageError(f"outputs of shape {tuple(outputs.shape)} do not fit targets of shape {tuple(targets.shape)}")
    return _r2(outputs.reshape(targets.shape).double(), targets.double())


def _r2(outputs: Any, targets: Any) -> float:
    from torchmetrics.functional import r2_score

    return float(r2_score(outputs.reshape(len(outputs), -1), targets.reshape(len(targets), -1)))


_BUILT_IN: dict[str, Callable[[Answers], Any]] = {
    "accuracy": _accuracy,
    "r2": _r2_of,
    "agreement": _agreement_metric,
}


def _torchmetrics(name: str, answers: Answers) -> float:
    import torchmetrics

    outputs, targets = main_output(answers.outputs), main_output(answers.targets)
    if answers.class_dim in class_dims(outputs, targets):
        # TorchMetrics looks for classes along dimension 1 only.
        outputs = outputs.movedim(answers.class_dim, 1)
    cls = getattr(torchmetrics, name)
    options: dict[str, Any] = {}
    if getattr(torchmetrics.classification, f"Multiclass{name}", None) is not None:
        options = _task(outputs, targets)
    metric = cls(**options)
    if not options and outputs.shape != targets.shape and outputs.numel() == targets.numel():
        outputs = outputs.reshape(targets.shape)
    return float(metric(outputs, targets))


def _task(outputs: Any, targets: Any) -> dict[str, Any]:
    if outputs.ndim == targets.ndim + 1 and outputs.shape[1] > 1:
        averaged = {"average": "macro"}
        return {"task": "multiclass", "num_classes": outputs.shape[1], **averaged}
    if outputs.ndim == 2 and outputs.shape == targets.shape and outputs.shape[1] > 1:
        return {"task": "multilabel", "num_labels": outputs.shape[1]}
    return {"task": "binary"}


def _as_score(found: Any, name: str, samples: Sequence[int] | None) -> Score:
    """A metric's result; with ``samples`` given, an array must have one value for each of so many."""
    import torch

    values = found.detach().double().numpy() if isinstance(found, torch.Tensor) else np.asarray(found, dtype=float)
    is_number = values.size == 1
    if not is_number and values.ndim != 1:
        raise StageError(f"metric {name!r} gave an array of shape {values.shape}", "return one number, or one a sample")
    if not is_number and samples is not None and len(values) not in samples:
        raise StageError(
            f"the values of metric {name!r} do not fit the samples",
            f"return one number, or one a sample (got {len(values)} for {samples[0]})",
        )
    if not np.isfinite(values).all():
        raise StageError(f"metric {name!r} is not a finite number", "check outputs and targets for NaN")
    return Score(float(values.reshape(-1)[0])) if is_number else Score(float(values.mean()), values)


def _sample_counts(answers: Answers) -> list[int]:
    """How many rows outputs and targets have: those of a graph's nodes and of its labels may differ."""
    sides = [side for side in (answers.outputs, answers.targets) if side is not None]
    leaves = [leaf for side in sides for leaf in _leaves(side)[:1]]
    return [len(leaf) for leaf in leaves if leaf.ndim]


def _mean_interval(values: np.ndarray, seed: int) -> Interval:
    if set(np.unique(values)) <= {0.0, 1.0}:
        return _wilson(float(values.sum()), len(values))
    return _bootstrap_mean(values, seed)


def _wilson(right: float, count: int) -> Interval:
    share = right / count
    middle = (share + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    half = _Z / (1 + _Z**2 / count) * math.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half))


def _paired_shares(difference: np.ndarray, value: float) -> Interval:
    count = len(difference)
    lost = (float((difference > 0).sum()) + 1) / (count + 2)
    won = (float((difference < 0).sum()) + 1) / (count + 2)
    half = _Z * math.sqrt((lost + won - (lost - won) ** 2) / (count + 2))
    return Interval(value, lost - won - half, lost - won + half)


def _bootstrap_mean(values: np.ndarray, seed: int) -> Interval:
    generator = np.random.default_rng(seed)
    means = [values[generator.integers(0, len(values), len(values))].mean() for _ in range(_RESAMPLES)]
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(values.mean()), float(low), float(high))


def _bootstrap(metric: dict[str, Any], function: Any, sides: Sequence[Answers], seed: int) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    count = len(main_output(sides[0].outputs))
    draws: list[list[float]] = [[] for _ in sides]
    wanted, begun = _RESAMPLES, time.perf_counter()
    while len(draws[0]) < wanted:
        rows = generator.integers(0, count, count)
        try:
            values = [score(metric, function, _rows(side, rows)).value for side in sides]
        except StageError:
            # A draw may lack a class or all variance; the interval rests on the others.
            wanted -= 1
            continue
        for mine, value in zip(draws, values, strict=True):
            mine.append(value)
        if len(draws[0]) == _WARM_UPS and (time.perf_counter() - begun) / _WARM_UPS > _SLOW_SECONDS:
            wanted = min(wanted, _SLOW_RESAMPLES)
    if not draws[0]:
        raise StageError(f"no interval can be computed for metric {metric['name']!r}", "give more samples")
    return [np.array(mine) for mine in draws]


def _rows(answers: Answers, rows: np.ndarray) -> Answers:
    return replace(
        answers,
        outputs=_taken(answers.outputs, rows),
        targets=_taken(answers.targets, rows),
        reference=_taken(answers.reference, rows),
    )


def _taken(value: Any, rows: np.ndarray) -> Any:
    from torch.utils._pytree import tree_map

    return tree_map(lambda leaf: leaf[rows] if hasattr(leaf, "ndim") and leaf.ndim else leaf, value)


def _leaves(value: Any) -> list[Any]:
    import torch

    from ...bundle.structure import flatten

    return [leaf for _, leaf in flatten(value)[0] if isinstance(leaf, torch.Tensor)]


def _refuse_nan(outputs: Any) -> None:
    import torch

    for leaf in _leaves(outputs):
        if leaf.is_floating_point() and not bool(torch.isfinite(leaf).all()):
            share = float((~torch.isfinite(leaf)).double().mean())
            raise StageError(
                f"{share:.1%} of the outputs are NaN or infinite",
                "keep the overflowing layers in higher precision with 'ignore'",
            )
