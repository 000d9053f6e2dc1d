"""No recovery: the pruned model is measured as pruning left it."""

from __future__ import annotations

from typing import Any

from . import RECOVERIES, RecoverJob


@RECOVERIES.register("none")
def recover(job: RecoverJob) -> dict[str, Any]:
    """Leave the model as it is."""
    return {}
