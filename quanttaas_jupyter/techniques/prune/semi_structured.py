"""2:4 pruning: two of each four consecutive weights become zero, the pattern of NVIDIA's sparse tensor cores.

Mishra et al., "Accelerating Sparse Deep Neural Networks" (2021). Other hardware gains no speed from it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...core.catalogue import Technique
from ...core.failures import StageError
from . import PRUNERS, Pruned, PruneJob

if TYPE_CHECKING:
    import torch

GROUP = 4
"""Consecutive weights of a group in the 2:4 pattern."""
_NAMED = 3
"""Layers named in a warning; the others are counted."""


@PRUNERS.register(
    "2:4",
    Technique(
        help="two of every four weights become zero: for sparse tensor cores of NVIDIA",
        order=3,
        marker="triangle-up",
        has_amounts=False,
        layers=("convolution", "linear"),
    ),
)
def prune(job: PruneJob) -> Pruned:
    """Zero the two weights of least magnitude in each four along the inputs of Linear layers and convolutions.

    The pattern fixes the amount: half of the weights of each layer that it fits. Layers whose number of inputs is not
    divisible by four stay unchanged, as do shared weights that an ignored module or an embedding also holds.

    Raises:
        StageError: No layer fits the pattern.
    """
    return zero_in_fours(job, lambda path, module: halve(module))


def zero_in_fours(job: PruneJob, zero: Callable[[str, torch.nn.Module], None]) -> Pruned:
    """Call ``zero(path, module)`` for each layer that fits the pattern, once for a weight that several layers share.

    Raises:
        StageError: No layer fits the pattern.
    """
    kept = kept_weights(job)
    zeroed: set[int] = set()
    done: list[str] = []
    skipped: list[str] = []
    for path, module in job.model.named_modules():
        inputs = _inputs(module)
        if inputs is None or id(weight := module._parameters.get("weight")) in kept:
            continue
        # A parametrized layer computes its weight at each access, so that it cannot be zeroed in place.
        if inputs % GROUP or weight is None:
            skipped.append(path or type(module).__name__)
            continue
        if id(weight) not in zeroed:
            zero(path, module)
        zeroed.add(id(weight))
        done.append(path)
    if not done:
        raise StageError(
            "2:4 needs a Linear layer or a convolution whose number of inputs is divisible by four, and there is none",
            "use unstructured pruning",
        )
    names = ", ".join(skipped[:_NAMED]) + (f" and {len(skipped) - _NAMED} more" if len(skipped) > _NAMED else "")
    warning = f"2:4 left out {names}: the number of inputs is not divisible by four, or the weight is parametrized"
    return Pruned(job.model, (warning,) if skipped else (), {"pruned_layers": len(done), "skipped": skipped})


def kept_weights(job: PruneJob) -> set[int]:
    """Return the ids of the weights that an ignored module or an embedding holds."""
    import torch

    kept = {id(parameter) for module in job.ignore for parameter in module.parameters()}
    for module in job.model.modules():
        if isinstance(module, (torch.nn.Embedding, torch.nn.EmbeddingBag)):
            kept.add(id(module.weight))
    return kept


def halve(module: Any) -> None:
    """Zero the two weights of least magnitude in every four along a layer's inputs."""
    import torch

    weight = module.weight
    with torch.no_grad():
        rows = weight.movedim(0 if getattr(module, "transposed", False) else 1, -1)
        fours = rows.unflatten(-1, (-1, GROUP))
        smallest = fours.abs().argsort(dim=-1, stable=True)[..., : GROUP // 2]
        rows.copy_(fours.scatter(-1, smallest, 0.0).flatten(-2))


def _inputs(module: torch.nn.Module) -> int | None:
    """Return the number of inputs along which groups of four are formed, or None for other layers."""
    import torch

    if isinstance(module, torch.nn.Linear):
        return int(module.in_features)
    if isinstance(module, torch.nn.modules.conv._ConvNd):
        return int(module.weight.shape[0 if module.transposed else 1] // (module.groups if module.transposed else 1))
    return None
