"""2:4 pruning with the weights that NVIDIA's ModelOpt chooses by SparseGPT. Needs the ``modelopt`` extra.

Frantar and Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot" (2023): the cost of
removing a weight is computed from the inputs of its layer, after the removal of the weights before it. ModelOpt uses
the choice from there, but leaves the other weights unchanged, for a recovery to train.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...bundle.batches import Batches, call
from ...core.catalogue import Technique
from ...core.failures import StageError
from ..modelopt import in_one_sentence, sparsity
from . import PRUNERS, Pruned, PruneJob
from .semi_structured import GROUP, halve, kept_weights, zero_in_fours

if TYPE_CHECKING:
    import torch

_SAMPLES, _BATCH = 512, 32
"""Calibration samples of SparseGPT, and samples per batch; chosen, not tuned. More samples cost time in proportion."""
_MOST_DIMS = 3
"""Dimensions of a Linear layer's input, at most, that ModelOpt's SparseGPT supports."""


@PRUNERS.register(
    "2:4-modelopt",
    Technique(
        help="the same; ModelOpt's SparseGPT chooses which weights of linear layers",
        order=4,
        marker="triangle-down",
        has_amounts=False,
        layers=("linear",),
    ),
    extra="modelopt",
)
def prune(job: PruneJob) -> Pruned:
    """Zero two weights of each four: in Linear layers those that SparseGPT chooses, in convolutions the smallest.

    ModelOpt's own choice for convolutions forms groups across the kernel, which no engine supports.

    Raises:
        StageError: No Linear layer can be judged, or ModelOpt cannot run the module.
    """
    masks = _masks(job)
    if not masks:
        raise StageError(
            "ModelOpt chooses weights of Linear layers whose numbers of inputs and outputs are divisible by four, and "
            "none of those that may change is run here",
            "use 2:4",
        )
    chosen: list[str] = []

    def zero(path: str, module: Any) -> None:
        before = module.weight.detach().clone()
        halve(module)
        if path in masks:
            module.weight.data.copy_(_where_complete(masks[path], before, module.weight.data))
            chosen.append(path)

    pruned = zero_in_fours(job, zero)
    return replace(pruned, choices={**pruned.choices, "chosen_by_sparsegpt": len(chosen)})


def _where_complete(mask: torch.Tensor, weight: torch.Tensor, halved: torch.Tensor) -> torch.Tensor:
    """Return the masked weight; where a mask keeps less than two of four, return the weight halved by magnitude.

    ModelOpt drops all weights of an input that is zero on all calibration samples.
    """
    import torch

    is_complete = mask.unflatten(-1, (-1, GROUP)).sum(-1, keepdim=True) == GROUP // 2
    return torch.where(is_complete.expand(-1, -1, GROUP).flatten(-2), weight * mask, halved)


def _masks(job: PruneJob) -> dict[str, torch.Tensor]:
    """Return the masks of kept weights of Linear layers, by path."""
    batches = job.examples.head(_SAMPLES).rebatched(_BATCH)
    with in_one_sentence("choose weights of", "use 2:4"):
        model = copy.deepcopy(job.model).eval()
        kept = kept_weights(job)
        judged = [
            path
            for path in _judged(model, batches.head(_BATCH))
            if id(job.model.get_submodule(path)._parameters.get("weight")) not in kept
        ]
        if not judged:
            return {}
        rules: dict[str, Any] = {"*": None, **{path: {} for path in judged}}
        sparse = sparsity().sparsify(
            model,
            mode=[("sparsegpt", {"nn.Linear": rules, "nn.Conv2d": {"*": None}})],
            config={"forward_loop": lambda changed: _run(changed, batches), "device": "cpu"},
        )
        found = {path: getattr(module, "_weight_mask", None) for path, module in sparse.named_modules()}
    return {path: mask for path, mask in found.items() if mask is not None}


def _judged(model: torch.nn.Module, batches: Batches) -> list[str]:
    """Return the Linear layers that run on inputs that ModelOpt supports; it would zero all weights of others."""
    import torch

    seen: dict[str, bool] = {}
    hooks = []
    for path, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and not (module.in_features % GROUP or module.out_features % GROUP):

            def look(layer: Any, inputs: Any, path: str = path) -> None:
                seen[path] = seen.get(path, True) and bool(inputs) and inputs[0].ndim <= _MOST_DIMS

            hooks.append(module.register_forward_pre_hook(look))
    _run(model, batches)
    for hook in hooks:
        hook.remove()
    return [path for path, is_taken in seen.items() if is_taken]


def _run(model: torch.nn.Module, batches: Batches) -> None:
    import torch

    with torch.no_grad():
        for batch in batches.batches:
            call(model, batches.inputs, batch.inputs)
