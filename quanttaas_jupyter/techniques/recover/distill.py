"""Distillation: the original model teaches the pruned one, no labels needed."""

from __future__ import annotations

from typing import Any

from ...core.catalogue import Technique
from . import RECOVERIES, RecoverJob
from .batchnorm import estimate_again
from .training import train

_LEARNING_RATE = 3e-3


@RECOVERIES.register(
    "distill",
    Technique(
        help="the original model teaches the pruned one; needs no labels",
        order=1,
    ),
)
def recover(job: RecoverJob) -> dict[str, Any]:
    """Estimate BatchNorm statistics again, then train on the original model's answers. Raises StageError."""
    estimate_again(job.model, job.data, job.warn)
    return train(job, "distilling", _LEARNING_RATE)
