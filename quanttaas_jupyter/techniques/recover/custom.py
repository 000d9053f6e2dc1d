"""Recovery by a function of the notebook: ``recover(model, teacher, batches)``."""

from __future__ import annotations

import numbers
from typing import TYPE_CHECKING, Any

from ...bundle.batches import Batches
from ...bundle.model import unwrapped
from ...bundle.structure import unflatten
from ...core.catalogue import Technique
from ...core.failures import StageError, one_line
from ...core.recipe import CALLABLE
from . import RECOVERIES, RecoverJob

if TYPE_CHECKING:
    import torch


@RECOVERIES.register(
    CALLABLE,
    Technique(
        help="a function of the notebook, recover(model, teacher, batches)",
        is_listed=False,
    ),
)
def recover(job: RecoverJob) -> dict[str, Any]:
    """Call the function with the pruned module (in training mode), the original one and ``[(inputs, targets), ...]``.

    The function changes the module in place and returns None or a number, which is recorded as its last loss. Or it
    returns the module to continue with.

    Raises:
        StageError: The function raised an exception, or returned something else.
    """
    assert job.function is not None
    job.model.train()
    for parameter in job.model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    try:
        returned = job.function(job.model, job.teacher, as_given(job.data))
    except Exception as error:
        raise StageError(
            f"the recovery of the notebook failed: {one_line(error)}",
            "it is called as recover(model, teacher, batches), batches being a list of (inputs, targets)",
        ) from error
    loss = _taken_over(job.model, returned)
    job.model.eval()
    for parameter in job.model.parameters():
        parameter.grad = None
    return {} if loss is None else {"loss": loss}


def _taken_over(model: torch.nn.Module, returned: Any) -> float | None:
    """Turn ``model`` into the returned module, or return the returned number as the loss.

    Raises:
        StageError: The function returned anything else.
    """
    import torch

    if isinstance(returned, torch.nn.Module) and not isinstance(returned, torch.jit.ScriptModule):
        trained = unwrapped(returned)
        if trained is not model:
            # The stage holds a reference to the module that it passed, so that one takes over the returned one's state.
            model.__class__, model.__dict__ = trained.__class__, trained.__dict__
        return None
    if returned is None:
        return None
    if isinstance(returned, numbers.Real) or (isinstance(returned, torch.Tensor) and returned.numel() == 1):
        return float(returned)
    raise StageError(
        f"the recovery of the notebook returned a {type(returned).__name__}",
        "return the trained module, a number (its last loss) or nothing",
    )


def as_given(data: Batches) -> list[tuple[Any, Any]]:
    """Return batches nested as the user's data; targets are None without labels."""
    return [
        (
            unflatten(data.inputs, list(batch.inputs)),
            unflatten(data.targets, list(batch.targets)) if data.has_targets else None,
        )
        for batch in data.batches
    ]
