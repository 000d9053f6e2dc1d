"""``int8-dynamic`` on ONNX Runtime: int8 weights, activations quantized as they come; no calibration."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ..runtimes.onnx_graph import ignored_nodes, load_graph
from . import QUANTIZERS, Quantized, QuantizeJob
from .onnx_static import prepare, strip


@QUANTIZERS.register(
    ("int8-dynamic", "onnxruntime"),
    packages=("onnx", "onnxruntime"),
    helpers=("quanttaas_jupyter.engine.quantize.onnx_static", "quanttaas_jupyter.engine.runtimes.onnx_graph"),
)
def quantize(job: QuantizeJob) -> Quantized:
    """Quantize convolutions, matrix products, recurrent and embedding layers; it rarely speeds up convolutions."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare(job.source, Path(folder) / "prepared.onnx")
        kept = ignored_nodes(load_graph(prepared), job.ignore)
        quantize_dynamic(
            str(prepared),
            str(job.target),
            per_channel=True,
            weight_type=QuantType.QInt8,
            # The quantizer first splits a Gemm into a product of this name and a sum.
            nodes_to_exclude=[*kept, *(f"{name}_MatMul" for name in kept)],
        )
    strip(job.target)
    return Quantized()
