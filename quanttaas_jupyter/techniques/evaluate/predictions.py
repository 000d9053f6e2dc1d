"""Predictions of a model on a data set, and where in them the classes lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...bundle.structure import flatten
from ...core.failures import StageError

IGNORED_LABEL = -100


@dataclass(frozen=True)
class Predictions:
    """What a model said on the evaluation data, beside what is right.

    Attributes:
        outputs: The model's outputs, all batches concatenated, in the model's structure.
        targets: The targets, concatenated; None without labels.
        reference: The baseline's outputs, concatenated; None for the baseline itself.
        class_dim: The dimension of the main output that holds one score a class; None where there is none, or where
            the targets tell it by their shape.
    """

    outputs: Any
    targets: Any
    reference: Any = None
    class_dim: int | None = None


def class_dims(outputs: Any, targets: Any) -> list[int]:
    """Dimensions of ``outputs`` that may hold one score a class: 1 or the last, where the rest is as ``targets``."""
    if targets.ndim < 1 or outputs.ndim != targets.ndim + 1:
        return []
    fitting = [
        dim for dim in (1, outputs.ndim - 1) if outputs.shape[dim] > 1 and _without(outputs, dim) == targets.shape
    ]
    return list(dict.fromkeys(fitting))


def right_share(outputs: Any, targets: Any, dim: int) -> float:
    """The share of labels that are right when classes lie along ``dim``."""
    counted = targets != IGNORED_LABEL
    right = (outputs.argmax(dim) == targets) & counted
    return float(right.sum()) / max(1, int(counted.sum()))


def main_output(outputs: Any) -> Any:
    """The tensor a named metric looks at: ``logits`` where there are some, else the first."""
    if isinstance(outputs, dict) and "logits" in outputs:
        return outputs["logits"]
    leaves = leaves_of(outputs)
    if not leaves:
        raise StageError("there is no tensor to compute the metric from")
    return leaves[0]


def _without(outputs: Any, dim: int) -> Any:
    return outputs.shape[:dim] + outputs.shape[dim + 1 :]


def leaves_of(value: Any) -> list[Any]:
    import torch

    return [leaf for _, leaf in flatten(value)[0] if isinstance(leaf, torch.Tensor)]
