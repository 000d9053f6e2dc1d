"""BatchNorm re-estimation: running means and variances are those of the pruned network, not of the old one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...bundle.batches import Batch, Batches, call
from ...core.catalogue import Technique
from . import RECOVERIES, RecoverJob

_BATCH = 64
_SAMPLES = 4_096

NOTHING_TO_LEARN = (
    "no batch of the data gives BatchNorm more than one value a channel; its statistics stay as they were"
)


@RECOVERIES.register(
    "batchnorm",
    Technique(
        help="statistics of batch normalisation are estimated again; takes seconds",
        order=2,
    ),
)
def recover(job: RecoverJob) -> dict[str, Any]:
    """Estimate the statistics anew (``torch.optim.swa_utils.update_bn``); a model without BatchNorm stays as it is."""
    count = estimate_again(job.model, job.data, job.warn)
    job.report(f"{count} BatchNorm layers estimated again" if count else "no BatchNorm in this model")
    return {"batchnorm_layers": count}


def estimate_again(model: Any, data: Batches, warn: Callable[[str], None]) -> int:
    """Re-estimate all BatchNorm statistics; returns how many layers there are.

    Where no batch can be learned from, they stay as they are, with a warning.
    """
    import torch

    layers = layers_of(model)
    if layers:
        usable = learnable(model, data.head(_SAMPLES).rebatched(_BATCH))
        one_argument: Any = _Called(model.eval(), data)
        if usable:
            # Without batches this would still reset the statistics.
            torch.optim.swa_utils.update_bn([(batch.inputs,) for batch in usable], one_argument)
        else:
            warn(NOTHING_TO_LEARN)
    model.eval()
    return len(layers)


def layers_of(model: Any) -> list[Any]:
    """All BatchNorm layers."""
    import torch

    return [module for module in model.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]


def learnable(model: Any, data: Batches) -> list[Batch]:
    """The batches that BatchNorm can learn from: those with more than one value for each channel of every layer.

    A single sample is enough where features have places, as a picture's do. It is looked at only where most batches
    are that small: beside larger ones, each weighs as much as a whole batch.
    """
    if not layers_of(model):
        return list(data.batches)
    larger = [batch for batch in data.batches if batch.samples > 1]
    if 2 * len(larger) >= len(data.batches):
        return larger
    return [batch for batch in data.batches if batch.samples > 1 or _fewest_values(model, data, batch) > 1]


def _fewest_values(model: Any, data: Batches, batch: Batch) -> int:
    """How many values a channel the poorest BatchNorm layer sees."""
    import torch

    counts: list[int] = []

    def look(module: Any, inputs: tuple[Any, ...]) -> None:
        counts.append(inputs[0].numel() // max(1, inputs[0].shape[1]))

    hooks = [layer.register_forward_pre_hook(look) for layer in layers_of(model)]
    was_training = model.training
    try:
        with torch.no_grad():
            call(model.eval(), data.inputs, batch.inputs)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return min(counts, default=2)


class _Called:
    """A module as ``update_bn`` wants it: one that takes the batch's first element.

    Only its BatchNorm layers go into training mode: the statistics are those of inference, without dropout, and a
    model that does something else in training mode works all the same.
    """

    def __init__(self, model: Any, data: Batches) -> None:
        self._model, self._data = model, data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def train(self, mode: bool = True) -> None:
        for layer in layers_of(self._model):
            layer.train(mode)

    def __call__(self, leaves: Any) -> Any:
        return call(self._model, self._data.inputs, leaves)
