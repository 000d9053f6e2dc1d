"""Unstructured pruning: the smallest weights of the whole model become zero."""

from __future__ import annotations

from ..failures import StageError
from . import PRUNERS, Pruned, PruneJob


@PRUNERS.register("unstructured", packages=("torch",))
def prune(job: PruneJob) -> Pruned:
    """Zero the weights of least magnitude, globally, and make it permanent (``torch.nn.utils.prune``).

    The share counts all parameters of the model, so the prunable weights lose a little more than it.
    """
    import torch
    from torch.nn.utils import prune as masks

    prunable = (torch.nn.Linear, torch.nn.modules.conv._ConvNd, torch.nn.Embedding, torch.nn.Bilinear)
    ignored = {id(module) for kept in job.ignore for module in kept.modules()}
    weights = [
        (module, "weight")
        for module in job.model.modules()
        if isinstance(module, prunable) and id(module) not in ignored
    ]
    total = sum(parameter.numel() for parameter in job.model.parameters())
    available = sum(module.weight.numel() for module, _ in weights)
    wanted = round(job.amount * total)
    if wanted > available:
        raise StageError(
            f"only {available / total:.0%} of the parameters are weights that may become zero",
            f"ask for at most {available / total:.2f}",
        )
    masks.global_unstructured(weights, pruning_method=masks.L1Unstructured, amount=wanted)
    for module, name in weights:
        masks.remove(module, name)
    return Pruned(job.model)
