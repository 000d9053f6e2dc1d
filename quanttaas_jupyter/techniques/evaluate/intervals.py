"""Confidence intervals of 95 % for a metric and for a paired drop.

A share of correct predictions has Wilson's score interval (Wilson, 1927) and, paired, that of Bonett and Price
("Adjusted Wald confidence interval for a difference of binomial proportions based on paired data", 2012). Other metrics
have a percentile bootstrap over samples, paired by drawing the same samples for both sides.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np

from ...core.failures import StageError
from .metrics import Score, score
from .predictions import Predictions, main_output

_Z = NormalDist().inv_cdf(0.975)
_RESAMPLES = 400
"""Draws of a bootstrap; a plain choice. More draws make the bounds smoother and cost time in proportion."""
_SLOW_RESAMPLES = 60
"""Draws of a bootstrap whose metric takes longer than ``_SLOW_SECONDS``; chosen, not tuned. Fewer make rough bounds."""
_SLOW_SECONDS = 0.02
"""Seconds for one draw above which fewer draws are made; chosen, not tuned, to keep an interval within seconds."""
_FIRST_DRAWS = 10
"""Draws over which the time of one draw is averaged; chosen, not tuned."""


@dataclass(frozen=True)
class Interval:
    """A value with the lower and upper end of its 95 % confidence interval."""

    value: float
    low: float
    high: float


def interval_of(metric: dict[str, Any], function: Any, answers: Predictions, whole: Score, seed: int) -> Interval:
    """Return the 95 % confidence interval of a metric's value; ``whole`` is the metric over all samples."""
    if whole.per_sample is not None:
        return _mean_interval(whole.per_sample, seed)
    draws = _bootstrap(metric, function, [answers], seed)
    low, high = np.percentile(draws[0], [2.5, 97.5])
    return Interval(whole.value, float(low), float(high))


def drop_of(
    metric: dict[str, Any], function: Any, candidate: Predictions, whole: Score, baseline: Score, seed: int
) -> Interval:
    """Return the drop of a candidate from the baseline (positive is worse) with its interval, paired by sample."""
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


def _bootstrap(metric: dict[str, Any], function: Any, sides: Sequence[Predictions], seed: int) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    count = len(main_output(sides[0].outputs))
    draws: list[list[float]] = [[] for _ in sides]
    wanted, begun = _RESAMPLES, time.perf_counter()
    while len(draws[0]) < wanted:
        rows = generator.integers(0, count, count)
        try:
            values = [score(metric, function, _rows(side, rows)).value for side in sides]
        except StageError:
            # A draw may lack a class or all variance; the interval comes from the other draws.
            wanted -= 1
            continue
        for mine, value in zip(draws, values, strict=True):
            mine.append(value)
        if len(draws[0]) == _FIRST_DRAWS and (time.perf_counter() - begun) / _FIRST_DRAWS > _SLOW_SECONDS:
            wanted = min(wanted, _SLOW_RESAMPLES)
    if not draws[0]:
        raise StageError(f"no interval can be computed for metric {metric['name']!r}", "give more samples")
    return [np.array(mine) for mine in draws]


def _rows(answers: Predictions, rows: np.ndarray) -> Predictions:
    return replace(
        answers,
        outputs=_taken(answers.outputs, rows),
        targets=_taken(answers.targets, rows),
        reference=_taken(answers.reference, rows),
    )


def _taken(value: Any, rows: np.ndarray) -> Any:
    from torch.utils._pytree import tree_map

    return tree_map(lambda leaf: leaf[rows] if hasattr(leaf, "ndim") and leaf.ndim else leaf, value)
