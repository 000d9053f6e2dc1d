"""Training with the quantizers of NVIDIA's ModelOpt, for precisions that it calibrates. Needs the ``modelopt`` extra.

The quantizers exist only during training: the result is an ordinary floating-point model, whose ranges are calibrated
again when the artifact is written.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...bundle.batches import call
from ...core.catalogue import Rounding
from ...core.failures import StageError
from ..modelopt import INPUTS, OFF, WEIGHTS, in_one_sentence, quantization
from . import RecoverJob

if TYPE_CHECKING:
    import torch

_SAMPLES, _BATCH = 512, 32
"""Samples that calibrate the quantizers, and samples per batch; chosen, not tuned."""
_E4M3 = {"num_bits": (4, 3), "axis": None}
# The outputs of transposed convolutions lie along the second dimension of the weight.
_TRANSPOSED = tuple(
    {**WEIGHTS, "parent_class": f"nn.ConvTranspose{dims}d", "cfg": {"num_bits": 8, "axis": 1}} for dims in (1, 2, 3)
)
# The smallest block of all runtimes here; others use larger ones.
_BLOCKS = {"num_bits": 4, "block_sizes": {-1: 32, "type": "static"}}
_WEIGHTS: dict[str, tuple[dict[str, Any], ...]] = {
    "int8": (WEIGHTS, *_TRANSPOSED),
    "fp8": ({"quantizer_name": "*weight_quantizer", "cfg": _E4M3},),
    "int4": ({"quantizer_name": "*weight_quantizer", "parent_class": "nn.Linear", "cfg": _BLOCKS},),
}
_INPUTS = {"int8": INPUTS, "int4": INPUTS, "fp8": {"quantizer_name": "*input_quantizer", "cfg": _E4M3}}
"""ModelOpt's quantizer rules by the type of weights."""


def with_quantizers(job: RecoverJob, rounding: Rounding) -> tuple[torch.nn.Module, int]:
    """Return a copy of the module with quantizers in its layers, and how many weights they round.

    The copy shares its parameters with the job's model.

    Raises:
        StageError: ModelOpt cannot run the module, or it has no weight to round.
    """
    import torch

    batches = job.data.head(_SAMPLES).rebatched(_BATCH)

    def run(model: torch.nn.Module) -> None:
        with torch.no_grad():
            for batch in batches.batches:
                call(model, batches.inputs, batch.inputs)

    with in_one_sentence("train", "use 'recover: distill'"):
        shared = [*job.model.parameters(), *job.model.buffers()]
        module = copy.deepcopy(job.model, {id(tensor): tensor for tensor in shared}).eval()
        off = _left_out(job, _called(module, run))
        rounded = []
        if any(_is_rounded(layer, rounding) and path not in off for path, layer in module.named_modules()):
            parts = (OFF, *_rules(rounding), *(_no_quantizers(path) for path in sorted(off)))
            module = quantization().quantize(module, {"quant_cfg": list(parts), "algorithm": "max"}, run)
            weights = [getattr(layer, "weight_quantizer", None) for layer in module.modules()]
            rounded = [found for found in weights if found is not None and found.is_enabled]
    if not rounded:
        raise StageError(
            f"training with quantizers found no weight that {job.precision} rounds",
            "use 'recover: distill', or ignore fewer modules",
        )
    return module, len(rounded)


def keep_buffers(job: RecoverJob, module: torch.nn.Module) -> None:
    """Copy the buffers of the trained module into the job's model, because a module may have replaced them."""
    trained = dict(module.named_buffers())
    for path, owner in job.model.named_modules():
        for name in owner._buffers:
            if (found := trained.get(f"{path}.{name}".lstrip("."))) is not None:
                owner._buffers[name] = found.detach()


def _called(module: torch.nn.Module, run: Callable[[torch.nn.Module], None]) -> set[str]:
    """Return the paths of the layers that run: attention reads its output layer's weight without calling the layer."""
    seen: set[str] = set()
    hooks = [
        layer.register_forward_pre_hook(lambda layer, inputs, path=path: seen.add(path))
        for path, layer in module.named_modules()
    ]
    run(module)
    for hook in hooks:
        hook.remove()
    return seen


def _left_out(job: RecoverJob, called: set[str]) -> set[str]:
    """Return the paths of layers without quantizers: ignored ones, and those that do not run."""
    ignored = {id(module) for kept in job.ignore for module in kept.modules()}
    leaves = [(path, layer) for path, layer in job.model.named_modules() if not any(layer.children())]
    return {path for path, layer in leaves if id(layer) in ignored or path not in called}


def _no_quantizers(path: str) -> dict[str, Any]:
    return {"quantizer_name": f"{path}.*_quantizer", "enable": False}


def _rules(rounding: Rounding) -> tuple[dict[str, Any], ...]:
    return (*_WEIGHTS[rounding.weights], *((_INPUTS[rounding.weights],) if rounding.inputs else ()))


def _is_rounded(layer: Any, rounding: Rounding) -> bool:
    import torch

    kinds = (torch.nn.Linear,) if rounding.weights == "int4" else (torch.nn.Linear, torch.nn.modules.conv._ConvNd)
    return isinstance(layer, kinds)
