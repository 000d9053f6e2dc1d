"""Pruning techniques, one module each, registered under the recipe's ``method``.

A technique is a function ``prune(job: PruneJob) -> Pruned``; the model it returns runs without helper modules. A
technique that can rank layers by the damage of pruning each alone also registers ``rank(job) -> Ranking`` in
``RANKERS``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...bundle.batches import Batches
from ..registry import Registry

if TYPE_CHECKING:
    import torch

Ranking = Sequence[tuple[str, float]]
"""Layers (module paths) with the SQNR in dB of the model's outputs when only that layer is pruned; worst first."""


@dataclass(frozen=True)
class PruneJob:
    """Arguments of a pruning technique.

    Attributes:
        model: The module, in eval mode; the technique may change it.
        amount: The share of parameters to remove, in (0, 1).
        examples: Calibration samples, at least one batch; targets may be missing.
        ignore: Modules that must not be changed.
        report: Called with lines for the log.
        importance: ``magnitude``, ``batchnorm``, ``taylor``, or ``auto`` for the best on this model.
        scope: ``global`` compares channels over all layers, ``layer`` takes the same share of each.
        spread: How strongly ``ranking`` shapes the amounts of single layers; 0 is not at all.
        ranking: Sensitivity of the layers, made by this technique's ranker; empty where ``spread`` is 0.
        class_dim: The dimension of the main output that holds one score a class, or None.
        output: Dotted name of the output that is judged; empty for ``logits`` or the first.
    """

    model: torch.nn.Module
    amount: float
    examples: Batches
    ignore: tuple[torch.nn.Module, ...]
    report: Callable[[str], None]
    importance: str = "auto"
    scope: str = "global"
    spread: float = 0.0
    ranking: Ranking = ()
    class_dim: int | None = None
    output: str = ""


@dataclass(frozen=True)
class Pruned:
    """Result of a pruning technique.

    Attributes:
        model: The pruned module, in eval mode.
        warnings: Sentences for the user: what could not be pruned, and why.
        choices: Decisions of the technique, such as the importance; small JSON.
    """

    model: torch.nn.Module
    warnings: tuple[str, ...] = ()
    choices: dict[str, Any] = field(default_factory=dict)


PRUNERS: Registry[Callable[[PruneJob], Pruned]] = Registry("prune")
RANKERS: Registry[Callable[[PruneJob], Ranking]] = Registry(None)
