"""Pruning techniques, one module each.

A technique is ``prune(job: PruneJob) -> Any``: it returns the pruned model, which runs without helper modules.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...bundle.batches import Batches
from ..registry import Registry


@dataclass(frozen=True)
class PruneJob:
    """What a pruning technique is given.

    Attributes:
        model: The module, in eval mode; the technique may change it.
        amount: The share of parameters to remove, in (0, 1).
        examples: A few calibration samples, at least one batch.
        ignore: Modules never touched.
        report: Called with a line for the log.
    """

    model: Any
    amount: float
    examples: Batches
    ignore: tuple[Any, ...]
    report: Callable[[str], None]


PRUNERS: Registry[Callable[[PruneJob], Any]] = Registry(__name__)
