"""Signal-to-quantization-noise ratio (SQNR) of outputs against those of the original model."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .tensors import leaves_of

if TYPE_CHECKING:
    from torch import Tensor

LOSSLESS_DB = 120.0
"""Largest SQNR in decibels that is reported, about the rounding of float32; it means no difference."""
_MASKED = 1e8
"""Scores at least this large mask a class, such as -1e30; chosen, not tuned. Smaller values may be real scores."""
_PART = 1 << 20
"""Numbers that are copied to double precision at once; chosen, not tuned."""


class SignalToNoise:
    """Sums of signal and noise over all floating-point outputs, a batch at a time.

    Positions where the reference is masked (scores of -1e30) are left out, because their squares would outweigh all
    others.
    """

    def __init__(self) -> None:
        """Start with no outputs."""
        self._signal = self._noise = 0.0

    def update(self, outputs: Any, reference: Any) -> None:
        """Add a batch of outputs, and those of the original model for it."""
        for mine, theirs in zip(leaves_of(outputs), leaves_of(reference), strict=True):
            if mine.is_floating_point():
                is_masked = _holds_masks(theirs)
                for part, whole in zip(_parts(mine), _parts(theirs), strict=True):
                    self._add(part, whole, is_masked)

    def _add(self, mine: Tensor, theirs: Tensor, is_masked: bool) -> None:
        if is_masked:
            counted = theirs.abs() < _MASKED
            mine, theirs = mine[counted], theirs[counted]
        kept = theirs.double()
        self._signal += float((kept**2).sum())
        self._noise += float(((mine.double() - kept) ** 2).sum())

    @property
    def decibels(self) -> float:
        """SQNR between ``-LOSSLESS_DB``, where an output is not finite, and ``LOSSLESS_DB``, where all are equal."""
        if not math.isfinite(self._noise):
            return -LOSSLESS_DB
        if self._noise == 0 or self._signal == 0:
            return LOSSLESS_DB
        return max(-LOSSLESS_DB, min(10 * math.log10(self._signal / self._noise), LOSSLESS_DB))


def sqnr_db(outputs: Any, reference: Any) -> float:
    """Return the SQNR of outputs in decibels; see ``SignalToNoise.decibels``."""
    return sqnr_of_batches([(outputs, reference)])


def sqnr_of_batches(pairs: Iterable[tuple[Any, Any]]) -> float:
    """Return the SQNR over batches of (outputs, reference) in decibels; see ``SignalToNoise.decibels``."""
    found = SignalToNoise()
    for outputs, reference in pairs:
        found.update(outputs, reference)
    return found.decibels


def _parts(values: Tensor) -> tuple[Tensor, ...]:
    """Return the numbers of an output in parts, of which copies in double precision take little memory."""
    return tuple(values.reshape(-1).split(_PART))


def _holds_masks(reference: Tensor) -> bool:
    """Return whether some positions are masked; none if every value other than zero is that large."""
    parts = [part for part in _parts(reference) if part.numel()]
    if not any(float(part.abs().max()) >= _MASKED for part in parts):
        return False
    return any(bool((part[part.abs() < _MASKED] != 0).any()) for part in parts)
