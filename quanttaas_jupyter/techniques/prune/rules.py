"""Rules of how PyTorch's operations pass on, couple or freeze the indices of their tensors.

The operations are those of ATen that a model runs, so it does not matter how its ``forward`` is written. An operation
without a rule freezes all its inputs: that may cost an opportunity to prune, but never correctness. ``rules_shape`` has
the rules for operations that rearrange tensors, ``rules_layers`` those for operations with weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .couplings import Couplings, Labels

if TYPE_CHECKING:
    import torch

Passed = Sequence["Labels | None"]
"""Labels of each output; None for an output that no later operation uses, such as saved statistics."""


@dataclass(frozen=True)
class Operation:
    """One call of an operation.

    Attributes:
        name: ATen's name, without namespace and overload.
        values: Arguments by name, with defaults filled in.
        outputs: The returned tensors.
        couplings: Couplings known so far.
        labels: Function that returns the labels of a tensor's dimensions.
        is_weight: Function that returns whether a tensor depends on parameters alone.
    """

    name: str
    values: dict[str, Any]
    outputs: list[Any]
    couplings: Couplings
    labels: Callable[[Any], Labels]
    is_weight: Callable[[Any], bool]

    def dim(self, key: str, default: int = 0) -> int:
        """Return a dimension argument of ``self``, counted from the front."""
        value = self.values.get(key, default)
        return int(value) % max(1, int(self.values["self"].ndim))

    def dims(self, key: str) -> list[int]:
        """Return a list of dimensions of ``self``; all of them if the argument is empty or missing."""
        ndim = self.values["self"].ndim
        value = self.values.get(key)
        if value is None or value == []:
            return list(range(ndim))
        return [int(d) % max(1, ndim) for d in (value if isinstance(value, (list, tuple)) else [value])]


Rule = Callable[[Operation], Any]
_RULES: dict[str, Rule] = {}


def passed_on(operation: Operation, is_pointwise: bool) -> Passed | None:
    """Return the labels of each output, or None if the operation has no rule."""
    from . import rules_layers, rules_shape  # noqa: F401  (they register themselves)

    rule = _RULES.get(operation.name) or _RULES.get(operation.name.rstrip("_"))
    if rule is None and is_pointwise:
        rule = _RULES["elementwise"]
    if rule is None:
        return None
    labels = rule(operation)
    several = bool(labels) and isinstance(labels[0], list)
    return labels if several else [labels] * len(operation.outputs)


def rule(names: str) -> Callable[[Rule], Rule]:
    """Register a rule for the operations with these names; it returns labels for each output, or the same for all."""

    def keep(function: Rule) -> Rule:
        _RULES.update(dict.fromkeys(names.split(), function))
        return function

    return keep


def tensors_in(value: Any) -> list[torch.Tensor]:
    """Return all tensors in nested tuples and lists."""
    if hasattr(value, "untyped_storage"):
        return [value]
    if isinstance(value, (tuple, list)):
        return [tensor for part in value for tensor in tensors_in(part)]
    return []


def fixed(op: Operation) -> Labels:
    """Freeze all inputs of an operation, and return labels for an output without removable indices."""
    for tensor in tensors_in(list(op.values.values())):
        for label in op.labels(tensor):
            op.couplings.freeze(label)
    return [None] * op.outputs[0].ndim
