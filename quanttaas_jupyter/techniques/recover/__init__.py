"""Recoveries, which regain accuracy after pruning, one module each, registered under the recipe's ``recover``.

A technique is a function ``recover(job: RecoverJob) -> dict``: it changes ``job.model`` in place and returns a summary
for the trial's record.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...bundle.batches import Batches
from ...core.catalogue import Rounding
from ..registry import Registry

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class RecoverJob:
    """Arguments of a recovery.

    Attributes:
        model: The pruned module.
        teacher: The original module, in eval mode.
        data: Training or calibration batches; targets may be missing.
        class_dim: The dimension of the main output that holds one score a class, or None.
        output: Dotted name of the output that is judged; empty for ``logits`` or the first.
        epochs: Passes over the data, or None for a default by the size of the data.
        lr: Peak learning rate, or None for the default.
        seed: Seed of shuffling and dropout.
        report: Called with lines for the log.
        warn: Called with sentences for the user.
        effort: Factor for the default number of epochs; a search raises it for promising trials.
        precision: Quantization that follows; for recoveries that train with quantizers.
        rounding: How that quantization rounds; None for recoveries that do not train with quantizers.
        ignore: Modules that are not quantized.
        function: The notebook's own recovery function, if there is one.
    """

    model: torch.nn.Module
    teacher: torch.nn.Module
    data: Batches
    class_dim: int | None
    epochs: int | None
    lr: float | None
    seed: int
    report: Callable[[str], None]
    warn: Callable[[str], None] = lambda sentence: None
    effort: float = 1.0
    precision: str = ""
    rounding: Rounding | None = None
    ignore: tuple[torch.nn.Module, ...] = ()
    function: Callable[..., Any] | None = None
    output: str = ""


RECOVERIES: Registry[Callable[[RecoverJob], dict[str, Any]]] = Registry("recover")
