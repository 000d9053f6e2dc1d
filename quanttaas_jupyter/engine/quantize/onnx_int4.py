"""``int4-weight`` on ONNX Runtime: products with weights of four bits in blocks (MatMulNBits)."""

from __future__ import annotations

from ..failures import StageError
from ..runtimes.onnx_graph import ignored_nodes, layers_of
from . import QUANTIZERS, Quantized, QuantizeJob
from .onnx_file import load_prepared, save, split_gemms
from .onnx_weights import store_rest

_PACKAGE = "quanttaas_jupyter.engine"
_BLOCK = 32
_INT8_ARITHMETIC = 4


@QUANTIZERS.register(
    ("int4-weight", "onnxruntime"),
    packages=("onnx", "onnxruntime"),
    helpers=(
        f"{_PACKAGE}.quantize.onnx_file",
        f"{_PACKAGE}.quantize.onnx_weights",
        f"{_PACKAGE}.runtimes.onnx_graph",
        f"{_PACKAGE}.runtimes.onnx_lean",
    ),
)
def quantize(job: QuantizeJob) -> Quantized:
    """Store the weights of matrix products as four bits, each 32 with a scale; what else has weights as int8.

    On small transformers symmetric blocks of 32 were 1 dB better than asymmetric ones, and smaller.

    Raises:
        StageError: The model has no matrix product with weights, or cannot be prepared.
    """
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    model = load_prepared(job.source)
    kept = set(ignored_nodes(model.graph, job.ignore))
    split_gemms(model)
    if not any(layer.op_type == "MatMul" and layer.node not in kept for layer in layers_of(model.graph)):
        raise StageError("int4-weight touches matrix products only; this model has none", "use int8-weight or int8")
    config = DefaultWeightOnlyQuantConfig(block_size=_BLOCK, is_symmetric=True, bits=4, accuracy_level=_INT8_ARITHMETIC)
    quantizer = MatMulNBitsQuantizer(model, nodes_to_exclude=list(kept), algo_config=config)
    quantizer.process()
    quantized = quantizer.model.model
    warnings = store_rest(quantized.graph, kept)
    save(quantized, job.target)
    return Quantized(warnings)
