"""Test whether this processor computes int8 sums exactly.

On x86 without VNNI, ONNX Runtime and OpenVINO multiply unsigned activations by signed weights with an instruction that
adds two products in 16 bits: 2 x 255 x 127 does not fit, and large neighbouring values are clipped. Weights of seven
bits always fit ("Quantize ONNX Models", ONNX Runtime's documentation, on ``reduce_range``; ``OverflowFix`` of NNCF).
"""

from __future__ import annotations

from functools import cache

import numpy as np

FULL_BITS, NARROW_BITS = 8, 7
_SIZE = 64
"""Rows, columns and summands of the test product; chosen, not tuned."""
_ACTIVATION, _WEIGHT = 255, 127
"""Largest activation in unsigned and largest weight in signed eight bits."""


@cache
def saturates() -> bool:
    """Return whether ONNX Runtime's sums are wrong when the largest activations meet the largest weights."""
    import onnx
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(np.full((_SIZE, _SIZE), _WEIGHT, np.int8), "weights")
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "weights"], ["y"])],
        "largest",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [_SIZE, _SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [_SIZE, _SIZE])],
        [weights],
    )
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (sums,) = session.run(None, {"x": np.full((_SIZE, _SIZE), _ACTIVATION, np.uint8)})
    return bool((sums != _SIZE * _ACTIVATION * _WEIGHT).any())
