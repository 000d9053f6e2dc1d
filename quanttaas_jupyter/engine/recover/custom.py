"""The notebook's own recovery: ``recover(model, teacher, batches)``."""

from __future__ import annotations

from typing import Any

from ...bundle.batches import Batches
from ...bundle.structure import unflatten
from ...recipe import CALLABLE
from ..failures import StageError
from . import RECOVERIES, RecoverJob


@RECOVERIES.register(CALLABLE, packages=("torch",))
def recover(job: RecoverJob) -> dict[str, Any]:
    """Call the function with the pruned module (in training mode), the original one and ``[(inputs, targets), ...]``.

    It changes the module in place and returns nothing, or a number, which is kept as its last loss.

    Raises:
        StageError: The function raised, with its message.
    """
    assert job.function is not None
    job.model.train()
    for parameter in job.model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    try:
        loss = job.function(job.model, job.teacher, as_given(job.data))
    except Exception as error:
        text = str(error).strip().splitlines()
        raise StageError(
            f"the recovery of the notebook failed: {type(error).__name__}: {text[0] if text else ''}",
            "it is called as recover(model, teacher, batches), batches being a list of (inputs, targets)",
        ) from error
    job.model.eval()
    for parameter in job.model.parameters():
        parameter.grad = None
    return {"loss": float(loss)} if isinstance(loss, (int, float)) else {}


def as_given(data: Batches) -> list[tuple[Any, Any]]:
    """Batches nested as the person gave them; targets are None without labels."""
    return [
        (
            unflatten(data.inputs, list(batch.inputs)),
            unflatten(data.targets, list(batch.targets)) if data.has_targets else None,
        )
        for batch in data.batches
    ]
