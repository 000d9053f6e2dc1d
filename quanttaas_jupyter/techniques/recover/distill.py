"""Distillation: the pruned model is trained on the outputs of the original one, without labels."""

from __future__ import annotations

from typing import Any

from ...core.catalogue import Technique
from . import RECOVERIES, RecoverJob
from .batchnorm import estimate_again
from .training import train

_LEARNING_RATE = 3e-3
"""Peak learning rate of AdamW's one-cycle schedule; chosen, not tuned. Larger ones may diverge, smaller need longer."""


@RECOVERIES.register(
    "distill",
    Technique(
        help="the original model teaches the pruned one; needs no labels",
        order=1,
    ),
)
def recover(job: RecoverJob) -> dict[str, Any]:
    """Re-estimate BatchNorm statistics, then train on the outputs of the original model.

    Raises:
        StageError: The loss is not finite, or the model has no floating-point outputs.
    """
    estimate_again(job.model, job.data, job.warn)
    return train(job, "distilling", _LEARNING_RATE)
