"""Graphs whose products are in bfloat16."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from quanttaas_jupyter.techniques.quantize.onnx_bf16 import with_bf16_products

RNG = np.random.default_rng(0)


def values(name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array(RNG.standard_normal(shape).astype(np.float32), name)


def branching() -> onnx.ModelProto:
    """A product, then one of two that read the same weight from inside an If."""

    def branch(name: str, sign: float) -> onnx.GraphProto:
        nodes = [
            helper.make_node("MatMul", ["hidden", "inner"], [f"{name}/product"], f"{name}/product"),
            helper.make_node("Mul", [f"{name}/product", f"{name}/sign"], [f"{name}/out"], f"{name}/multiply"),
        ]
        out = helper.make_tensor_value_info(f"{name}/out", TensorProto.FLOAT, None)
        return helper.make_graph(nodes, name, [], [out], [numpy_helper.from_array(np.float32(sign), f"{name}/sign")])

    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["hidden"], "first/product"),
        helper.make_node("ReduceSum", ["hidden"], ["sum"], "sum", keepdims=0),
        helper.make_node("Cast", ["sum"], ["is_true"], "cast", to=TensorProto.BOOL),
        helper.make_node("If", ["is_true"], ["y"], "if", then_branch=branch("a", 1.0), else_branch=branch("b", -1.0)),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name, size in (("x", 8), ("y", 4)))
    graph = helper.make_graph(nodes, "branching", [x], [y], [values("first", 8, 6), values("inner", 6, 4)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.parametrize("is_typed", [False, True])
def test_weights_that_graphs_inside_read_stay(is_typed: bool) -> None:
    made = with_bf16_products(branching(), (), is_typed)
    onnx.checker.check_model(made, full_check=True)
    names = {item.name: item.data_type for item in made.graph.initializer}
    assert names["inner"] == TensorProto.FLOAT
    assert names["first/narrow"] == TensorProto.BFLOAT16


def test_the_graph_that_is_judged_rounds_to_eight_bits_of_fraction() -> None:
    model = branching()
    x = RNG.standard_normal((16, 8)).astype(np.float32)
    plain, rounded = (
        onnxruntime.InferenceSession(made.SerializeToString()).run(None, {"x": x})[0]
        for made in (model, with_bf16_products(model, (), is_typed=False))
    )
    error = np.abs(plain - rounded).max() / np.abs(plain).max()
    assert 1e-5 < error < 2e-2
