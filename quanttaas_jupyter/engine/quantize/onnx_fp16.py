"""``fp16`` on ONNX Runtime: half the bytes; inputs and outputs stay float32."""

from __future__ import annotations

from ..runtimes.onnx_graph import ignored_nodes
from . import QUANTIZERS, Quantized, QuantizeJob
from .onnx_static import strip


@QUANTIZERS.register(
    ("fp16", "onnxruntime"),
    packages=("onnx", "onnxruntime"),
    helpers=("quanttaas_jupyter.engine.quantize.onnx_static", "quanttaas_jupyter.engine.runtimes.onnx_graph"),
)
def quantize(job: QuantizeJob) -> Quantized:
    """Convert weights and operations to float16, but those that ONNX Runtime wants in float32."""
    import onnx
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    model = onnx.load(str(job.source))
    halved = convert_float_to_float16(
        model,
        keep_io_types=True,
        op_block_list=DEFAULT_OP_BLOCK_LIST,
        node_block_list=ignored_nodes(model.graph, job.ignore),
    )
    onnx.save(halved, str(job.target))
    strip(job.target)
    return Quantized()
