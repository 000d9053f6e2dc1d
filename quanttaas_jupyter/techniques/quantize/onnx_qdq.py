"""QDQ graphs for CPUs: unsigned activations, signed weights per channel, floating-point biases.

Only nodes that gain speed are quantized. On transformers, quantizing all operators cost 6 dB and 15 % of the speed
against quantizing only the inputs of products with weights. In convolutional networks, integers flow from one
convolution to the next through the operators between them. ONNX Runtime converts the biases to int32 at load.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from ..runtimes.onnx_graph import PRODUCTS, names_read_by, products_with_weights
from .onnx_calibration import Ranges
from .onnx_file import without_bias

_ACTIVATIONS = ("Relu", "Clip", "LeakyRelu", "Sigmoid", "MaxPool", "AveragePool", "GlobalAveragePool")
_FLOW = (*_ACTIVATIONS, "Add", "Mul", "Concat", "Split", "Resize", "Pad")


def nodes_to_quantize(graph: Any, kept: Collection[str]) -> list[Any]:
    """Return the nodes with weights, except ``kept`` ones, and those through which integers flow between them."""
    weighted = {node.name for node in products_with_weights(graph, kept)}
    constants = {item.name for item in graph.initializer}
    flowing: set[str] = set()
    nodes = []
    for node in graph.node:
        moving = [name for name in node.input if name and name not in constants]
        # A constant that is added or multiplied would have one scale for all channels, which may differ by magnitudes.
        is_whole = len(moving) == len(node.input) or node.op_type not in ("Add", "Mul")
        is_between = node.op_type in _FLOW and node.name not in kept and is_whole and flowing.issuperset(moving)
        if node.name in weighted or is_between:
            nodes.append(node)
        if is_between or (node.name in weighted and node.op_type in ("Conv", "ConvTranspose")):
            flowing.update(node.output)
    return nodes


def tensors_of(graph: Any, nodes: Iterable[Any]) -> list[str]:
    """Return the names of the activations that nodes read and write."""
    constants = {item.name for item in graph.initializer}
    return [name for node in nodes for name in (*node.input, *node.output) if name and name not in constants]


def with_qdq(model: Any, ranges: Ranges, nodes: Collection[str], narrow: bool = False) -> Any:
    """Return a copy of the model in which the named nodes are quantized, with weights of seven bits if ``narrow``."""
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if not nodes:
        # The quantizer takes an empty list for all nodes.
        return copy
    seen = {name: TensorData(lowest=low, highest=high) for name, (low, high) in ranges.items()}
    options = {"QuantizeBias": False, "OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]}
    quantizer = QDQQuantizer(
        copy,
        per_channel=True,
        reduce_range=narrow,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, seen),
        nodes_to_quantize=list(nodes),
        nodes_to_exclude=[],
        op_types_to_quantize=[*PRODUCTS, *_FLOW],
        extra_options=options,
    )
    return quantizer.quantize_model()


def with_activations(graph: Any, nodes: Collection[str]) -> set[str]:
    """Return the named nodes, and the activations and poolings with one input that feed them."""
    makers = {output: node for node in graph.node for output in node.output}
    names = set(nodes)
    waiting = [node for node in graph.node if node.name in names]
    while waiting:
        for name in waiting.pop().input:
            maker = makers.get(name)
            if maker is not None and maker.op_type in _ACTIVATIONS and maker.name not in names:
                names.add(maker.name)
                waiting.append(maker)
    return names


def read_floats(graph: Any, nodes: Collection[str]) -> None:
    """Make the named nodes read their inputs as they were before quantization for other nodes."""
    makers = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.name in nodes:
            for position, name in enumerate(node.input):
                wide = makers.get(name)
                narrow = makers.get(wide.input[0]) if wide and wide.op_type == "DequantizeLinear" else None
                if narrow and narrow.op_type == "QuantizeLinear":
                    node.input[position] = narrow.input[0]
    _drop_unread(graph)


def split_biases(graph: Any) -> None:
    """Move the biases out of products whose outputs stay in floating point.

    ONNX Runtime has no integer kernel for such a Gemm with a floating-point bias: it would widen the weights at each
    call.
    """
    makers = {output: node for node in graph.node for output in node.output}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {item.name for item in graph.output}

    def becomes_integers(name: str) -> bool:
        after = readers.get(name, [])
        # A ReLU is always fused into the product; a Clip only if its range rounds to the right integers.
        if len(after) == 1 and after[0].op_type == "Relu" and name not in outputs:
            name = after[0].output[0]
            after = readers.get(name, [])
        return bool(after) and name not in outputs and all(node.op_type == "QuantizeLinear" for node in after)

    nodes: list[Any] = []
    for node in graph.node:
        sources = [makers.get(name) for name in node.input[:2]]
        is_integer = all(source is not None and source.op_type == "DequantizeLinear" for source in sources)
        is_split = node.op_type == "Gemm" and is_integer and not becomes_integers(node.output[0])
        nodes += without_bias(node) if is_split else [node]
    del graph.node[:]
    graph.node.extend(nodes)


def _drop_unread(graph: Any) -> None:
    outputs = {item.name for item in graph.output}
    while True:
        read = {name for node in graph.node for name in names_read_by(node)} | outputs
        nodes = [node for node in graph.node if read.intersection(node.output)]
        if len(nodes) == len(graph.node):
            return
        del graph.node[:]
        graph.node.extend(nodes)
