"""Losses of PyTorch as metrics: sums over the places of each sample, so that batches of any size give one mean."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ...core.failures import StageError, explain
from ...core.understanding import Judging
from .tensors import aligned, as_values, classes_last, counted, judged, raw_targets

if TYPE_CHECKING:
    import torch

_WEIGHTED = ("CrossEntropyLoss", "NLLLoss")
"""Losses whose mean divides by the weights of the classes that occur; all others divide by the number of values."""
_TORCH_IGNORES = -100
"""What losses of torch ignore unless they are told another label."""

Sums = Callable[[Any, Any, Any], tuple[np.ndarray, np.ndarray]]


def cross_entropy(judging: Judging) -> Sums:
    """Return a function that sums the cross-entropy (nats) and counts the places of each sample."""
    from torch.nn import functional

    def sums(outputs: Any, targets: Any, reference: Any) -> tuple[np.ndarray, np.ndarray]:
        output, target = judged(outputs, targets, judging)
        scores = classes_last(output, judging).reshape(target.numel(), -1)
        ignored = _TORCH_IGNORES if judging.ignore_label is None else judging.ignore_label
        # Of probabilities the logarithm is taken already; both are one pass over the scores of a vocabulary.
        is_log = judging.scores == "probabilities"
        entropy = functional.nll_loss if is_log else functional.cross_entropy
        values = entropy(scores.log() if is_log else scores, target.reshape(-1), ignore_index=ignored, reduction="none")
        return _by_sample(values.reshape(target.shape)), _by_sample(target != ignored)

    return sums


def sums_of(loss: Any, judging: Judging) -> Sums:
    """Return a function that sums a loss over the places of each sample, and counts or weighs them.

    Args:
        loss: A module of ``torch.nn``; its own reduction must be a mean or none.
        judging: How outputs are compared with targets.
    """
    import torch

    unreduced = copy.deepcopy(loss)
    unreduced.reduction = "none"
    if getattr(loss, "ignore_index", None) == _TORCH_IGNORES and judging.ignore_label is not None:
        unreduced.ignore_index = judging.ignore_label

    def sums(outputs: Any, targets: Any, reference: Any) -> tuple[np.ndarray, np.ndarray]:
        output, target = judged(outputs, targets, judging)
        if judging.labels == "one-hot" and (shares := raw_targets(targets, judging)) is not None:
            # Losses take the shares of the classes themselves.
            dim = judging.class_dim or 1
            output, target = output.movedim(dim, 1), shares.movedim(dim, 1)
        if judging.class_dim is not None and target.ndim < output.ndim:
            output = output.movedim(judging.class_dim, 1)
        else:
            output, target = aligned(as_values(output), target)
            target = target.to(output.dtype)
        try:
            values = unreduced(output, target)
        except Exception as error:
            raise StageError(f"loss {type(loss).__name__} cannot be computed: {explain(error)['reason']}") from error
        if judging.labels == "ids" and values.shape == target.shape:
            values = torch.where(counted(target, judging), values, 0.0)
        if bool(torch.isnan(values).any()):
            raise StageError(
                f"loss {type(loss).__name__} cannot be computed: it is NaN for some samples", "look for NaN in targets"
            )
        return _by_sample(values), _by_sample(_weights(unreduced, loss.reduction, target, values, judging))

    return sums


def _weights(loss: Any, reduction: str, target: Any, values: Any, judging: Judging) -> Any:
    """Return what the mean of a loss divides by: places that count, weighted by their class."""
    import torch

    if reduction == "batchmean":
        return torch.ones(len(values))
    if values.shape != target.shape or judging.labels != "ids":
        return torch.ones_like(values)
    if target.is_floating_point():
        return counted(target, judging)
    if not hasattr(loss, "ignore_index"):
        return counted(target, judging)
    counts = target != loss.ignore_index
    weight = getattr(loss, "weight", None) if type(loss).__name__ in _WEIGHTED else None
    if weight is None:
        return counts
    return torch.where(counts, weight[torch.where(counts, target, 0)], 0.0)


def _by_sample(values: torch.Tensor) -> np.ndarray:
    found: np.ndarray = values.reshape(len(values), -1).double().sum(1).numpy()
    return found
