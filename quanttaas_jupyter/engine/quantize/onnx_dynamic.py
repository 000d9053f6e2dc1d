"""``int8-dynamic`` on ONNX Runtime: int8 weights, activations quantized as they come; no calibration."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..runtimes.onnx_graph import ignored_nodes
from . import QUANTIZERS, Quantized, QuantizeJob
from .onnx_file import load_prepared, save, split_gemms
from .onnx_weights import store_rest

_PACKAGE = "quanttaas_jupyter.engine"


@QUANTIZERS.register(
    ("int8-dynamic", "onnxruntime"),
    packages=("onnx", "onnxruntime"),
    helpers=(
        f"{_PACKAGE}.quantize.onnx_file",
        f"{_PACKAGE}.quantize.onnx_weights",
        f"{_PACKAGE}.runtimes.onnx_graph",
        f"{_PACKAGE}.runtimes.onnx_lean",
    ),
)
def quantize(job: QuantizeJob) -> Quantized:
    """Quantize convolutions, matrix products and LSTMs; what else has weights stores them as int8.

    It makes convolutions slower, often several times.

    Raises:
        StageError: The graph cannot be prepared.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = load_prepared(job.source)
    kept = set(ignored_nodes(model.graph, job.ignore))
    split_gemms(model)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "dynamic.onnx"
        quantize_dynamic(
            model,
            str(path),
            per_channel=True,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv", "MatMul", "LSTM"],
            nodes_to_exclude=[*kept, *_products_of_activations(model.graph)],
        )
        quantized = onnx.load(str(path))
    warnings = store_rest(quantized.graph, kept)
    save(quantized, job.target)
    return Quantized(warnings)


def _products_of_activations(graph: Any) -> list[str]:
    """Attention's own products: int8 there costs accuracy and saves no bytes."""
    constants = {item.name for item in graph.initializer}
    return [node.name for node in graph.node if node.op_type == "MatMul" and constants.isdisjoint(node.input)]
