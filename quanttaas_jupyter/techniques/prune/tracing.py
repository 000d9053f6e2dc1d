"""Trace of a model: one run that records each operation, the couplings of parameters, and the shapes of tensors.

The idea of dependency graphs comes from Fang et al., "DepGraph: Towards Any Structural Pruning" (CVPR 2023). Here the
couplings are read from the operations that actually run, so that parametrized, tied and free-standing parameters need
no special treatment. A recurrent layer is recorded as one operation.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...bundle.batches import Batch, call
from ...bundle.outputs import flatten_outputs
from ...bundle.structure import Structure
from ..attention import layer_by_layer
from .couplings import Couplings, Label, Labels
from .recurrent import couple_recurrent
from .rules import Operation, passed_on, tensors_in

if TYPE_CHECKING:
    import torch

Note = Callable[[str, str, bool, "dict[str, Any]", "list[Any]"], None]
"""Called with module path, operation, whether it is pointwise, its arguments by name and its outputs."""


# Whether these run depends on memory layouts and constants, so that they do not count as steps of the model.
_BOOKKEEPING = ("detach", "lift_fresh", "alias", "clone", "contiguous")
_SAME = {"_unsafe_view": "view", "_reshape_alias": "view"}


@dataclass(frozen=True)
class Step:
    """One operation of the traced run: its module, and the shapes and labels of its inputs and outputs.

    An output without labels has a shape that cannot be predicted.
    """

    module: str
    operation: str
    inputs: list[tuple[tuple[int, ...], Labels]]
    outputs: list[tuple[tuple[int, ...], Labels | None]]


@dataclass(frozen=True)
class Axis:
    """Dimension of a parameter or buffer, with the atoms that its indices need."""

    name: str
    dim: int
    label: Label


@dataclass
class Trace:
    """Result of one traced run of a model.

    Attributes:
        couplings: Indices that can only be removed together.
        steps: All operations, in order.
        tensors: Labels of each parameter and buffer by its first name.
        fixed_by: Operations without a rule, which froze their inputs.
    """

    couplings: Couplings
    steps: list[Step] = field(default_factory=list)
    tensors: dict[str, Labels] = field(default_factory=dict)
    fixed_by: set[str] = field(default_factory=set)

    def axes(self) -> list[Axis]:
        """Return the dimensions of parameters and buffers with removable indices."""
        axes = [
            Axis(name, dim, self.couplings.resolve(label))
            for name, labels in self.tensors.items()
            for dim, label in enumerate(labels)
        ]
        return [axis for axis in axes if axis.label is not None]


def trace(model: torch.nn.Module, structure: Structure, batch: Batch, fixed: set[int]) -> Trace:
    """Run the model, and return the couplings of its parameters.

    Args:
        model: The module, in eval mode.
        structure: How its inputs are nested.
        batch: Inputs, of two samples or more.
        fixed: Ids of the modules that must not be changed.
    """
    traced = Trace(Couplings())
    labels = _Labels(model, traced)
    outputs = watch(model, structure, batch, labels.note)
    for leaf in outputs:
        for label in labels.of(leaf):
            traced.couplings.freeze(label)
    labels.fix_unused()
    for module in model.modules():
        if id(module) in fixed or _is_closed(module):
            for tensor in (*module.parameters(), *module.buffers()):
                for label in labels.of(tensor):
                    traced.couplings.freeze(label)
    return traced


def watch(model: torch.nn.Module, structure: Structure, batch: Batch, note: Note) -> list[Any]:
    """Run the model without gradients and call ``note`` after each operation.

    Returns:
        The tensors in the model's outputs.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    path: list[str] = [""]
    inside: list[Any] = []

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            if not inside:
                values = {a.name: a.default_value for a in func._schema.arguments if a.has_default_value()}
                values |= dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | (kwargs or {})
                name = func._schema.name.rpartition("::")[2]
                note(path[-1], _SAME.get(name, name), torch.Tag.pointwise in func.tags, values, tensors_in(result))
            return result

    def enter(name: str, module: torch.nn.Module) -> None:
        path.append(name)
        if isinstance(module, torch.nn.RNNBase):
            inside.append(module)

    def leave(module: torch.nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        name = path.pop()
        if isinstance(module, torch.nn.RNNBase) and inside:
            inside.pop()
            given = {"module": module, **dict(zip(("input", "hx"), args, strict=False)), **kwargs}
            note(name, "recurrent", False, given, tensors_in(result))

    with contextlib.ExitStack() as stack:
        for name, module in model.named_modules():
            before = module.register_forward_pre_hook(lambda m, args, name=name: enter(name, m))
            after = module.register_forward_hook(leave, with_kwargs=True)
            stack.callback(before.remove)
            stack.callback(after.remove)
        stack.enter_context(layer_by_layer())
        stack.enter_context(torch.no_grad())
        stack.enter_context(Recorder())
        outputs, _ = flatten_outputs(call(model, structure, batch.inputs))
    return [leaf for _, leaf in outputs if isinstance(leaf, torch.Tensor)]


def is_step(operation: str) -> bool:
    """Return whether an operation runs each time that a model runs."""
    return operation not in _BOOKKEEPING


class _Labels:
    """Labels of the tensors of a run; it keeps the tensors alive, so that their ids stay unique."""

    def __init__(self, model: torch.nn.Module, traced: Trace) -> None:
        self._traced = traced
        self._kept: dict[int, tuple[Any, Labels, bool]] = {}
        self._used: set[int] = set()
        self._names: dict[str, Any] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        for name, tensor in self._names.items():
            labels = [traced.couplings.fresh(size) if size > 1 else None for size in tensor.shape]
            traced.tensors[name] = labels
            self._kept[id(tensor)] = (tensor, labels, True)

    def of(self, tensor: torch.Tensor) -> Labels:
        """Return the labels of a tensor's dimensions."""
        held = self._kept.get(id(tensor))
        return list(held[1]) if held else [None] * tensor.ndim

    def is_weight(self, tensor: torch.Tensor) -> bool:
        """Return whether a tensor depends on parameters and buffers alone."""
        held = self._kept.get(id(tensor))
        return held is not None and held[2]

    def note(self, module: str, name: str, is_pointwise: bool, values: dict[str, Any], outputs: list[Any]) -> None:
        """Record one operation, and label its outputs."""
        inputs = [tensor for value in values.values() for tensor in tensors_in(value)]
        if name == "recurrent":
            inputs += list(values["module"].parameters())
        self._used.update(map(id, inputs))
        before = [(tuple(t.shape), self.of(t)) for t in inputs]
        operation = Operation(name, values, outputs, self._traced.couplings, self.of, self.is_weight)
        labels = couple_recurrent(operation) if name == "recurrent" else passed_on(operation, is_pointwise)
        if labels is None:
            labels = [[None] * out.ndim for out in outputs]
            self._fix(name, inputs)
        is_weight = bool(inputs) and all(map(self.is_weight, inputs))
        for tensor, own in zip(outputs, labels, strict=True):
            self._kept[id(tensor)] = (tensor, own if own is not None else [None] * tensor.ndim, is_weight)
        if not is_step(name):
            return
        after = [(tuple(t.shape), own) for t, own in zip(outputs, labels, strict=True)]
        self._traced.steps.append(Step(module, name, before, after))

    def fix_unused(self) -> None:
        """Freeze the parameters and buffers that no operation used."""
        for tensor in self._names.values():
            if id(tensor) not in self._used:
                for label in self.of(tensor):
                    self._traced.couplings.freeze(label)

    def _fix(self, name: str, inputs: list[Any]) -> None:
        for label in (label for tensor in inputs for label in self.of(tensor)):
            if self._traced.couplings.resolve(label) is not None:
                self._traced.fixed_by.add(name)
                self._traced.couplings.freeze(label)


def _is_closed(module: torch.nn.Module) -> bool:
    """Return whether a module computes sizes from each other in ways that its parameters do not show."""
    import torch

    return isinstance(module, torch.nn.MultiheadAttention)
