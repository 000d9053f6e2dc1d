"""R2 against the targets, summed a batch at a time.

TorchMetrics has the same sums; importing it takes seconds, which the first point of a study would wait for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...core.failures import StageError

if TYPE_CHECKING:
    from torch import Tensor

_STEADY = 1e-24
"""Share of their mean square below which the variance of targets is rounding of double precision.

The smallest step of float32 beside a constant has a share of 4e-15, rounding of a mean in double one of 1e-32.
"""


@dataclass(frozen=True)
class _Sums:
    """Of each column: samples, squared errors, mean of the targets, and their squared distances from it."""

    count: int
    residual: Tensor
    mean: Tensor
    spread: Tensor

    def __add__(self, other: _Sums) -> _Sums:
        """Return the sums of both; distances are moved to the common mean (Chan, Golub and LeVeque, 1979)."""
        count, apart = self.count + other.count, other.mean - self.mean
        return _Sums(
            count,
            self.residual + other.residual,
            self.mean + apart * (other.count / count),
            self.spread + other.spread + apart**2 * (self.count * other.count / count),
        )


class R2State:
    """Coefficient of determination of each column of targets, and their mean; of pictures one over all places.

    A column that does not vary counts as scikit-learn counts it: 1 where it is predicted exactly, else 0.
    """

    def __init__(self, is_pooled: bool = False) -> None:
        """Start with no samples; with ``is_pooled`` columns are places of one picture or sequence."""
        self._is_pooled = is_pooled
        self._sums: _Sums | None = None

    @staticmethod
    def size_for(outputs: Tensor, targets: Tensor) -> int:
        """Return the bytes of a state of such samples."""
        return 3 * targets[:1].numel() * targets.element_size()

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Take outputs and targets, both (n, columns) in double precision."""
        if len(targets):
            mean = targets.mean(0)
            self._add(_Sums(len(targets), ((outputs - targets) ** 2).sum(0), mean, ((targets - mean) ** 2).sum(0)))

    def merge(self, other: R2State) -> None:
        """Take what another state saw."""
        if other._sums is not None:
            self._add(other._sums)

    def compute(self) -> float:
        """Return the mean over columns. Raises StageError for fewer than two samples, or targets that do not vary."""
        import torch

        sums = self._sums
        if sums is None or sums.count < 2:
            raise StageError("R2 needs at least two samples", "give more samples")
        varies = sums.spread > _STEADY * (sums.spread + sums.count * sums.mean**2)
        if not bool(varies.any()):
            raise StageError("the targets do not vary, so that R2 is not defined", "use another metric")
        if self._is_pooled:
            return float(1 - sums.residual.sum() / sums.spread.sum())
        ratio = sums.residual / torch.where(varies, sums.spread, 1.0)
        steady = torch.where(sums.residual > 0, 0.0, 1.0).to(ratio.dtype)
        return float(torch.where(varies, 1 - ratio, steady).mean())

    def _add(self, sums: _Sums) -> None:
        if self._sums is None:
            self._sums = sums
            return
        if sums.residual.shape != self._sums.residual.shape:
            raise StageError("R2 cannot compare targets whose size differs between batches", "give another metric")
        self._sums = self._sums + sums
