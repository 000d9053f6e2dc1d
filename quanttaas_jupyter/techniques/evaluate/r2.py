"""R2 against the targets, summed a batch at a time.

TorchMetrics has the same sums; importing it takes seconds, which the first point of a study would wait for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...core.failures import StageError

if TYPE_CHECKING:
    from torch import Tensor


class R2State:
    """Coefficient of determination of each column of targets, and their mean."""

    def __init__(self) -> None:
        """Start with no samples."""
        self._count = 0
        self._sums: tuple[Tensor, Tensor, Tensor] | None = None

    @staticmethod
    def size_for(outputs: Tensor, targets: Tensor) -> int:
        """Return the bytes of a state of such samples."""
        return 3 * targets[:1].numel() * targets.element_size()

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Take outputs and targets, both (n, columns) in double precision."""
        self._add(len(targets), (((outputs - targets) ** 2).sum(0), targets.sum(0), (targets**2).sum(0)))

    def merge(self, other: R2State) -> None:
        """Take what another state saw."""
        if other._sums is not None:
            self._add(other._count, other._sums)

    def compute(self) -> float:
        """Return the mean over columns. Raises StageError for fewer than two samples, or targets that do not vary."""
        if self._sums is None or self._count < 2:
            raise StageError("R2 needs at least two samples", "give more samples")
        residual, total, squares = self._sums
        spread = squares - total**2 / self._count
        varies = spread > 1e-12 * squares
        if not bool(varies.any()):
            raise StageError("the targets do not vary, so that R2 is not defined", "use another metric")
        return float((1 - residual[varies] / spread[varies]).mean())

    def _add(self, count: int, sums: tuple[Tensor, Tensor, Tensor]) -> None:
        self._count += count
        if self._sums is None:
            self._sums = sums
            return
        if sums[0].shape != self._sums[0].shape:
            raise StageError("R2 cannot compare targets whose size differs between batches", "give another metric")
        mine = self._sums
        self._sums = mine[0] + sums[0], mine[1] + sums[1], mine[2] + sums[2]
