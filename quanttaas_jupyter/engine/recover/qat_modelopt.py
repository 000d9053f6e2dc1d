"""Training under the quantizers of NVIDIA's ModelOpt: for precisions whose ranges it finds. Needs its extra.

Its quantizers stand in the layers while they train and are gone afterwards: what leaves is an ordinary floating-point
model, in which the technique that writes the file looks for ranges anew.
"""

from __future__ import annotations

import copy
from typing import Any

from ...bundle.batches import call
from ..failures import StageError
from ..modelopt import INPUTS, OFF, WEIGHTS, in_one_sentence, quantization
from . import RecoverJob

_SAMPLES, _BATCH = 512, 32
_E4M3 = {"num_bits": (4, 3), "axis": None}
_INT8 = (WEIGHTS, INPUTS)
_FP8 = (
    {"quantizer_name": "*weight_quantizer", "cfg": _E4M3},
    {"quantizer_name": "*input_quantizer", "cfg": _E4M3},
)
# The finest blocks that a runtime of ours takes; others have larger ones.
_BLOCKS = {"num_bits": 4, "block_sizes": {-1: 32, "type": "static"}}
_INT4 = ({"quantizer_name": "*weight_quantizer", "parent_class": "nn.Linear", "cfg": _BLOCKS},)

QUANTIZERS: dict[str, tuple[dict[str, Any], ...]] = {
    "int8-modelopt": _INT8,
    "int8-smoothquant": _INT8,
    "mixed-modelopt": _INT8,
    "fp8-modelopt": _FP8,
    "int4-awq": _INT4,
}
"""What is rounded by precision."""


def with_quantizers(job: RecoverJob) -> tuple[Any, int]:
    """The module with quantizers in its layers, and how many weights they round. It shares the job's parameters.

    Raises:
        StageError: ModelOpt cannot run the module, or there is nothing to round.
    """
    ignored = {id(module) for kept in job.ignore for module in kept.modules()}
    if not any(_is_rounded(layer, job.precision) and id(layer) not in ignored for layer in job.model.modules()):
        raise StageError(
            f"training with quantizers found no weight that {job.precision} rounds",
            "use 'recover: distill', or ignore fewer modules",
        )
    shared = [*job.model.parameters(), *job.model.buffers()]
    module = copy.deepcopy(job.model, {id(tensor): tensor for tensor in shared})
    off = [
        {"quantizer_name": f"{path}.*_quantizer", "enable": False}
        for path, layer in job.model.named_modules()
        if id(layer) in ignored
    ]
    batches = job.data.head(_SAMPLES).rebatched(_BATCH)

    def run(model: Any) -> None:
        for batch in batches.batches:
            call(model, batches.inputs, batch.inputs)

    with in_one_sentence("train", "use 'recover: distill'"):
        config = {"quant_cfg": [OFF, *QUANTIZERS[job.precision], *off], "algorithm": "max"}
        quantized = quantization().quantize(module, config, run)
    weights = [getattr(layer, "weight_quantizer", None) for layer in quantized.modules()]
    return quantized, sum(found is not None and found.is_enabled for found in weights)


def _is_rounded(layer: Any, precision: str) -> bool:
    import torch

    kinds = (torch.nn.Linear,) if precision == "int4-awq" else (torch.nn.Linear, torch.nn.modules.conv._ConvNd)
    return isinstance(layer, kinds)
