"""Quantization-aware training: the model adapts to the rounding of its quantization.

Before each forward pass, weights are rounded as the quantizer will round them, and restored after the backward pass, so
that gradients reach the full weights (straight-through estimator; Bengio, Leonard and Courville, 2013; Jacob et al.,
"Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR 2018). If the
quantization also rounds activations, inputs of convolutions and linear layers are rounded to 8 bits. The ``Technique``
of a quantization says how it rounds; those of ModelOpt are trained with its own quantizers. The result is an ordinary
floating-point model, which the runtime's own quantizer turns into an artifact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...core.catalogue import Rounding, Technique
from ...core.failures import StageError
from ..attention import layer_by_layer
from . import RECOVERIES, RecoverJob
from .qat_modelopt import keep_buffers, with_quantizers
from .training import train

if TYPE_CHECKING:
    import torch

_LEARNING_RATE = 1e-3
"""Peak learning rate of AdamW's one-cycle schedule; chosen, not tuned. Larger ones may undo what was learned."""
_BLOCK = 32
"""Inputs that share a scale of four bits, as in ``int4-weight`` on ONNX Runtime."""
_MEMORY = 0.95
"""Decay of the moving average of activation ranges, per batch; chosen, not tuned. A larger one forgets more slowly."""
_WHAT = "training with quantizers"

WeightRounding = Callable[["torch.nn.Module", str], "Callable[[torch.Tensor], torch.Tensor] | None"]
"""From a layer and the name of its parameter to its rounding; None for a parameter that is not rounded."""


@RECOVERIES.register(
    "qat",
    Technique(
        help="training with quantizers in place; best for int8, takes longest",
        order=3,
    ),
)
def recover(job: RecoverJob) -> dict[str, Any]:
    """Train with ``job.rounding``; BatchNorm statistics stay unchanged.

    Raises:
        StageError: The quantization cannot be imitated or rounds none of the weights, or the training fails.
    """
    rounding = job.rounding
    if rounding is None:
        raise StageError(f"{job.precision} does not say how it rounds", "use 'recover: distill'")
    if rounding.by_modelopt:
        module, rounded_weights = with_quantizers(job, rounding)
        with layer_by_layer():
            summary = train(replace(job, model=module), _WHAT, _LEARNING_RATE, keeps_statistics=True)
        keep_buffers(job, module)
        job.model.eval()
        return {**summary, "precision": job.precision, "rounded_weights": rounded_weights}
    ignored = {id(module) for kept in job.ignore for module in kept.modules()}
    layers = [module for module in job.model.modules() if id(module) not in ignored]
    rounded = _Rounded(layers, _weight_rounding(rounding))
    if not rounded.weights:
        raise StageError(
            f"training with quantizers found no weight that {job.precision} rounds",
            "use 'recover: distill', or ignore fewer modules",
        )
    hooks = _round_inputs(layers) if rounding.inputs else []
    try:
        with layer_by_layer():
            summary = train(job, _WHAT, _LEARNING_RATE, keeps_statistics=True, forward_and_back=rounded.entered)
    finally:
        for hook in hooks:
            hook.remove()
    return {**summary, "precision": job.precision, "rounded_weights": len(rounded.weights)}


def round_symmetric(weight: torch.Tensor, axis: int | None, bits: int = 8) -> torch.Tensor:
    """Round ``weight`` to a symmetric grid of ``bits`` bits, with one scale per index of ``axis``, or a single one."""
    largest: int = 2 ** (bits - 1) - 1
    if axis is None:
        scale = weight.abs().max()
    else:
        others = [dim for dim in range(weight.ndim) if dim != axis]
        scale = weight.abs().amax(dim=others, keepdim=True)
    scale = (scale / largest).clamp_min(1e-12)
    return (weight / scale).round().clamp(-largest, largest) * scale


def round_blocks(weight: torch.Tensor, bits: int = 4) -> torch.Tensor:
    """Round a matrix (outputs x inputs) to a symmetric grid with one scale for each 32 inputs of an output."""
    import torch

    rows, columns = weight.shape
    padded = torch.nn.functional.pad(weight, (0, -columns % _BLOCK)).reshape(-1, _BLOCK)
    return round_symmetric(padded, 0, bits).reshape(rows, -1)[:, :columns]


class _Rounded:
    """Weights that are rounded inside the context ``entered``."""

    def __init__(self, layers: list[torch.nn.Module], rounding: WeightRounding) -> None:
        found = {}
        for module in layers:
            for name, parameter in module.named_parameters(recurse=False):
                how = rounding(module, name)
                if how is not None:
                    # A weight that two layers share is rounded once.
                    found[id(parameter)] = (parameter, how)
        self.weights = list(found.values())

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Round the weights within this context, and restore them afterwards."""
        kept = [parameter.data for parameter, _ in self.weights]
        for parameter, how in self.weights:
            parameter.data = how(parameter.data)
        try:
            yield
        finally:
            for (parameter, _), original in zip(self.weights, kept, strict=True):
                parameter.data = original


def _weight_rounding(rounding: Rounding) -> WeightRounding:
    """Return a function from a module and a parameter's name to its rounding, or to None if it is not rounded."""
    import torch

    recurrent = (torch.nn.RNNBase, torch.nn.RNNCellBase)

    def rounded(module: torch.nn.Module, name: str) -> Callable[[torch.Tensor], torch.Tensor] | None:
        is_matrix = isinstance(module, torch.nn.Linear) or name == "in_proj_weight"
        if isinstance(module, recurrent) and name.startswith("weight"):
            # All quantizations store recurrent weights as int8 with one scale per row.
            return lambda weight: round_symmetric(weight, 0)
        if rounding.weights == "int4":
            return round_blocks if is_matrix and name.endswith("weight") else None
        if is_matrix and name.endswith("weight"):
            return lambda weight: round_symmetric(weight, 0)
        if isinstance(module, torch.nn.modules.conv._ConvNd) and name == "weight":
            axis = 1 if isinstance(module, torch.nn.modules.conv._ConvTransposeNd) else 0
            return lambda weight: round_symmetric(weight, axis)
        return None

    return rounded


def _round_inputs(layers: list[torch.nn.Module]) -> list[Any]:
    import torch

    kinds = (torch.nn.Linear, torch.nn.modules.conv._ConvNd)
    return [module.register_forward_pre_hook(_RoundedInput()) for module in layers if isinstance(module, kinds)]


class _RoundedInput:
    """Hook that rounds a layer's input to 8 unsigned bits; the range is a moving average learned in training."""

    def __init__(self) -> None:
        self._low: Any = None
        self._high: Any = None

    def __call__(self, module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        import torch

        x = inputs[0]
        if module.training or self._low is None:
            low, high = x.detach().amin().clamp_max(0.0), x.detach().amax().clamp_min(0.0)
            is_first = self._low is None
            self._low = low if is_first else self._low * _MEMORY + low * (1 - _MEMORY)
            self._high = high if is_first else self._high * _MEMORY + high * (1 - _MEMORY)
        scale = ((self._high - self._low) / 255).clamp_min(1e-8)
        zero = (-self._low / scale).round().clamp(0, 255).to(torch.int32)
        return (torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, 255), *inputs[1:])
