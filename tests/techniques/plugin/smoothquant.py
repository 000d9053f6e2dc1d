"""A technique in another package: what ``int8-smoothquant`` needs to be one is here and nowhere else."""

from __future__ import annotations

from quanttaas_jupyter.core.catalogue import Rounding, Technique
from quanttaas_jupyter.techniques.quantize import QUANTIZERS, Quantized, QuantizeJob, modelopt_scales, onnx_gpu

NAME = "int8-smoothquant"
RUNTIME = "onnxruntime-cuda"


@QUANTIZERS.register(
    (NAME, RUNTIME),
    Technique(
        help="a new name, from another package",
        order=10,
        color="#FFC14D",
        starts={"linear": 2},
        makes_integers=True,
        rounding=Rounding("int8", inputs=True, by_modelopt=True),
    ),
    needs=("module",),
    extra="modelopt",
)
def quantize(job: QuantizeJob) -> Quantized:
    """Write ``int8`` after ModelOpt's SmoothQuant."""
    return onnx_gpu.by_scales(job, "int8", modelopt_scales.by_smoothquant, job.target)
