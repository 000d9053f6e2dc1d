"""Re-estimation of BatchNorm's running statistics, which pruning changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...bundle.batches import Batch, Batches, call
from ...core.catalogue import Technique
from . import RECOVERIES, RecoverJob

if TYPE_CHECKING:
    import torch

_BATCH = 64
"""Samples per batch for the statistics; chosen, not tuned."""
_SAMPLES = 4_096
"""Samples for the statistics; chosen, not tuned. More take longer and hardly change the estimate."""

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
    """Re-estimate the statistics (``torch.optim.swa_utils.update_bn``); a model without BatchNorm stays unchanged."""
    count = estimate_again(job.model, job.data, job.warn)
    job.report(f"{count} BatchNorm layers estimated again" if count else "no BatchNorm in this model")
    return {"batchnorm_layers": count}


def estimate_again(model: torch.nn.Module, data: Batches, warn: Callable[[str], None]) -> int:
    """Re-estimate all BatchNorm statistics, and return the number of BatchNorm layers.

    If no batch is usable, the statistics stay unchanged and a warning is given.
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


def layers_of(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Return all BatchNorm layers of a model."""
    import torch

    return [module for module in model.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]


def learnable(model: torch.nn.Module, data: Batches) -> list[Batch]:
    """Return the batches that BatchNorm can learn from: those with more than one value per channel in each layer.

    A single sample suffices if features have positions, as in images. This is checked only if most batches hold one
    sample: in the average over batches, a single sample would weigh as much as a whole batch.
    """
    if not layers_of(model):
        return list(data.batches)
    larger = [batch for batch in data.batches if batch.samples > 1]
    if 2 * len(larger) >= len(data.batches):
        return larger
    return [batch for batch in data.batches if batch.samples > 1 or _fewest_values(model, data, batch) > 1]


def _fewest_values(model: torch.nn.Module, data: Batches, batch: Batch) -> int:
    """Return the smallest number of values per channel that any BatchNorm layer sees."""
    import torch

    counts: list[int] = []

    def look(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
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
    """Wrapper for ``update_bn``, which calls a module with the first element of each batch.

    Only BatchNorm layers go into training mode. So the statistics are those of inference, without dropout, and a model
    that behaves differently in training mode works too.
    """

    def __init__(self, model: torch.nn.Module, data: Batches) -> None:
        self._model, self._data = model, data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def train(self, mode: bool = True) -> None:
        """Put the BatchNorm layers into training or eval mode."""
        for layer in layers_of(self._model):
            layer.train(mode)

    def __call__(self, leaves: Any) -> Any:
        return call(self._model, self._data.inputs, leaves)
