"""Intervals of 95 % around a metric and around a paired drop, from one pass over the data.

A share of right answers has Wilson's score interval (Wilson, 1927) and, paired, that of Bonett and Price ("Adjusted
Wald confidence interval for a difference of binomial proportions based on paired data", 2012). Another mean over
samples has a studentized bootstrap (bootstrap-t; Efron and Tibshirani, 1993, chapter 12), never narrower than
Student's t. A metric that is no mean has Student's t over the pseudo-values of blocks of samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from .estimates import Estimate

_Z = NormalDist().inv_cdf(0.975)
_RESAMPLES = 1000
"""Resamples of a bootstrap: the ends of a 95 % interval then rest on 25 of them. Chosen, not tuned."""
_DRAWN_AT_ONCE = 1 << 20
_SKEWED_UP_TO = 2000
"""Samples beyond which Student's t is used alone: the skewness of a mean falls with the root of their number."""


@dataclass(frozen=True)
class Interval:
    """A value with the lower and upper end of its 95 % confidence interval."""

    value: float
    low: float
    high: float


def interval_of(estimate: Estimate, seed: int, bounds: tuple[float, float] = (-math.inf, math.inf)) -> Interval:
    """Return the 95 % interval of a metric's value.

    Args:
        estimate: The value with its parts.
        seed: Seed of resampling.
        bounds: The smallest and largest value that the metric can have; the interval ends there.
    """
    if estimate.is_of_samples and set(np.unique(estimate.parts)) <= {0.0, 1.0}:
        return _wilson(float(estimate.parts.sum()), len(estimate.parts))
    found = _around(estimate.value, estimate.parts, seed, estimate.is_of_samples)
    low, high = bounds
    if not low <= found.value <= high:
        return found
    return Interval(found.value, max(low, found.low), min(high, found.high))


def drop_of(candidate: Estimate, baseline: Estimate, higher_is_better: bool, seed: int) -> Interval:
    """Return how much worse a candidate is than the baseline (positive is worse), paired part by part.

    Both were measured on the same samples or blocks. Where one of them has fewer parts, since its metric could not
    be computed on some, nothing is paired and the interval is that of a difference of independent values.
    """
    sign = 1.0 if higher_is_better else -1.0
    value = sign * (baseline.value - candidate.value)
    if len(candidate.parts) != len(baseline.parts):
        half = math.hypot(_student_half(candidate.parts), _student_half(baseline.parts))
        return Interval(value, value - half, value + half)
    difference = sign * (baseline.parts - candidate.parts)
    is_of_samples = candidate.is_of_samples and baseline.is_of_samples
    if is_of_samples and set(np.unique(difference)) <= {-1.0, 0.0, 1.0}:
        return _paired_shares(difference, value)
    return _around(value, difference, seed, is_of_samples)


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


def _around(value: float, parts: np.ndarray, seed: int, is_skewed: bool) -> Interval:
    half = _student_half(parts)
    low, high = value - half, value + half
    if is_skewed and 2 < len(parts) <= _SKEWED_UP_TO and half > 0:
        ends = _bootstrap_t(parts, seed)
        centre = value - float(parts.mean())
        low, high = min(low, centre + ends[0]), max(high, centre + ends[1])
    return Interval(value, low, high)


def _student_half(parts: np.ndarray) -> float:
    """Half the width of Student's interval; of a single part nothing is known, which is said as zero width."""
    count = len(parts)
    if count < 2:
        return 0.0
    from scipy.special import stdtrit

    return float(stdtrit(count - 1, 0.975) * parts.std(ddof=1) / math.sqrt(count))


def _bootstrap_t(values: np.ndarray, seed: int) -> tuple[float, float]:
    """Return the ends of a studentized bootstrap interval of a mean."""
    generator, count = np.random.default_rng(seed), len(values)
    mean, error = values.mean(), values.std(ddof=1) / math.sqrt(count)
    # Around their mean, squares lose no digits, and one pass over the resamples gives their spread.
    centred = values - mean
    quotients: list[np.ndarray] = []
    at_once = max(1, _DRAWN_AT_ONCE // count)
    for start in range(0, _RESAMPLES, at_once):
        rows = min(at_once, _RESAMPLES - start)
        drawn = centred[generator.integers(0, count, (rows, count), dtype=np.int32)]
        shifts = drawn.mean(axis=1)
        variances = (np.einsum("ij,ij->i", drawn, drawn) - count * shifts**2) / (count - 1)
        errors = np.sqrt(variances.clip(min=0) / count)
        has_spread = errors > 1e-6 * abs(error)
        quotients.append(shifts[has_spread] / errors[has_spread])
    found = np.concatenate(quotients)
    if not found.size:
        # The values differ by rounding alone.
        return float(mean), float(mean)
    low, high = np.percentile(found, [2.5, 97.5])
    return float(mean - high * error), float(mean - low * error)
