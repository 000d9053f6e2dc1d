"""``int8-dynamic`` on ONNX Runtime: int8 weights, and activations with ranges found at run time; no calibration."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ...core.catalogue import Rounding, Technique
from ..runtimes.onnx_graph import ignored_nodes
from . import QUANTIZERS, Quantized, QuantizeJob
from .onnx_calibration import Reference
from .onnx_file import load_prepared, save, split_gemms
from .onnx_weights import store_rest
from .saturation import NARROW_BITS, saturates


@QUANTIZERS.register(
    ("int8-dynamic", "onnxruntime"),
    Technique(
        help="8 bits, ranges found while running: for linear, recurrent and attention layers",
        order=4,
        color="#D55E00",
        starts={"recurrent": 1, "linear": 3, "other": 2},
        makes_integers=True,
        rounding=Rounding("int8"),
    ),
    needs=("processor",),
)
def quantize(job: QuantizeJob) -> Quantized:
    """Quantize convolutions, matrix products and LSTMs; store other weights as int8.

    Convolutions become slower, often several times. If the processor's int8 sums saturate, weights of seven bits are
    used if their outputs are closer to the original on calibration samples.

    Raises:
        StageError: The graph cannot be prepared.
    """
    model = load_prepared(job.source)
    kept = frozenset(ignored_nodes(model.graph, job.ignore))
    made, choices = _made(model, kept), {}
    if saturates():
        reference = Reference(model, job)
        narrow = _made(model, kept, narrow=True)
        if reference.sqnr_db(narrow) > reference.sqnr_db(made):
            made, choices = narrow, {"weight_bits": NARROW_BITS}
    warnings = store_rest(made.graph, kept)
    save(made, job.target)
    return Quantized(warnings, choices)


def _made(model: Any, kept: Collection[str], narrow: bool = False) -> Any:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    split_gemms(copy)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "dynamic.onnx"
        quantize_dynamic(
            copy,
            str(path),
            per_channel=True,
            reduce_range=narrow,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv", "MatMul", "LSTM"],
            nodes_to_exclude=[*kept, *_products_of_activations(copy.graph)],
        )
        return onnx.load(str(path))


def _products_of_activations(graph: Any) -> list[str]:
    """Return the names of products without constants, as in attention: int8 there costs accuracy and saves no bytes."""
    constants = {item.name for item in graph.initializer}
    return [node.name for node in graph.node if node.op_type == "MatMul" and constants.isdisjoint(node.input)]
