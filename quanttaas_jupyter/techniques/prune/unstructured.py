"""Unstructured pruning: the weights of least magnitude in the whole model become zero."""

from __future__ import annotations

from typing import Any

from ...core.catalogue import Technique
from ...core.failures import StageError
from . import PRUNERS, Pruned, PruneJob

_FAR = 0.05
"""Distance between the wanted and the reached share of zeros above which a warning is given; chosen, not tuned."""


@PRUNERS.register(
    "unstructured",
    Technique(
        help="single weights become zero: smaller only when compressed",
        order=2,
        marker="diamond",
    ),
)
def prune(job: PruneJob) -> Pruned:
    """Zero the weights of least magnitude globally and permanently (``torch.nn.utils.prune``).

    The amount counts all parameters of the model, so that the prunable weights lose a slightly larger share. A weight
    that several layers share counts once, and stays unchanged if one of them is ignored.

    Raises:
        StageError: The model has too few prunable weights for the amount.
    """
    from torch.nn.utils import prune as masks

    owners = _owners(job)
    total = sum(parameter.numel() for parameter in job.model.parameters())
    available = sum(owner.weight.numel() for owner in owners)
    wanted = round(job.amount * total)
    if not owners:
        raise StageError(
            "unstructured pruning finds no weight that may become zero: none is left of Linear layers, convolutions "
            "and embeddings",
            "ignore fewer modules",
        )
    if wanted > available:
        raise StageError(
            f"only {available / total:.0%} of the parameters are weights that may become zero",
            f"ask for at most {available / total:.2f}",
        )
    before = _zeros(owners)
    masks.global_unstructured(
        [(owner, "weight") for owner in owners], pruning_method=masks.L1Unstructured, amount=wanted
    )
    for owner in owners:
        masks.remove(owner, "weight")
    reached = (_zeros(owners) - before) / total
    if abs(reached - job.amount) <= _FAR:
        return Pruned(job.model)
    return Pruned(job.model, (f"{reached:.0%} of the parameters became zero where {job.amount:.0%} was asked",))


def _owners(job: PruneJob) -> list[Any]:
    """Return one layer for each distinct weight that may become zero."""
    import torch

    prunable = (torch.nn.Linear, torch.nn.modules.conv._ConvNd, torch.nn.Embedding, torch.nn.Bilinear)
    kept = {id(parameter) for module in job.ignore for parameter in module.parameters()}
    owners: dict[int, Any] = {}
    for module in job.model.modules():
        # A parametrized layer computes its weight at each access, so that it cannot be zeroed in place.
        weight = module._parameters.get("weight") if isinstance(module, prunable) else None
        if weight is not None and id(weight) not in kept:
            owners.setdefault(id(weight), module)
    return list(owners.values())


def _zeros(owners: list[Any]) -> int:
    return sum(int((owner.weight == 0).sum()) for owner in owners)
