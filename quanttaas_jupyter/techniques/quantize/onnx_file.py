"""Rewrites of ONNX graphs into the forms that quantizers expect."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..runtimes import onnx_parts
from ..runtimes.onnx_compaction import load_prepared, save
from ..runtimes.onnx_graph import names_read_by

__all__ = ["load_prepared", "plain_biases", "save", "split_gemms", "without_bias"]


def without_bias(node: Any) -> list[Any]:
    """Return a Gemm without its bias, followed by an Add of the bias if there is one."""
    from onnx import helper

    if len(node.input) < 3 or not node.input[2]:
        return [node]
    output, bias = node.output[0], node.input.pop()
    node.output[0] = f"{output}/product"
    return [node, helper.make_node("Add", [node.output[0], bias], [output], f"{node.name}/bias")]


def plain_biases(graph: Any) -> None:
    """Make each bias of a Gemm a constant with one number per output; other biases are added after the Gemm.

    Quantizers assume that ``beta`` is one and that a bias is a vector.
    """
    from onnx import helper

    constants = {item.name: item for item in graph.initializer}
    nodes: list[Any] = []
    for node in graph.node:
        if node.op_type != "Gemm" or len(node.input) < 3 or not node.input[2]:
            nodes.append(node)
            continue
        options = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        beta, weight = options.get("beta", 1.0), constants.get(node.input[1])
        bias: Any = constants.get(node.input[2])
        width = None if weight is None else weight.dims[0 if options.get("transB") else 1]
        is_vector = bias is not None and math.prod(bias.dims) == width
        if beta != 1 or (is_vector and list(bias.dims) != [width]):
            name = f"{node.input[2]}/scaled.{node.name}"
            if bias is None:
                nodes.append(_scaled(graph, node.input[2], beta, name))
            else:
                _store_scaled(graph, bias, beta, [width] if is_vector else bias.dims, name)
            node.input[2] = name
            _forget(node, "beta")
        nodes += [node] if is_vector else without_bias(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _scaled(graph: Any, name: str, factor: float, result: str) -> Any:
    from onnx import helper, numpy_helper

    graph.initializer.append(numpy_helper.from_array(np.asarray(factor, np.float32), f"{result}/factor"))
    return helper.make_node("Mul", [name, f"{result}/factor"], [result])


def _store_scaled(graph: Any, constant: Any, factor: float, shape: Any, name: str) -> None:
    from onnx import numpy_helper

    array = numpy_helper.to_array(constant)
    graph.initializer.append(numpy_helper.from_array((array * factor).astype(array.dtype).reshape(shape), name))


def _forget(node: Any, attribute: str) -> None:
    kept = [item for item in node.attribute if item.name != attribute]
    del node.attribute[:]
    node.attribute.extend(kept)


def split_gemms(model: Any) -> None:
    """Replace each Gemm by a MatMul of the same name and an Add, as dynamic and 4-bit quantizers need it."""
    from onnx import helper, numpy_helper

    graph = model.graph
    plain_biases(graph)
    constants = {item.name: item for item in graph.initializer}
    nodes = []
    for node in graph.node:
        options = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        plain = not options.get("transA") and options.get("alpha", 1.0) == options.get("beta", 1.0) == 1.0
        if node.op_type != "Gemm" or not plain or node.input[1] not in constants:
            nodes.append(node)
            continue
        weight = node.input[1]
        if options.get("transB"):
            turned = np.ascontiguousarray(onnx_parts.array_of(constants[weight]).T)
            weight = f"{weight}/turned.{node.name}"
            graph.initializer.append(numpy_helper.from_array(turned, weight))
        _, *added = without_bias(node)
        nodes += [helper.make_node("MatMul", [node.input[0], weight], [node.output[0]], node.name), *added]
    read = {name for node in nodes for name in names_read_by(node)} | {item.name for item in graph.output}
    kept_constants = [item for item in graph.initializer if item.name in read]
    for repeated, items in ((graph.node, nodes), (graph.initializer, kept_constants)):
        del repeated[:]
        repeated.extend(items)
