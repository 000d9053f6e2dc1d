"""QDQ graphs for GPUs: symmetric scales for activations and weights, in int8 or float8, with biases in float.

In int4 there are only weights, in blocks.

TensorRT fuses products with weights: only their inputs and weights are quantized, and TensorRT finds by itself where
integers flow on. Weights have one scale per output channel in int8 and a single scale in float8, as its kernels need.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ..runtimes.onnx_graph import names_read_by, products_with_weights
from .onnx_calibration import Ranges

_LARGEST = {"int8": 127.0, "fp8": 448.0}
"""Largest magnitude that each type represents; float8 is E4M3."""
_OPSET = {"int8": 17, "fp8": 19}
"""Least opset of the graph: that of the exporter for int8, the first with float8 for fp8."""
_BLOCKED_OPSET = 21
"""First opset with int4 and with scales for blocks."""


def with_symmetric_qdq(model: Any, ranges: Ranges, kind: str, kept: Collection[str]) -> Any:
    """Return a copy of the model in which all products with weights, except ``kept`` ones, are ``int8`` or ``fp8``."""
    import onnx
    from onnx import version_converter

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if next(item.version for item in copy.opset_import if item.domain in ("", "ai.onnx")) < _OPSET[kind]:
        copy = version_converter.convert_version(copy, _OPSET[kind])
    graph = copy.graph
    constants = {item.name: item for item in graph.initializer}
    wanted = {node.name for node in products_with_weights(graph, kept)}
    done: dict[str, str] = {}
    nodes = []
    for node in graph.node:
        for place, name in enumerate(node.input[:2]) if node.name in wanted else ():
            if name not in done:
                if name in constants:
                    nodes += _narrowed(graph, constants[name], _axis(node), kind)
                elif name in ranges:
                    nodes += _rounded(graph, name, ranges[name], kind)
                else:
                    continue
                done[name] = f"{name}/wide"
            node.input[place] = done[name]
        nodes.append(node)
    replace_nodes(graph, nodes)
    return copy


def with_int4_blocks(model: Any, kept: Collection[str], block: int, limits: Mapping[str, Any]) -> tuple[Any, list[str]]:
    """Return a copy of the model whose matrix products read symmetric int4 weights with one scale per ``block`` inputs.

    Args:
        model: The graph, with split Gemms.
        kept: Names of nodes that stay unchanged.
        block: Inputs that share a scale; products whose number of inputs is not a multiple stay unchanged.
        limits: By node, the weight that the largest integer stands for: an array of outputs by blocks. Nodes without
            limits use the largest weight of each block.

    Returns:
        The copy, and the names of the changed products.
    """
    import onnx
    from onnx import helper, version_converter

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if next(item.version for item in copy.opset_import if item.domain in ("", "ai.onnx")) < _BLOCKED_OPSET:
        copy = version_converter.convert_version(copy, _BLOCKED_OPSET)
    constants = {item.name: item for item in copy.graph.initializer}
    wanted = {node.name for node in products_with_weights(copy.graph, kept)}
    nodes, done = [], []
    for node in copy.graph.node:
        weight = constants.get(node.input[1]) if node.op_type == "MatMul" and node.name in wanted else None
        if weight is not None and len(weight.dims) == 2 and weight.dims[0] % block == 0:
            names = [f"{node.name}/narrow", f"{node.name}/scale"]
            copy.graph.initializer.extend(_in_blocks(weight, block, limits.get(node.name), *names))
            node.input[1] = f"{node.name}/wide"
            options = {"axis": 0, "block_size": block}
            nodes.append(helper.make_node("DequantizeLinear", names, [node.input[1]], f"{node.name}/widen", **options))
            done.append(node.name)
        nodes.append(node)
    replace_nodes(copy.graph, nodes)
    return copy, done


def int4_blocks(array: Any, block: int, limits: Any = None) -> tuple[Any, Any]:
    """Round a matrix of inputs by outputs to integers from -8 to 7.

    Args:
        array: The matrix; its number of inputs is a multiple of ``block``.
        block: Inputs that share a scale.
        limits: The weight that 7 stands for, outputs by blocks; None for the largest magnitude of each block.

    Returns:
        Integers (int8) of shape (blocks, block, outputs), and float32 scales of shape (blocks, outputs).
    """
    import numpy as np

    blocks = array.reshape(-1, block, array.shape[1])
    largest = np.abs(blocks).max(axis=1) if limits is None else limits.T
    scales = np.where(largest == 0, 1.0, largest / 7.0).astype(np.float32)
    return np.clip(np.rint(blocks / scales[:, None]), -8, 7).astype(np.int8), scales


def _in_blocks(weight: Any, block: int, limits: Any, name: str, scale: str) -> list[Any]:
    """Return a matrix of inputs by outputs as four-bit constants, and its scales."""
    import ml_dtypes
    from onnx import numpy_helper

    array = numpy_helper.to_array(weight)
    narrow, scales = int4_blocks(array, block, limits)
    return [
        numpy_helper.from_array(narrow.reshape(array.shape).astype(ml_dtypes.int4), name),
        numpy_helper.from_array(scales, scale),
    ]


def replace_nodes(graph: Any, nodes: Sequence[Any]) -> None:
    """Replace the nodes of a graph, and drop the constants that no node reads."""
    read = {name for node in nodes for name in names_read_by(node)} | {item.name for item in graph.output}
    kept_constants = [item for item in graph.initializer if item.name in read]
    for repeated, items in ((graph.node, nodes), (graph.initializer, kept_constants)):
        held = [type(item).FromString(item.SerializeToString()) for item in items]
        del repeated[:]
        repeated.extend(held)


def _narrowed(graph: Any, weight: Any, axis: int, kind: str) -> list[Any]:
    """Add a weight in eight bits to the graph, and return the node that widens it."""
    import numpy as np
    from onnx import helper, numpy_helper

    array = numpy_helper.to_array(weight)
    others = tuple(dim for dim in range(array.ndim) if dim != axis)
    largest = np.abs(array).max(axis=others if kind == "int8" else None)
    scales = np.where(largest == 0, 1.0, largest / _LARGEST[kind]).astype(np.float32)
    shaped = scales.reshape([-1 if dim == axis else 1 for dim in range(array.ndim)]) if kind == "int8" else scales
    graph.initializer.extend(
        [
            _stored(f"{weight.name}/narrow", array / shaped, kind),
            numpy_helper.from_array(scales, f"{weight.name}/scale"),
        ]
    )
    entries = [f"{weight.name}/narrow", f"{weight.name}/scale"]
    options = {"axis": axis} if kind == "int8" else {}
    return [helper.make_node("DequantizeLinear", entries, [f"{weight.name}/wide"], f"{weight.name}/widen", **options)]


def _rounded(graph: Any, name: str, range_: Any, kind: str) -> list[Any]:
    """Return the nodes that round an activation to eight bits and widen it again."""
    import numpy as np
    from onnx import helper, numpy_helper

    largest = float(max(-range_[0], range_[1])) or 1.0
    scale, zero = f"{name}/scale", f"{name}/zero"
    graph.initializer.extend(
        [
            numpy_helper.from_array(np.float32(largest / _LARGEST[kind]), scale),
            _stored(zero, np.zeros(()), kind),
        ]
    )
    return [
        helper.make_node("QuantizeLinear", [name, scale, zero], [f"{name}/narrow"], f"{name}/round"),
        helper.make_node("DequantizeLinear", [f"{name}/narrow", scale, zero], [f"{name}/wide"], f"{name}/widen"),
    ]


def _stored(name: str, values: Any, kind: str) -> Any:
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    if kind == "int8":
        return numpy_helper.from_array(np.clip(np.rint(values), -127, 127).astype(np.int8), name)
    import ml_dtypes

    narrow = values.astype(np.float32).astype(ml_dtypes.float8_e4m3fn)
    return helper.make_tensor(name, TensorProto.FLOAT8E4M3FN, values.shape, narrow.tobytes(), raw=True)


def _axis(node: Any) -> int:
    """Return the dimension of a node's weight along which the output channels lie."""
    if node.op_type == "Conv":
        return 0
    turned = any(item.name == "transB" and item.i for item in node.attribute)
    return 0 if node.op_type == "Gemm" and turned else 1
