"""What follows pruning, one module a technique.

A technique is ``recover(job: RecoverJob) -> dict``: it changes ``job.model`` in place and returns facts for the record.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...bundle.batches import Batches
from ..registry import Registry


@dataclass(frozen=True)
class RecoverJob:
    """What a recovery is given.

    Attributes:
        model: The pruned module.
        teacher: The original module, in eval mode.
        data: Training or calibration batches; targets may be missing.
        class_dim: The dimension of the main output that holds one score a class, or None.
        epochs: Passes over the data, or None for a default by the size of the data.
        lr: Peak learning rate, or None for the default.
        seed: Seed of shuffling and dropout.
        report: Called with a line for the log.
        warn: Called with a sentence for the person.
        effort: Multiplies the default number of epochs; a search spends more where it pays.
        precision: What the model will be quantized to; for recoveries that train with quantizers.
        ignore: Modules that are not quantized.
        function: The notebook's own recovery, where one was given.
    """

    model: Any
    teacher: Any
    data: Batches
    class_dim: int | None
    epochs: int | None
    lr: float | None
    seed: int
    report: Callable[[str], None]
    warn: Callable[[str], None] = lambda sentence: None
    effort: float = 1.0
    precision: str = ""
    ignore: tuple[Any, ...] = ()
    function: Callable[..., Any] | None = None


RECOVERIES: Registry[Callable[[RecoverJob], dict[str, Any]]] = Registry("recover")
