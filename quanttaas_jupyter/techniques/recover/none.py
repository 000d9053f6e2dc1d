"""No recovery: the pruned model is evaluated as pruning left it."""

from __future__ import annotations

from typing import Any

from ...core.catalogue import Technique
from . import RECOVERIES, RecoverJob


@RECOVERIES.register(
    "none",
    Technique(
        help="nothing: fast, and mostly useless beyond small amounts",
        order=4,
    ),
)
def recover(job: RecoverJob) -> dict[str, Any]:
    """Leave the model as it is."""
    return {}
