"""BatchNorm re-estimation: running means and variances are those of the pruned network, not of the old one."""

from __future__ import annotations

from typing import Any

from ...bundle.batches import Batches, call
from . import RECOVERIES, RecoverJob

_BATCH = 64
_SAMPLES = 4_096


@RECOVERIES.register("batchnorm", packages=("torch",))
def recover(job: RecoverJob) -> dict[str, Any]:
    """Estimate the statistics anew (``torch.optim.swa_utils.update_bn``); a model without BatchNorm stays as it is."""
    count = estimate_again(job.model, job.data)
    job.report(f"{count} BatchNorm layers estimated again" if count else "no BatchNorm in this model")
    return {"batchnorm_layers": count}


def estimate_again(model: Any, data: Batches) -> int:
    """Re-estimate all BatchNorm statistics; returns how many layers there are."""
    import torch

    layers = [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    if layers:
        # BatchNorm cannot learn from a single sample.
        usable = [batch for batch in data.head(_SAMPLES).rebatched(_BATCH).batches if batch.samples > 1]
        one_argument: Any = _Called(model, data)
        torch.optim.swa_utils.update_bn([(batch.inputs,) for batch in usable], one_argument)
    model.eval()
    return len(layers)


class _Called:
    """A module as ``update_bn`` wants it: one that takes the batch's first element."""

    def __init__(self, model: Any, data: Batches) -> None:
        self._model, self._data = model, data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, leaves: Any) -> Any:
        return call(self._model, self._data.inputs, leaves)
