"""2:4 pruning: of every four consecutive weights two become zero, the pattern of NVIDIA's sparse tensor cores.

Mishra et al., "Accelerating Sparse Deep Neural Networks" (2021). It speeds up nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...core.catalogue import Technique
from ...core.failures import StageError
from . import PRUNERS, Pruned, PruneJob

GROUP = 4
_NAMED = 3


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
    """Zero the two weights of least magnitude in every four along the inputs of Linear layers and convolutions.

    The pattern fixes the amount: half of the weights of each layer that it fits. Layers whose number of inputs is not
    divisible by four stay as they are, and so do shared weights that an ignored module or an embedding holds too.

    Raises:
        StageError: No layer fits.
    """
    return zero_in_fours(job, lambda path, module: halve(module))


def zero_in_fours(job: PruneJob, zero: Callable[[str, Any], None]) -> Pruned:
    """Let ``zero(path, module)`` change each layer that the pattern fits, a weight that several share once.

    Raises:
        StageError: No layer fits.
    """
    kept = kept_weights(job)
    zeroed: set[int] = set()
    done: list[str] = []
    skipped: list[str] = []
    for path, module in job.model.named_modules():
        inputs = _inputs(module)
        if inputs is None or id(weight := module._parameters.get("weight")) in kept:
            continue
        # A parametrized layer makes its weight anew whenever it is asked for one: nothing there can be zeroed.
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
    """What an ignored module or an embedding holds, by ``id``."""
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


def _inputs(module: Any) -> int | None:
    """How many weights are summed with the same place in the kernel; None for what is no such layer."""
    import torch

    if isinstance(module, torch.nn.Linear):
        return int(module.in_features)
    if isinstance(module, torch.nn.modules.conv._ConvNd):
        return int(module.weight.shape[0 if module.transposed else 1] // (module.groups if module.transposed else 1))
    return None
