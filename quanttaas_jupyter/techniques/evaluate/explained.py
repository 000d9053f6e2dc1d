"""R2 of outputs against the original model's, summed a batch at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...core.failures import StageError

if TYPE_CHECKING:
    from torch import Tensor

_STEADY = 1e-10
"""Share of their mean square below which outputs that vary are constants with rounding."""


class ExplainedState:
    """R2 of each output, 0 at worst, and their mean; sequences and pictures have one R2 over all their places."""

    def __init__(self) -> None:
        """Start with no samples."""
        self._count = 0
        self._error: Tensor | None = None
        self._sum: Tensor | None = None
        self._squares: Tensor | None = None
        self._is_table = True

    @staticmethod
    def size_for(mine: Tensor, theirs: Tensor) -> int:
        """Return the bytes of a state of such samples, which holds numbers in double precision."""
        return 3 * 8 * theirs[:1].numel()

    def update(self, mine: Tensor, theirs: Tensor) -> None:
        """Take outputs of a model and of the original, both (n, ...)."""
        is_table = theirs.ndim <= 2
        mine, theirs = mine.reshape(len(mine), -1).double(), theirs.reshape(len(theirs), -1).double()
        self._add(len(mine), ((mine - theirs) ** 2).sum(0), theirs.sum(0), (theirs**2).sum(0), is_table)

    def merge(self, other: ExplainedState) -> None:
        """Take what another state saw."""
        if other._error is not None and other._sum is not None and other._squares is not None:
            self._add(other._count, other._error, other._sum, other._squares, other._is_table)

    def compute(self) -> float:
        """Return the mean R2. Raises StageError where the outputs do not vary."""
        if self._error is None or self._sum is None or self._squares is None:
            raise StageError("there are no outputs to compare")
        spread = self._squares - self._sum**2 / self._count
        varies = spread > _STEADY * self._squares
        if not bool(varies.any()):
            raise StageError("the outputs do not vary between samples, so that there is nothing to agree on")
        error, spread = self._error[varies], spread[varies]
        if not self._is_table:
            error, spread = error.sum(), spread.sum()
        return float((1 - error / spread).clamp(min=0).mean())

    def _add(self, count: int, error: Tensor, total: Tensor, squares: Tensor, is_table: bool) -> None:
        self._is_table = is_table
        if self._error is None or self._sum is None or self._squares is None:
            self._count, self._error, self._sum, self._squares = count, error, total, squares
            return
        if error.shape != self._error.shape:
            # Pictures or sequences of several sizes have no places in common: their places count like samples.
            count, self._count = count * error.numel(), self._count * self._error.numel()
            error, total, squares = (value.sum().reshape(1) for value in (error, total, squares))
            self._error, self._sum, self._squares = (
                value.sum().reshape(1) for value in (self._error, self._sum, self._squares)
            )
        self._count += count
        self._error, self._sum, self._squares = self._error + error, self._sum + total, self._squares + squares
