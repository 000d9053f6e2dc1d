"""Predictions of a model on a data set, and the dimension of its outputs that holds the classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...bundle.structure import flatten
from ...core.failures import StageError

IGNORED_LABEL = -100
"""Label that metrics and losses ignore, PyTorch's default ``ignore_index``."""


@dataclass(frozen=True)
class Predictions:
    """Outputs of a model on the evaluation data, with targets and the baseline's outputs.

    Attributes:
        outputs: The model's outputs, all batches concatenated, in the model's structure.
        targets: The targets, concatenated; None without labels.
        reference: The baseline's outputs, concatenated; None for the baseline itself.
        class_dim: The dimension of the main output that holds one score per class; None if there is none, or if the
            shape of the targets determines it.
    """

    outputs: Any
    targets: Any
    reference: Any = None
    class_dim: int | None = None


def class_dims(outputs: Any, targets: Any) -> list[int]:
    """Return the dimensions of ``outputs`` that may hold class scores: 1 or the last, if the rest fits ``targets``."""
    if targets.ndim < 1 or outputs.ndim != targets.ndim + 1:
        return []
    fitting = [
        dim for dim in (1, outputs.ndim - 1) if outputs.shape[dim] > 1 and _without(outputs, dim) == targets.shape
    ]
    return list(dict.fromkeys(fitting))


def right_share(outputs: Any, targets: Any, dim: int) -> float:
    """Return the share of correct labels if the classes lie along dimension ``dim``."""
    counted = targets != IGNORED_LABEL
    right = (outputs.argmax(dim) == targets) & counted
    return float(right.sum()) / max(1, int(counted.sum()))


def main_output(outputs: Any) -> Any:
    """Return the tensor that metrics use: ``logits`` if the outputs have it, otherwise the first tensor.

    Raises:
        StageError: The outputs hold no tensor.
    """
    if isinstance(outputs, dict) and "logits" in outputs:
        return outputs["logits"]
    leaves = leaves_of(outputs)
    if not leaves:
        raise StageError("there is no tensor to compute the metric from")
    return leaves[0]


def _without(outputs: Any, dim: int) -> Any:
    return outputs.shape[:dim] + outputs.shape[dim + 1 :]


def leaves_of(value: Any) -> list[Any]:
    """Return all tensors in a nested value, in order."""
    import torch

    return [leaf for _, leaf in flatten(value)[0] if isinstance(leaf, torch.Tensor)]
