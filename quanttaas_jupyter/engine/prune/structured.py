"""Structured pruning: whole channels go, and the model becomes smaller and faster for every runtime.

Groups of coupled channels come from Torch-Pruning (Fang et al., "DepGraph: Towards Any Structural Pruning",
CVPR 2023). Its ratio counts channels; the ratio that removes the wanted share of *parameters* is found by bisection.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from ...bundle.batches import Batch, call
from ...bundle.structure import flatten, unflatten
from ..failures import StageError
from . import PRUNERS, Pruned, PruneJob

_STEPS = 10
_CLOSE_ENOUGH = 0.005
_MOST = 0.99
_FAR = 0.05


@dataclass(frozen=True)
class _Attempt:
    model: Any
    share: float


@PRUNERS.register("structured", packages=("torch", "torch-pruning"))
def prune(job: PruneJob) -> Pruned:
    """Remove the channels of least magnitude, compared over all isomorphic groups; the output layers stay whole.

    Raises:
        StageError: The architecture does not allow it, with the reason.
    """
    examples = job.examples.head(2).batches[0]
    expected = _shapes(job.model, job, examples)
    total = _count(job.model)
    problems: list[str] = []
    for is_global in (True, False):
        try:
            closest = _bisect(partial(_at, job, examples, is_global), total, job.amount, job.report)
        except StageError:
            raise
        except Exception as error:
            problems.append(f"{type(error).__name__}: {error}")
            continue
        if _shapes(closest.model, job, examples) == expected:
            return Pruned(_accepted(closest, job.amount))
        problems.append("the shape of its outputs would change")
    raise StageError(
        f"the model cannot be pruned by channels: {problems[0].splitlines()[0]}",
        "name the layers that must stay whole with 'ignore', or try unstructured pruning",
    )


def _accepted(closest: _Attempt, amount: float) -> Any:
    if abs(closest.share - amount) > _FAR:
        raise StageError(
            f"the architecture lets {closest.share:.0%} of the parameters go where {amount:.0%} was asked",
            f"ask for an amount near {closest.share:.2f}",
        )
    return closest.model


def _bisect(prune_at: Callable[[float], Any], total: int, amount: float, report: Callable[[str], None]) -> _Attempt:
    low, high = 0.0, _MOST
    closest: _Attempt | None = None
    for step in range(_STEPS):
        ratio = 1 - (1 - amount) ** 0.5 if step == 0 else (low + high) / 2
        model = prune_at(ratio)
        share = 1 - _count(model) / total
        report(f"channel ratio {ratio:.2f} removes {share:.1%} of the parameters")
        if closest is None or abs(share - amount) < abs(closest.share - amount):
            closest = _Attempt(model, share)
        if abs(share - amount) <= _CLOSE_ENOUGH:
            break
        low, high = (ratio, high) if share < amount else (low, ratio)
    assert closest is not None
    return closest


def _at(job: PruneJob, examples: Batch, is_global: bool, ratio: float) -> Any:
    import torch_pruning as tp

    model, kept = copy.deepcopy((job.model, job.ignore))
    inputs = unflatten(job.examples.inputs, list(examples.inputs))
    pruner = tp.pruner.BasePruner(
        model,
        example_inputs=inputs,
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        ignored_layers=[*_output_layers(model, job, examples), *(m for k in kept for m in k.modules())],
        global_pruning=is_global,
        isomorphic=is_global,
        round_to=_round_to(model),
    )
    pruner.step()
    for parameter in model.parameters():
        parameter.grad = None
    return model.eval()


def _round_to(model: Any) -> int:
    import torch

    """Runtimes like channels in eights; narrow layers have none to spare."""
    widths = [m.out_channels for m in model.modules() if isinstance(m, torch.nn.modules.conv._ConvNd)]
    narrowest = min(widths, default=0)
    return 8 if narrowest >= 64 else 4 if narrowest >= 16 else 1


def _output_layers(model: Any, job: PruneJob, examples: Batch) -> list[Any]:
    """The layers whose outputs are the model's: found by walking back from its outputs to the first weights."""
    import torch

    owners = {
        id(parameter): module
        for module in model.modules()
        if isinstance(module, (torch.nn.Linear, torch.nn.modules.conv._ConvNd))
        for parameter in module.parameters(recurse=False)
    }
    with torch.enable_grad():
        for parameter in model.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        outputs, _ = flatten(call(model, job.examples.inputs, examples.inputs))
    found: list[Any] = []
    seen: set[Any] = set()
    frontier = [leaf.grad_fn for _, leaf in outputs if getattr(leaf, "grad_fn", None) is not None]
    while frontier:
        node = frontier.pop()
        if node in seen:
            continue
        seen.add(node)
        parents = [parent for parent, _ in node.next_functions if parent is not None]
        layers = [owner for parent in parents if (owner := _owner(parent, owners)) is not None]
        found += layers
        if not layers:
            frontier += parents
    return found


def _owner(node: Any, owners: dict[int, Any]) -> Any:
    variable = getattr(node, "variable", None)
    if variable is not None:
        return owners.get(id(variable))
    # A Linear on more than two dimensions multiplies by its transposed weight.
    if node.name() in ("TBackward0", "TransposeBackward0", "PermuteBackward0"):
        parents = [parent for parent, _ in node.next_functions if parent is not None]
        return _owner(parents[0], owners) if parents else None
    return None


def _shapes(model: Any, job: PruneJob, examples: Batch) -> list[tuple[int, ...]]:
    import torch

    with torch.no_grad():
        outputs, _ = flatten(call(model, job.examples.inputs, examples.inputs))
    return [tuple(leaf.shape) for _, leaf in outputs if isinstance(leaf, torch.Tensor)]


def _count(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
