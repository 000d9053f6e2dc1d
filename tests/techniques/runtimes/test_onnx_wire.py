"""ONNX files read and written without their weights hold what ONNX's own functions read and write."""

from __future__ import annotations

import io
from functools import partial
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from quanttaas_jupyter.techniques.runtimes import onnx_wire

LEAST = 64
"""Bytes from which on a weight is large in these tests."""

arrays = st.builds(
    lambda kind, count: np.arange(count).astype(kind),
    st.sampled_from(["float32", "float16", "int8", "int64", "bool"]),
    st.integers(0, 300),
)


def model_of(weights: list[np.ndarray], in_fields: bool) -> Any:
    def tensor(name: str, array: np.ndarray) -> Any:
        if in_fields and array.dtype == np.float32:
            return helper.make_tensor(name, onnx.TensorProto.FLOAT, array.shape, array)
        return numpy_helper.from_array(array, name)

    nodes = [helper.make_node("Identity", [f"w{i}"], [f"y{i}"], name="n" * i) for i in range(len(weights))]
    tensors = [tensor(f"w{i}", array) for i, array in enumerate(weights)]
    outputs = [helper.make_tensor_value_info("y0", 1, None)] if weights else []
    graph = helper.make_graph(nodes, "g", [], outputs, tensors, doc_string="ä" * 200)
    return helper.make_model(graph, producer_name="test", opset_imports=[helper.make_opsetid("", 17)])


@given(st.lists(arrays, max_size=5), st.booleans())
def test_a_file_is_read_without_its_large_weights_and_written_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, weights: list[np.ndarray], in_fields: bool
) -> None:
    folder = tmp_path_factory.mktemp("wire")
    model = model_of(weights, in_fields)
    onnx.save(model, str(folder / "m.onnx"))
    read, large = onnx_wire.read(folder / "m.onnx", LEAST)
    raw = (folder / "m.onnx").read_bytes()
    found = {tensor.name: raw[offset : offset + length] for tensor, offset, length in large}
    assert found == {item.name: item.raw_data for item in model.graph.initializer if len(item.raw_data) >= LEAST}
    assert all(len(item.raw_data) < LEAST for item in read.graph.initializer)

    def weight(tensor: Any) -> onnx_wire.Weight:
        data = found.get(tensor.name, tensor.raw_data)
        return onnx_wire.without(tensor, "raw_data"), len(data), partial(onnx_wire.write_in_parts, data)

    parts = [weight(tensor) for tensor in read.graph.initializer]
    del read.graph.initializer[:]
    onnx_wire.write(read, parts, folder / "again.onnx")
    again = onnx.load(str(folder / "again.onnx"))
    for tensor in model.graph.initializer:
        # A tensor of no numbers may say so, or say nothing.
        if not tensor.raw_data:
            tensor.ClearField("raw_data")
    assert again == model


@given(st.data())
def test_damaged_bytes_are_a_value_error_or_a_model(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    raw = bytearray(model_of([np.arange(40, dtype=np.float32)], in_fields=False).SerializeToString())
    for _ in range(data.draw(st.integers(0, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("wire") / "m.onnx"
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw)))])
    try:
        model, large = onnx_wire.read(path, LEAST)
    except ValueError:
        return
    assert all(0 <= offset <= offset + length <= len(raw) for _, offset, length in large)
    assert isinstance(model, onnx.ModelProto)


def test_large_data_is_written_in_parts() -> None:
    stream = io.BytesIO()
    data = np.arange(40 << 20, dtype=np.uint8)
    onnx_wire.write_in_parts(data, stream)
    assert stream.getvalue() == data.tobytes()
