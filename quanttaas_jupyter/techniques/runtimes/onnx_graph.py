"""Inspection of ONNX graphs: layers, the modules they come from, and which of them are quantized."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import Layers, onnx_parts

_WEIGHTED = {"Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1, "LSTM": 1, "GRU": 1, "RNN": 1, "Gather": 0}
PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators whose inputs and weights may both be integers."""
_INTEGER = {
    "QLinearConv": "Conv",
    "ConvInteger": "Conv",
    "QLinearMatMul": "MatMul",
    "MatMulInteger": "MatMul",
    "QGemm": "Gemm",
    "DynamicQuantizeMatMul": "MatMul",
    "DynamicQuantizeLSTM": "LSTM",
    "MatMulNBits": "MatMul",
    "MatMulIntegerToFloat": "MatMul",
    "GatherBlockQuantized": "Gather",
}
_WEIGHT_NAME = re.compile(r"model\.(.+)\.weight")
_WIDENING = ("DequantizeLinear", "Cast", "Mul", "Transpose", "Identity", "Reshape")
_FLOAT = 1
"""Float32 as a ``TensorProto`` type."""
_NARROW = (2, 3, 10, 16, 17, 18, 19, 20, 21, 22)  # uint8, int8, float16, bfloat16, the float8 kinds, (u)int4
_INTEGERS = (2, 3, 21, 22)
"""``TensorProto`` types uint8, int8, uint4 and int4."""


def names_read_by(node: Any) -> Iterator[str]:
    """Yield the names that a node reads, including those that its subgraphs (Loop, If, Scan) take from outside."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from names_read_by(inner)
            yield from (item.name for item in graph.output)


@dataclass(frozen=True)
class Layer:
    """Node with weights; ``module`` is the dotted path of the module it comes from, or the node's name."""

    node: str
    op_type: str
    module: str
    is_quantized: bool
    is_integer: bool = False


def load_graph(path: Path) -> Any:
    """Return the graph of an ONNX file; large weights of a model beyond 2 GB stay in it."""
    return onnx_parts.load(path).graph


def layers_of(graph: Any) -> list[Layer]:
    """Return all nodes with weights, in order."""
    constants = {item.name: item for item in graph.initializer}
    producers = {output: node for node in graph.node for output in node.output}
    layers = []
    for node in graph.node:
        if node.op_type in _INTEGER:
            layers.append(Layer(node.name, _INTEGER[node.op_type], module_of(node), True, True))
        elif node.op_type in _WEIGHTED:
            kind = _weight_type(node, constants, producers)
            if kind is not None:
                layers.append(Layer(node.name, node.op_type, module_of(node), kind in _NARROW, kind in _INTEGERS))
    return layers


def products_with_weights(graph: Any, kept: Collection[str] = ()) -> list[Any]:
    """Return the convolutions and matrix products with constant weights, except the ``kept`` nodes."""
    names = {layer.node for layer in layers_of(graph) if layer.op_type in PRODUCTS and layer.node not in kept}
    return [node for node in graph.node if node.name in names]


def name_layers(graph: Any) -> None:
    """Name each layer after its module (``head``, a second one ``head#2``), whatever its weights are called."""
    modules = {layer.node: layer.module for layer in layers_of(graph) if layer.node}
    counted: Counter[str] = Counter()
    for node in graph.node:
        if node.name in modules:
            module = modules[node.name]
            counted[module] += 1
            node.name = f"{module}#{counted[module]}" if counted[module] > 1 else module
            del node.metadata_props[:]


def summarize(path: Path) -> Layers:
    """Count the layers of a file, and list those that are not quantized."""
    layers = layers_of(load_graph(path))
    kept = tuple(layer.module for layer in layers if not layer.is_quantized)
    return Layers(len(layers), len(layers) - len(kept), kept, sum(layer.is_integer for layer in layers))


def module_of(node: Any) -> str:
    """Return the dotted module path of a node, from its weight's name, its metadata's scopes or its own name."""
    for name in node.input:
        # When torch.export folds BatchNorm into a convolution, the node keeps the scope of the BatchNorm.
        if (weight := _WEIGHT_NAME.fullmatch(name)) is not None:
            return weight.group(1)
    for item in node.metadata_props:
        if item.key == "pkg.torch.onnx.name_scopes":
            scopes = [part.strip(" '\"") for part in item.value.strip("[]").split(",")]
            return str(scopes[-2].removeprefix("model.") if len(scopes) > 1 else node.name)
    return scope_of(node) or re.split("[#/]", node.name)[0] or node.name


def scope_of(node: Any) -> str:
    """Return the dotted module path in a node's name, or an empty string."""
    path: list[str] = []
    previous = ""
    # Tracing names a node /model/features/features.0/Conv: children repeat the name of their container.
    for scope in node.name.split("/")[1:-1]:
        path.append(scope.removeprefix(f"{previous}.") if previous else scope)
        previous = scope
    return ".".join(path).removeprefix("model.")


def ignored_nodes(graph: Any, ignore: tuple[str, ...]) -> list[str]:
    """Return the names of the nodes of ignored modules and their submodules; an empty name is the whole model."""
    return [
        node.name
        for node in graph.node
        for name in ignore
        if not name or module_of(node) == name or module_of(node).startswith(f"{name}.")
    ]


def _weight_type(node: Any, constants: dict[str, Any], producers: dict[str, Any]) -> int | None:
    """Return the data type of a node's constant operand, looking through dequantization, casts and reshapes."""
    positions = range(len(node.input)) if node.op_type == "MatMul" else [_WEIGHTED[node.op_type]]
    for position in positions:
        name = node.input[position] if position < len(node.input) else ""
        while name not in constants and name in producers:
            producer = producers[name]
            if producer.op_type == "Constant":
                return next((a.t.data_type for a in producer.attribute if a.name == "value"), None)
            if producer.op_type not in _WIDENING:
                break
            name = producer.input[0]
        if name in constants:
            return _embedding_type(node, constants[name]) if node.op_type == "Gather" else constants[name].data_type
    return None


def _embedding_type(node: Any, table: Any) -> int | None:
    """Return the data type of an embedding table, or None for look-ups of indices and scales, which are no layers."""
    along_rows = not any(item.name == "axis" and item.i for item in node.attribute)
    is_table = len(table.dims) == 2 and min(table.dims) > 1 and table.data_type in (_FLOAT, *_NARROW)
    return table.data_type if is_table and along_rows else None
