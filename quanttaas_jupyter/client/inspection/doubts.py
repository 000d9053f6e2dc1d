"""Outputs that fit targets by their shape and may still be something else: what speaks for that is asked back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...core.errors import DataError
from ...core.understanding import Judging

if TYPE_CHECKING:
    import torch

_FEWEST = 32
"""Samples that have to look alike before it is no chance. Chosen, not tuned."""
_NORM_ERROR = 1e-3
"""How far the length of a vector in single precision may be from one."""
_BETTER = 0.2
"""Share of labels that the other reading must get right beyond the largest score, and beyond the commonest label.
Chosen, not tuned."""


_FEWEST_WRONG, _MOST_CLASSES, _NEAR = 16, 5, 0.25
"""Wrong answers and labels from which it is seen whether whole numbers miss by little, and the share of the distance
of two labels at random that is little. Chosen, not tuned."""


def refuse_soft(output: torch.Tensor, target: torch.Tensor) -> None:
    """Ask back where targets lie between 0 and 1 and outputs come near them only through a sigmoid.

    Raises:
        DataError: They look like logits and soft labels; the sentence says how to tell.
    """
    output, target = output.double().reshape(target.shape), target.double()
    if not bool(((target >= 0) & (target <= 1)).all()) or bool(((output >= 0) & (output <= 1)).all()):
        return
    error, spread = ((output - target) ** 2).mean(), ((target - target.mean()) ** 2).mean()
    if bool(error > spread) and bool(((output.sigmoid() - target) ** 2).mean() < error):
        raise DataError(
            "targets lie between 0 and 1, and outputs come near them only through a sigmoid: give --postprocess "
            "torch.sigmoid, or a loss such as BCEWithLogitsLoss as the metric; --task regression compares them as they "
            "are"
        )


def refuse_near_numbers(output: torch.Tensor, target: torch.Tensor) -> None:
    """Ask back where a model gives whole numbers that miss the targets by little, as counts do.

    Raises:
        DataError: They look like values; the sentence says how to tell.
    """
    wrong = output != target
    if int(wrong.sum()) < _FEWEST_WRONG or len(target.unique()) <= _MOST_CLASSES:
        return
    apart = (output.double() - target.double())[wrong].square().mean()
    if bool(apart < _NEAR * 2 * target.double().var()):
        raise DataError(
            "the model and the targets give whole numbers that differ by little: say --task regression if they are "
            "values, --task classification if they are classes"
        )


def refuse_doubtful(output: torch.Tensor, target: torch.Tensor, judging: Judging) -> None:
    """Ask back where columns of outputs (n, classes) look like vectors, quantiles or ordered thresholds.

    Args:
        output: The judged output of some samples (n, classes).
        target: Their labels (n).
        judging: What the output was taken for.

    Raises:
        DataError: It looks like something else than class scores; the sentence says how to tell.
    """
    if judging.scores != "logits" or output.ndim != 2 or target.ndim != 1 or len(output) < _FEWEST:
        return
    values, classes = output.double(), output.shape[1]
    if bool(((values.norm(dim=1) - 1).abs() < _NORM_ERROR).all()):
        raise DataError(
            f"all {classes} outputs of a sample form a vector of length 1: say --task embedding, or --task "
            "classification if they are class scores"
        )
    steps = values.diff(dim=1)
    counts = target.unique(return_counts=True)[1]
    is_worse = int((output.argmax(1) == target).sum()) < int(counts.max())
    # A model that says the commonest class of every sample has its scores in one order too.
    if classes > 2 and is_worse and bool((steps > 0).all() | (steps < 0).all()):
        raise DataError(
            f"the {classes} outputs of every sample are in order, as quantiles and thresholds are: give --postprocess "
            "FUNCTION that makes what is judged of them, or --task classification if they are class scores"
        )
    _refuse_ordinal(values, target, judging.ignore_label)


def _refuse_ordinal(output: torch.Tensor, target: torch.Tensor, ignore_label: int | None) -> None:
    """Ask back where the number of positive outputs gives the labels far more often than the largest one does."""
    kept = target == target if ignore_label is None else target != ignore_label
    if output.shape[1] < 3 or int(kept.sum()) < _FEWEST:
        return
    by_count = float(((output > 0).sum(1) == target)[kept].double().mean())
    by_largest = float((output.argmax(1) == target)[kept].double().mean())
    by_commonest = float(target[kept].unique(return_counts=True)[1].max()) / int(kept.sum())
    if by_count > _BETTER + max(by_largest, by_commonest):
        raise DataError(
            f"the number of positive outputs is the label of {by_count:.0%} of the first samples, the largest output "
            f"of {by_largest:.0%}: give --postprocess FUNCTION that makes class scores of ordered thresholds, or "
            "--task classification if they are class scores"
        )
