"""Signal to quantization noise: how far outputs stray from those of the original."""

from __future__ import annotations

import math
from typing import Any

from .predictions import leaves_of

# What stands for "never this class" in masked scores; it says nothing of a model's precision.
_MASKED = 1e8


def sqnr_db(outputs: Any, reference: Any) -> float | None:
    """Signal to quantization noise in decibels, over all floating-point outputs; None where they are equal.

    Places where the reference is masked (scores of -1e30) are left out: their squares would drown all others.
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
    """Which places are no masks; all of them where everything is that large."""
    ordinary = reference.abs() < _MASKED
    return ordinary if bool((reference[ordinary] != 0).any()) else ordinary | True
