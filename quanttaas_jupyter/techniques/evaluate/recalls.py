"""Balanced accuracy: the mean of the shares of each class that are right, as scikit-learn defines it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...core.failures import StageError

if TYPE_CHECKING:
    from torch import Tensor


class RecallState:
    """Right and all labels of each class, summed a batch at a time; classes without a label do not count."""

    def __init__(self) -> None:
        """Start with no samples."""
        self._right: Tensor | None = None
        self._all: Tensor | None = None

    def update(self, predictions: Tensor, labels: Tensor, counts: Tensor) -> None:
        """Take class numbers that were predicted, those that are right, and which places count; of one shape."""
        import torch

        found, wanted = predictions[counts].long(), labels[counts].long()
        if wanted.numel():
            right = torch.bincount(wanted[found == wanted], minlength=int(wanted.max()) + 1)
            self._add(right, torch.bincount(wanted))

    def merge(self, other: RecallState) -> None:
        """Take what another state saw."""
        if other._right is not None and other._all is not None:
            self._add(other._right, other._all)

    def compute(self) -> float:
        """Return the mean recall. Raises StageError where no label counts."""
        if self._right is None or self._all is None:
            raise StageError("every label is an ignored one, so that nothing can be counted", "give labels that count")
        occurs = self._all > 0
        return float((self._right[occurs].double() / self._all[occurs]).mean())

    def _add(self, right: Tensor, everything: Tensor) -> None:
        if self._right is None or self._all is None:
            self._right, self._all = right, everything
            return
        self._right, self._all = _sum(self._right, right), _sum(self._all, everything)


def _sum(mine: Tensor, theirs: Tensor) -> Tensor:
    """Add counts of classes, of which each may know fewer."""
    longer, shorter = sorted((mine, theirs), key=len, reverse=True)
    found = longer.clone()
    found[: len(shorter)] += shorter
    return found
