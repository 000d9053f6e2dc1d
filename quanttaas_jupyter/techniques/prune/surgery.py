"""Removal of indices from a model's tensors, with undo."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch


class Surgery:
    """Changes made to a model; ``undo`` reverts all of them."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model
        self._undo: list[Callable[[], None]] = []

    def cut(self, kept: Mapping[tuple[str, int], np.ndarray]) -> None:
        """Keep only some indices of parameters and buffers, and set the size attributes of PyTorch's modules.

        Args:
            kept: Indices to keep, by first name of the tensor and dimension.
        """
        import torch

        changed: set[Any] = set()
        by_name: dict[str, list[tuple[int, np.ndarray]]] = {}
        for (name, dim), indices in kept.items():
            by_name.setdefault(name, []).append((dim, indices))
        first = dict(self._model.named_parameters()) | dict(self._model.named_buffers())
        news: dict[int, Any] = {}
        for name, cuts in by_name.items():
            with torch.no_grad():
                new = first[name].detach()
                for dim, indices in cuts:
                    new = new.index_select(dim, torch.from_numpy(indices))
            is_parameter = isinstance(first[name], torch.nn.Parameter)
            news[id(first[name])] = (
                torch.nn.Parameter(new.clone(), requires_grad=first[name].requires_grad)
                if is_parameter
                else new.clone()
            )
        for module in self._model.modules():
            for held in (module._parameters, module._buffers):
                for key, tensor in list(held.items()):
                    if tensor is not None and id(tensor) in news:
                        self._put(module, key, tensor, news[id(tensor)])
                        changed.add(module)
        for module in [m for m in self._model.modules() if changed & set(m.modules())]:
            self.set(module, sizes_of(module))

    def set(self, module: torch.nn.Module, values: Mapping[str, Any]) -> None:
        """Set attributes of a module to new values."""
        for name, value in values.items():
            old = getattr(module, name)
            if old != value:
                self._undo.append(partial(setattr, module, name, old))
                setattr(module, name, value)

    def undo(self) -> None:
        """Revert all changes."""
        while self._undo:
            self._undo.pop()()

    def _put(self, module: torch.nn.Module, key: str, old: Any, new: Any) -> None:
        self._undo.append(partial(setattr, module, key, old))
        setattr(module, key, new)


@contextlib.contextmanager
def runs_leave_nothing(model: torch.nn.Module) -> Iterator[None]:
    """Remove the hooks and attributes that a model adds to itself while it runs; some cannot be pickled."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called")
    before = [(m, set(vars(m)), {name: dict(vars(m)[name]) for name in hooks}) for m in model.modules()]
    try:
        yield
    finally:
        for module, names, held in before:
            for name in set(vars(module)) - names:
                delattr(module, name)
            for name, entries in held.items():
                vars(module)[name].clear()
                vars(module)[name].update(entries)


def sizes_of(module: torch.nn.Module) -> dict[str, Any]:
    """Return the size attributes of one of PyTorch's own modules, as its tensors have them."""
    from torch import nn

    if isinstance(module, nn.Linear):
        return {"out_features": module.weight.shape[0], "in_features": module.weight.shape[1]}
    if isinstance(module, nn.modules.conv._ConvNd):
        return _convolution(module)
    if isinstance(module, nn.GroupNorm):
        new = module.weight.shape[0] if module.affine else module.num_channels
        groups = new if module.num_groups == module.num_channels else module.num_groups
        return {"num_channels": new, "num_groups": groups}
    if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)):
        tensor: torch.Tensor = module.weight if module.weight is not None else module.running_mean
        return {} if tensor is None else {"num_features": tensor.shape[0]}
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)) and module.weight is not None:
        return {"normalized_shape": tuple(module.weight.shape)}
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return {"num_embeddings": module.weight.shape[0], "embedding_dim": module.weight.shape[1]}
    if isinstance(module, nn.PReLU):
        return {"num_parameters": module.weight.shape[0]}
    if isinstance(module, nn.RNNBase):
        into, within = module._parameters["weight_ih_l0"], module._parameters["weight_hh_l0"]
        return {} if into is None or within is None else {"input_size": into.shape[1], "hidden_size": within.shape[1]}
    if isinstance(module, nn.RNNCellBase):
        return {"input_size": module.weight_ih.shape[1], "hidden_size": module.weight_hh.shape[1]}
    return {}


def _convolution(module: Any) -> dict[str, Any]:
    """Return the size attributes of a convolution: a depthwise one loses groups, in others the groups become narrower.

    Whether it is depthwise is decided by the sizes before the cut: groups of two channels may be cut to one.
    """
    shape, groups = module.weight.shape, module.groups
    inner, outer = (0, 1) if module.transposed else (1, 0)
    part, whole = (
        (module.out_channels, module.in_channels) if module.transposed else (module.in_channels, module.out_channels)
    )
    if groups > 1 and part == groups:
        groups = shape[0] * groups // whole
    if module.transposed:
        return {"in_channels": shape[0], "out_channels": shape[1] * groups, "groups": groups}
    return {"out_channels": shape[outer], "in_channels": shape[inner] * groups, "groups": groups}
