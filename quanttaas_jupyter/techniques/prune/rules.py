"""How PyTorch's operations pass on, couple or fix the indices of their tensors: what rules are, and who has one.

Operations are ATen's, as a model runs them, so it does not matter how its ``forward`` is written. An operation without
a rule fixes all that goes into it: it can cost pruning an opportunity, never correctness. ``rules_shape`` has the rules
of what rearranges tensors, ``rules_layers`` those of what holds weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .couplings import Couplings, Labels

Passed = Sequence["Labels | None"]
"""Labels of each output; None for one that nothing downstream needs, such as saved statistics."""


@dataclass(frozen=True)
class Operation:
    """One call of an operation.

    Attributes:
        name: ATen's name, without namespace and overload.
        values: Arguments by name, defaults filled in.
        outputs: The tensors it returned.
        couplings: What is known so far.
        labels: Labels of a tensor's dimensions.
        is_weight: Whether a tensor depends on parameters alone.
    """

    name: str
    values: dict[str, Any]
    outputs: list[Any]
    couplings: Couplings
    labels: Callable[[Any], Labels]
    is_weight: Callable[[Any], bool]

    def dim(self, key: str, default: int = 0) -> int:
        """A dimension argument of ``self``, counted from the front."""
        value = self.values.get(key, default)
        return int(value) % max(1, int(self.values["self"].ndim))

    def dims(self, key: str) -> list[int]:
        """A list of dimensions of ``self``; all of them where it is empty or missing."""
        ndim = self.values["self"].ndim
        value = self.values.get(key)
        if value is None or value == []:
            return list(range(ndim))
        return [int(d) % max(1, ndim) for d in (value if isinstance(value, (list, tuple)) else [value])]


Rule = Callable[[Operation], Any]
_RULES: dict[str, Rule] = {}


def passed_on(operation: Operation, is_pointwise: bool) -> Passed | None:
    """Labels of each output; None where there is no rule."""
    from . import rules_layers, rules_shape  # noqa: F401  (they register themselves)

    rule = _RULES.get(operation.name) or _RULES.get(operation.name.rstrip("_"))
    if rule is None and is_pointwise:
        rule = _RULES["elementwise"]
    if rule is None:
        return None
    found = rule(operation)
    several = bool(found) and isinstance(found[0], list)
    return found if several else [found] * len(operation.outputs)


def rule(names: str) -> Callable[[Rule], Rule]:
    """Register what the operations with these names do; it returns the labels of each output, or those of all."""

    def keep(function: Rule) -> Rule:
        _RULES.update(dict.fromkeys(names.split(), function))
        return function

    return keep


def tensors_in(value: Any) -> list[Any]:
    """All tensors in nested tuples and lists."""
    if hasattr(value, "untyped_storage"):
        return [value]
    if isinstance(value, (tuple, list)):
        return [tensor for part in value for tensor in tensors_in(part)]
    return []


def fixed(op: Operation) -> Labels:
    """Nothing that goes in may be removed."""
    for tensor in tensors_in(list(op.values.values())):
        for label in op.labels(tensor):
            op.couplings.freeze(label)
    return [None] * op.outputs[0].ndim
