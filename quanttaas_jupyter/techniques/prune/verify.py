"""Check of a pruned model: operation by operation, it must do what its trace predicts.

The pruned model must run the same operations as before, each on tensors of exactly the size that the couplings predict.
A number of heads written into a ``view``, or a slice at a fixed place, is thus found at the operation that it breaks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...bundle.batches import Batch
from ...bundle.structure import Structure
from ...core.failures import first_line
from .couplings import Couplings, Labels
from .surgery import Surgery
from .tracing import Step, Trace, is_step, watch
from .units import surviving

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Fault:
    """First difference between a pruned model and its trace.

    Attributes:
        step: Index of the operation in the trace.
        problem: What happened.
        atoms: Removed atoms in the inputs and outputs of the operation.
    """

    step: int
    problem: str
    atoms: np.ndarray


class Expected:
    """Predicted sizes of all tensors of a traced run after some atoms are removed."""

    def __init__(self, traced: Trace, removed: np.ndarray) -> None:
        self.steps = traced.steps
        self._couplings: Couplings = traced.couplings
        size = 1 + int(max([removed.max(initial=0), *(_largest(s, traced.couplings) for s in traced.steps)], default=0))
        self._alive = np.ones(size, bool)
        self._alive[removed] = False

    def shape(self, shape: Sequence[int], labels: Labels) -> tuple[int, ...]:
        """Return the predicted shape of a tensor."""
        resolved = [self._couplings.resolve(label) for label in labels]
        return tuple(
            size if label is None else int(surviving(label, self._alive).sum())
            for size, label in zip(shape, resolved, strict=True)
        )

    def removed_in(self, labels: Labels) -> np.ndarray:
        """Return the removed atoms in these labels."""
        parts = [resolved.ravel() for label in labels if (resolved := self._couplings.resolve(label)) is not None]
        atoms = np.unique(np.concatenate(parts)) if parts else np.zeros(0, np.int64)
        return atoms[~self._alive[atoms]]


def find_fault(model: torch.nn.Module, structure: Structure, batch: Batch, expected: Expected) -> Fault | None:
    """Run a pruned model on the traced batch, and return the first difference from the trace, or None."""
    place = 0

    def check(module: str, name: str, is_pointwise: bool, values: dict[str, Any], outputs: list[Any]) -> None:
        nonlocal place
        if not is_step(name):
            return
        if place >= len(expected.steps):
            raise _Astray("it runs more operations than before", np.zeros(0, np.int64))
        step = expected.steps[place]
        if step.operation != name or step.module != module:
            raise _Astray(f"it runs {name} where it ran {step.operation}", _seen(expected, step))
        for tensor, (shape, labels) in zip(outputs, step.outputs, strict=True):
            wanted = tuple(tensor.shape) if labels is None else expected.shape(shape, labels)
            if labels is not None and tuple(tensor.shape) != wanted:
                raise _Astray(
                    f"{name} in {module or 'the model'} gives {tuple(tensor.shape)} where {wanted} is meant",
                    _mismatched(expected, step, tuple(tensor.shape), wanted, labels),
                )
        place += 1

    try:
        watch(model, structure, batch, check)
    except _Astray as astray:
        return Fault(place, astray.problem, astray.atoms)
    except Exception as error:
        step = expected.steps[min(place, len(expected.steps) - 1)]
        problem = f"{step.operation} in {step.module or 'the model'}: {first_line(error)}"
        return Fault(place, problem, _seen(expected, step))
    return None


def mend(model: torch.nn.Module, surgery: Surgery, expected: Expected, fault: Fault, only_heads: bool) -> bool:
    """Correct sizes that the faulty module stores as attributes, such as its number of heads.

    Args:
        model: The pruned model.
        surgery: Records the changes, so that they can be undone.
        expected: Predicted sizes.
        fault: The difference found.
        only_heads: Whether to change only attributes with "head" in their name.

    Returns:
        Whether an attribute was changed.
    """
    path = expected.steps[fault.step].module if fault.step < len(expected.steps) else ""
    nearby = _changes(expected, [step for step in expected.steps if step.module == path])
    here = _changes(expected, expected.steps[fault.step : fault.step + 1])
    exact = {old: next(iter(news)) for old, news in (nearby | here).items() if len(news) == 1}
    module = model.get_submodule(path)
    changes = {
        name: new
        for name, value in vars(module).items()
        if not name.startswith("_") and (new := _renewed(value, exact)) != value and ("head" in name or not only_heads)
    }
    surgery.set(module, changes)
    return bool(changes)


def _changes(expected: Expected, steps: Sequence[Step]) -> dict[int, set[int]]:
    """Return the new sizes in these operations by old size."""
    sizes: dict[int, set[int]] = {}
    for step in steps:
        for shape, labels in (*step.inputs, *step.outputs):
            for old, new in zip(shape, expected.shape(shape, labels or [None] * len(shape)), strict=True):
                if old != new:
                    sizes.setdefault(old, set()).add(new)
    return sizes


class _Astray(Exception):
    def __init__(self, problem: str, atoms: np.ndarray) -> None:
        super().__init__(problem)
        self.problem, self.atoms = problem, atoms


def _renewed(value: Any, sizes: dict[int, int]) -> Any:
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return sizes.get(value, value)
    if type(value) in (tuple, list) and value and all(type(part) is int for part in value):
        return type(value)(sizes.get(part, part) for part in value)
    return value


def _seen(expected: Expected, step: Step) -> np.ndarray:
    return expected.removed_in([label for _, labels in (*step.inputs, *step.outputs) for label in labels or []])


def _mismatched(
    expected: Expected, step: Step, shape: tuple[int, ...], wanted: tuple[int, ...], labels: Labels
) -> np.ndarray:
    if len(shape) == len(wanted):
        wrong = [label for label, a, b in zip(labels, shape, wanted, strict=True) if a != b]
        atoms = expected.removed_in(wrong)
        if atoms.size:
            return atoms
    return _seen(expected, step)


def _largest(step: Step, couplings: Couplings) -> int:
    labels = [couplings.resolve(label) for _, labels in (*step.inputs, *step.outputs) for label in labels or []]
    return max((int(label.max()) for label in labels if label is not None), default=0)
