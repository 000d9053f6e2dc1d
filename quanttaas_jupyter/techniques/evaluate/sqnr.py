"""Signal-to-quantization-noise ratio (SQNR) of outputs against those of the original model."""

from __future__ import annotations

import math
from typing import Any

from .predictions import leaves_of

_MASKED = 1e8
"""Magnitude from which a score is a mask ("never this class") instead of a prediction; chosen, not tuned."""


LOSSLESS_DB = 120.0
"""Largest SQNR in decibels that is reported, about the rounding of float32; it means no difference."""


def sqnr_db(outputs: Any, reference: Any) -> float:
    """Return the SQNR in decibels over all floating-point outputs.

    It lies between ``-LOSSLESS_DB``, where an output is not finite, and ``LOSSLESS_DB``, where outputs are equal.
    Positions where the reference is masked (scores of -1e30) are left out, because their squares would outweigh all
    others.
    """
    signal = noise = 0.0
    for mine, theirs in zip(leaves_of(outputs), leaves_of(reference), strict=True):
        if mine.is_floating_point():
            counted = _unmasked(theirs)
            kept = theirs[counted].double()
            signal += float((kept**2).sum())
            noise += float(((mine[counted].double() - kept) ** 2).sum())
    if not math.isfinite(noise):
        return -LOSSLESS_DB
    if noise == 0 or signal == 0:
        return LOSSLESS_DB
    return max(-LOSSLESS_DB, min(10 * math.log10(signal / noise), LOSSLESS_DB))


def _unmasked(reference: Any) -> Any:
    """Return a mask of the positions without masked scores, or of all positions if the others are all zero."""
    ordinary = reference.abs() < _MASKED
    return ordinary if bool((reference[ordinary] != 0).any()) else ordinary | True
