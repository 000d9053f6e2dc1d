"""A metric's value with what its interval rests on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """A metric's value and parts of it whose spread tells its uncertainty.

    Attributes:
        value: The value over all samples.
        parts: One number a sample whose mean is the value, or a pseudo-value of each block of samples (n).
        is_of_samples: Whether the parts are of samples rather than blocks.
    """

    value: float
    parts: np.ndarray
    is_of_samples: bool


def of_ratio(numerators: np.ndarray, weights: np.ndarray) -> Estimate:
    """Return the ratio of two sums over samples, with each sample's influence on it.

    The influence is the first-order one (Hampel, 1974): its mean is the ratio, its spread that of a ratio estimator.
    A sample of weight zero counts nowhere, also not in the number of samples that the spread rests on.

    Args:
        numerators: Sum of scores in each sample (n).
        weights: Number of places in each sample (n).
    """
    is_counted = weights > 0
    numerators, weights = numerators[is_counted], weights[is_counted]
    total = weights.sum()
    value = float(numerators.sum() / total)
    return Estimate(value, value + (numerators - value * weights) * (len(weights) / total), True)


def transformed(estimate: Estimate, value: float, slope: float) -> Estimate:
    """Return a smooth function of an estimate by its value and slope there (delta method)."""
    return Estimate(value, value + slope * (estimate.parts - estimate.value), estimate.is_of_samples)


def of_jackknife(value: float, left_out: Sequence[float]) -> Estimate:
    """Return a value with the pseudo-values of blocks (delete-a-block jackknife; Tukey, 1958).

    Args:
        value: The metric over all samples.
        left_out: The metric over all samples but those of one block, for each block.
    """
    blocks = len(left_out)
    return Estimate(value, blocks * value - (blocks - 1) * np.asarray(left_out, dtype=float), False)


def of_blocks(value: float, values: Sequence[float]) -> Estimate:
    """Return a value with the metric of each block alone (batch means), moved to the value's centre."""
    found = np.asarray(values, dtype=float)
    return Estimate(value, found - found.mean() + value, False)
