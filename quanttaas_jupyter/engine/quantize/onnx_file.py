"""ONNX graphs as quantizers want them."""

from __future__ import annotations

from typing import Any

from ..runtimes.onnx_lean import load_prepared, save

__all__ = ["load_prepared", "save", "split_gemms"]


def split_gemms(model: Any) -> None:
    """Turn each Gemm into a MatMul of the same name and an Add: dynamic and 4-bit quantizers know no other."""
    import numpy as np
    from onnx import helper, numpy_helper

    graph = model.graph
    constants = {item.name: item for item in graph.initializer}
    nodes = []
    for node in graph.node:
        options = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        plain = not options.get("transA") and options.get("alpha", 1.0) == options.get("beta", 1.0) == 1.0
        if node.op_type != "Gemm" or not plain or node.input[1] not in constants:
            nodes.append(node)
            continue
        weight, output = node.input[1], node.output[0]
        if options.get("transB"):
            turned = np.ascontiguousarray(numpy_helper.to_array(constants[weight]).T)
            weight = f"{weight}/turned.{node.name}"
            graph.initializer.append(numpy_helper.from_array(turned, weight))
        has_bias = len(node.input) == 3 and node.input[2]
        product = f"{output}/product" if has_bias else output
        nodes.append(helper.make_node("MatMul", [node.input[0], weight], [product], node.name))
        if has_bias:
            nodes.append(helper.make_node("Add", [product, node.input[2]], [output], f"{node.name}/bias"))
    read = {name for node in nodes for name in node.input} | {item.name for item in graph.output}
    kept_constants = [item for item in graph.initializer if item.name in read]
    for repeated, items in ((graph.node, nodes), (graph.initializer, kept_constants)):
        del repeated[:]
        repeated.extend(items)
