"""Signal-to-quantization-noise ratio (SQNR) of outputs against those of the original model."""

from __future__ import annotations

import math
from typing import Any

from .predictions import leaves_of

_MASKED = 1e8
"""Magnitude from which a score is a mask ("never this class") instead of a prediction; chosen, not tuned."""


def sqnr_db(outputs: Any, reference: Any) -> float | None:
    """Return the SQNR in decibels over all floating-point outputs, or None if the outputs are equal.

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
    if noise == 0 or signal == 0:
        return None
    return 10 * math.log10(signal / noise)


def _unmasked(reference: Any) -> Any:
    """Return a mask of the positions without masked scores, or of all positions if the others are all zero."""
    ordinary = reference.abs() < _MASKED
    return ordinary if bool((reference[ordinary] != 0).any()) else ordinary | True
