"""ONNX graphs whose products with weights read bfloat16 inputs and weights."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ..runtimes.onnx_graph import products_with_weights
from .onnx_gpu_qdq import replace_nodes

_OPSET = 22
"""First opset whose convolution accepts bfloat16."""


def with_bf16_products(model: Any, kept: Collection[str], is_typed: bool) -> Any:
    """Return a copy of the model in which all products with weights, except the ``kept`` nodes, read bfloat16.

    Args:
        model: The graph.
        kept: Names of nodes that stay unchanged.
        is_typed: Whether the products themselves are of type bfloat16, which needs opset 22 and kernels that no CPU
            has. Otherwise they compute in float32 on rounded values, which differs only in the sums and runs anywhere.
    """
    import onnx
    from onnx import TensorProto, helper, version_converter

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if is_typed and next(item.version for item in copy.opset_import if item.domain in ("", "ai.onnx")) < _OPSET:
        copy = version_converter.convert_version(copy, _OPSET)
    constants = {item.name: item for item in copy.graph.initializer}
    wanted = {node.name for node in products_with_weights(copy.graph, kept)}
    nodes: list[Any] = []
    done: dict[str, str] = {}

    def cast(name: str, to: str, kind: int) -> str:
        nodes.append(helper.make_node("Cast", [name], [to], f"{to}/cast", to=kind))
        return to

    for node in copy.graph.node:
        if node.name not in wanted:
            nodes.append(node)
            continue
        for place, name in enumerate(node.input):
            if name and name not in done:
                narrow = f"{name}/narrow"
                if name in constants:
                    copy.graph.initializer.append(_narrowed(constants[name], narrow))
                else:
                    cast(name, narrow, TensorProto.BFLOAT16)
                done[name] = narrow if is_typed else cast(narrow, f"{name}/wide", TensorProto.FLOAT)
            node.input[place] = done.get(name, name)
        nodes.append(node)
        if is_typed:
            wide, node.output[0] = node.output[0], f"{node.output[0]}/product"
            cast(node.output[0], wide, TensorProto.FLOAT)
    replace_nodes(copy.graph, nodes)
    return copy


def _narrowed(constant: Any, name: str) -> Any:
    import ml_dtypes
    from onnx import TensorProto, helper, numpy_helper

    array = numpy_helper.to_array(constant).astype(ml_dtypes.bfloat16)
    return helper.make_tensor(name, TensorProto.BFLOAT16, array.shape, array.tobytes(), raw=True)
