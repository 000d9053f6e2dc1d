"""Importance of units, from weights, BatchNorm scales or gradients.

- ``magnitude``: the sum of squared weights that are removed with a unit (Li et al., "Pruning Filters for Efficient
  ConvNets", ICLR 2017; summed over coupled layers as in Fang et al., CVPR 2023).
- ``batchnorm``: the absolute scales of its BatchNorm layers (Liu et al., "Network Slimming", ICCV 2017).
- ``taylor``: the squared first-order change of the loss when it is removed (Molchanov et al., "Importance Estimation
  for Neural Network Pruning", CVPR 2019). Without targets the loss is a random projection of the outputs, so that the
  mean square estimates the change of the outputs themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...bundle.batches import call
from ...bundle.outputs import flatten_outputs, main_output
from ...core.failures import StageError
from ..evaluate.tensors import class_dims
from . import PruneJob
from .units import Units

if TYPE_CHECKING:
    import torch

KINDS = ("magnitude", "batchnorm", "taylor")
_SAMPLES, _BATCH = 128, 16
_IGNORED_LABEL = -100
_PROJECTIONS = 2
"""Random projections of the outputs per batch without targets; chosen, not tuned. More reduce the variance."""
_FLATTEST = 1e-3
"""Share of an output's mean square added to its variance; chosen, not tuned, so that constants are not amplified."""


def applicable(model: torch.nn.Module, units: Units) -> tuple[str, ...]:
    """Return the kinds of importance that apply to this model's units."""
    return tuple(kind for kind in KINDS if kind != "batchnorm" or _scales(model, units))


def of_groups(kind: str, job: PruneJob, units: Units) -> list[np.ndarray]:
    """Return the importance of each group's units, with a mean of one in each group.

    Raises:
        StageError: The model lacks the layers that this kind needs, or its gradients are not finite.
    """
    magnitude = _sums(units, _squares(job.model))
    if kind == "magnitude":
        return [_normal(magnitude[group.units]) for group in units.groups]
    if kind == "batchnorm":
        scales = _scales(job.model, units)
        if not scales:
            raise StageError(
                "importance: batchnorm needs BatchNorm layers with scales, and nothing prunable here has any",
                "use importance: magnitude or taylor",
            )
        own = _sums(units, scales)
        return [_normal(own[g.units] if own[g.units].any() else magnitude[g.units]) for g in units.groups]
    changes = _taylor(job, units)
    return [_normal(changes[group.units]) for group in units.groups]


def _squares(model: torch.nn.Module) -> dict[str, np.ndarray]:
    return {
        name: parameter.detach().double().square().numpy()
        for name, parameter in model.named_parameters()
        if parameter.is_floating_point() and "bias" not in name.rpartition(".")[2]
    }


def _scales(model: torch.nn.Module, units: Units) -> dict[str, np.ndarray]:
    import torch

    names = {axis.name for axis in units.axes}
    return {
        f"{path}.weight": module.weight.detach().double().abs().numpy()
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and f"{path}.weight" in names
    }


def _sums(units: Units, values: dict[str, np.ndarray]) -> np.ndarray:
    """Sum a value per parameter element over all elements that are removed with each atom."""
    scores = np.zeros(units.atoms())
    for axis in units.axes:
        value = values.get(axis.name)
        if value is not None and axis.label is not None:
            own = value.sum(tuple(d for d in range(value.ndim) if d != axis.dim))
            for column in axis.label.T:
                np.add.at(scores, column, own)
    return scores


def _taylor(job: PruneJob, units: Units) -> np.ndarray:
    import torch

    generator = torch.Generator().manual_seed(0)
    parameters = {name: p for name, p in job.model.named_parameters() if p.is_floating_point()}
    wanted = {name: p.requires_grad for name, p in parameters.items()}
    scores = np.zeros(units.atoms())
    try:
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        for batch in job.examples.head(_SAMPLES).rebatched(_BATCH).batches:
            with torch.enable_grad():
                outputs = call(job.model, job.examples.inputs, batch.inputs)
                losses = _losses(job, outputs, batch.targets, generator)
                for index, loss in enumerate(losses):
                    grads = torch.autograd.grad(
                        loss, list(parameters.values()), allow_unused=True, retain_graph=index + 1 < len(losses)
                    )
                    pairs = zip(parameters.items(), grads, strict=True)
                    products = {n: (p.detach() * g).double().numpy() for (n, p), g in pairs if g is not None}
                    scores += _sums(units, products) ** 2
    finally:
        for name, parameter in parameters.items():
            parameter.requires_grad_(wanted[name])
    if not np.isfinite(scores).all():
        raise StageError("the gradients of the model are not finite", "use importance: magnitude")
    return scores


def _losses(job: PruneJob, outputs: Any, targets: Sequence[Any], generator: torch.Generator) -> list[torch.Tensor]:
    import torch

    leaves = [leaf for _, leaf in flatten_outputs(outputs)[0] if leaf.requires_grad]
    if not leaves:
        raise StageError("the model's outputs have no gradients", "use importance: magnitude")
    main = main_output(outputs, job.output)
    main = main if main.requires_grad else leaves[0]
    labels = targets[0] if targets and isinstance(targets[0], torch.Tensor) else None
    dim = job.class_dim
    if labels is not None and dim is not None and _are_labels(main, labels, dim):
        return [torch.nn.functional.cross_entropy(main.movedim(dim, 1), labels.long(), ignore_index=_IGNORED_LABEL)]
    if labels is not None and dim is None and labels.numel() == main.numel():
        return [(main - labels.reshape(main.shape)).square().mean()]
    scales = [_spread(leaf.detach()) * leaf.numel() ** 0.5 for leaf in leaves]
    return [
        torch.stack([
            (leaf * torch.randn(leaf.shape, generator=generator)).sum() / scale
            for leaf, scale in zip(leaves, scales, strict=True)
        ]).sum()
        for _ in range(_PROJECTIONS)
    ]  # fmt: skip


def _are_labels(scores: torch.Tensor, labels: torch.Tensor, dim: int) -> bool:
    if dim not in class_dims(scores, labels) or labels.is_complex():
        return False
    counted = labels[labels != _IGNORED_LABEL]
    return len(counted) > 0 and int(counted.min()) >= 0 and int(counted.max()) < scores.shape[dim]


def _spread(leaf: torch.Tensor) -> torch.Tensor:
    """Return the standard deviation of an output, with a floor so that a nearly constant one is not amplified."""
    return (leaf.var(correction=0) + _FLATTEST * leaf.square().mean()).sqrt().clamp_min(1e-8)


def _normal(values: np.ndarray) -> np.ndarray:
    mean = float(values.mean())
    return values / mean if mean > 0 else np.ones_like(values)
