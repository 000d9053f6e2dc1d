"""``int8-weight`` on ONNX Runtime: weights in few bytes and arithmetic in float32, and storage that others use.

A narrow weight passes through Cast (and Mul by its scales), which ONNX Runtime folds once at load: the speed is that of
float32. DequantizeLinear is not folded there and cost 40 % of a convolutional network's speed; in front of a product it
becomes MatMulNBits, which also rounds the activations.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...core.catalogue import Rounding, Technique
from ..runtimes import onnx_parts
from ..runtimes.onnx_graph import ignored_nodes, layers_of, names_read_by
from . import QUANTIZERS, Quantized, QuantizeJob
from .onnx_file import load_prepared, save

_FLOAT = 1
"""Float32 as a ``TensorProto`` type."""
_RECURRENT = ("LSTM", "GRU", "RNN")


@QUANTIZERS.register(
    ("int8-weight", "onnxruntime"),
    Technique(
        help="weights alone in 8 bits: a quarter of the size, the speed stays",
        order=5,
        color="#F0E442",
        starts={"recurrent": 2, "other": 1},
        fallback=3,
        makes_integers=True,
        rounding=Rounding("int8"),
    ),
)
def quantize(job: QuantizeJob) -> Quantized:
    """Store the weights of all layers as int8 with one scale per channel; embeddings stay int8 in memory too.

    Raises:
        StageError: The graph cannot be prepared.
    """
    model = load_prepared(job.source, job.target.parent)
    ignored = set(ignored_nodes(model.graph, job.ignore))
    store_int8(model.graph, {layer.node for layer in layers_of(model.graph)} - ignored)
    save(model, job.target)
    return Quantized()


def store_int8(graph: Any, nodes: Collection[str]) -> None:
    """Store the constant weights of the named nodes as symmetric int8 with one scale per output channel.

    An embedding has one scale per row: rows and scales are looked up first and multiplied afterwards.
    """
    writer = _Writer(graph)
    for node in [node for node in graph.node if node.name in nodes]:
        for position in _positions(node):
            if node.input[position] not in writer.constants:
                continue
            if node.op_type == "Gather":
                writer.look_up_int8(node)
            else:
                node.input[position] = writer.int8(node.input[position], _channel_axis(node, position))
    writer.finish()


def store_as(graph: Any, nodes: Collection[str], kind: int) -> None:
    """Store the constant weights of the named nodes in a two-byte floating-point type (a ``TensorProto`` type)."""
    writer = _Writer(graph)
    for node in [node for node in graph.node if node.name in nodes]:
        for position in _positions(node):
            if node.input[position] in writer.constants:
                node.input[position] = writer.narrow(node.input[position], kind)
    writer.finish()


def store_rest(graph: Any, kept: Collection[str]) -> tuple[str, ...]:
    """Store weights that are not quantized yet as int8, except in ``kept`` nodes, and return a warning about them."""
    rest = [layer for layer in layers_of(graph) if not layer.is_quantized and layer.node not in kept]
    store_int8(graph, {layer.node for layer in rest})
    # Rows of an embedding are only looked up, so that no arithmetic stays in float32.
    types = sorted({layer.op_type for layer in rest} - {"Gather"})
    return (f"{' and '.join(types)}: int8 weights, float32 arithmetic",) if types else ()


def without_kernels(graph: Any) -> set[str]:
    """Return the names of the layers that have no static int8 kernel."""
    return {layer.node for layer in layers_of(graph) if layer.op_type in (*_RECURRENT, "Gather")}


@dataclass
class _Writer:
    """Adds narrow constants, and the nodes that widen them, to a graph."""

    graph: Any
    made: dict[Any, str] = field(default_factory=dict)
    widening: list[Any] = field(default_factory=list)
    following: dict[str, list[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.constants = {
            item.name: item for item in self.graph.initializer if item.data_type == 1 and len(item.dims) > 1
        }

    def int8(self, name: str, axis: int) -> str:
        """Store a weight as int8, and return the name of the widened tensor."""
        from onnx import TensorProto, helper

        if (name, axis) not in self.made:
            values, scales = _int8(self._array(name), axis)
            stored, wide = f"{name}/int8.{axis}", f"{name}/wide.{axis}"
            self._add(stored, values)
            self._add(f"{stored}/scale", scales)
            self.widening += [
                helper.make_node("Cast", [stored], [f"{wide}/unscaled"], to=TensorProto.FLOAT),
                helper.make_node("Mul", [f"{wide}/unscaled", f"{stored}/scale"], [wide]),
            ]
            self.made[name, axis] = wide
        return self.made[name, axis]

    def narrow(self, name: str, kind: int) -> str:
        """Store a weight as ``kind``, and return the name of the widened tensor; an overflowing one is kept."""
        from onnx import TensorProto, helper

        narrow = self._array(name).astype(helper.tensor_dtype_to_np_dtype(kind))
        if not np.isfinite(narrow.astype(np.float32)).all():
            return name
        if (name, kind) not in self.made:
            stored, wide = f"{name}/stored.{kind}", f"{name}/wide.{kind}"
            self._add(stored, narrow)
            self.widening.append(helper.make_node("Cast", [stored], [wide], to=TensorProto.FLOAT))
            self.made[name, kind] = wide
        return self.made[name, kind]

    def look_up_int8(self, node: Any) -> None:
        """Make a Gather look up int8 rows and their scales, and multiply them."""
        from onnx import TensorProto, helper

        name, output = node.input[0], node.output[0]
        stored = f"{name}/int8.rows"
        if stored not in self.made:
            values, scales = _int8(self._array(name), 0)
            self._add(stored, values)
            self._add(f"{stored}/scale", scales)
            self.made[stored] = stored
        node.input[0], node.output[0] = stored, f"{output}/rows"
        self.following[node.output[0]] = [
            helper.make_node("Gather", [f"{stored}/scale", node.input[1]], [f"{output}/scales"], axis=0),
            helper.make_node("Cast", [f"{output}/rows"], [f"{output}/unscaled"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{output}/unscaled", f"{output}/scales"], [output]),
        ]

    def finish(self) -> None:
        """Put the widening nodes first, and drop constants that no node reads any more."""
        nodes = list(self.widening)
        for node in self.graph.node:
            nodes += [node, *self.following.get(node.output[0], [])]
        _replace(self.graph.node, nodes)
        drop_unread(self.graph)

    def _array(self, name: str) -> np.ndarray:
        return onnx_parts.array_of(self.constants[name])

    def _add(self, name: str, array: np.ndarray) -> None:
        from onnx import numpy_helper

        self.graph.initializer.append(numpy_helper.from_array(array, name))


def _positions(node: Any) -> tuple[int, ...]:
    if node.op_type in _RECURRENT:
        return 1, 2
    if node.op_type == "MatMul":
        return 0, 1
    return (0,) if node.op_type == "Gather" else (1,)


def _channel_axis(node: Any, position: int) -> int:
    """Return the axis of the output channels, along which a scale can be factored out of the sums."""
    if node.op_type in ("ConvTranspose", *_RECURRENT):
        return 1
    if node.op_type == "MatMul":
        return -1 if position == 1 else -2
    is_transposed = any(item.name == "transB" and item.i for item in node.attribute)
    return 1 if node.op_type == "Gemm" and not is_transposed else 0


def _int8(array: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Return integers in [-127, 127], and scales that broadcast against them."""
    others = tuple(dim for dim in range(array.ndim) if dim != axis % array.ndim)
    scales = (np.abs(array).max(axis=others, keepdims=True) / 127).astype(np.float32)
    scales[scales == 0] = 1
    return np.clip(np.rint(array / scales), -127, 127).astype(np.int8), scales


def drop_unread(graph: Any) -> None:
    """Drop the constants that no node reads."""
    read = {name for node in graph.node for name in names_read_by(node)} | {item.name for item in graph.output}
    _replace(graph.initializer, [item for item in graph.initializer if item.name in read])


def _replace(field: Any, items: list[Any]) -> None:
    del field[:]
    field.extend(items)
