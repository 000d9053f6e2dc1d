"""``fp16`` and ``bf16`` on ONNX Runtime: half the bytes; inputs and outputs stay float32."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ...core.catalogue import Technique
from ..runtimes.onnx_graph import ignored_nodes, layers_of, names_read_by
from . import QUANTIZERS, Quantized, QuantizeJob
from .onnx_calibration import COMPARED, Reference, observe
from .onnx_file import load_prepared, save
from .onnx_weights import store_as

_WAS_FLOAT32 = "_cast_to_fp16"
_LARGEST = 65504.0
"""Largest finite number in float16."""
_GOOD_DB = 40.0
"""SQNR in decibels below which only weights are stored as float16; plain rounding to 11 bits leaves more than this."""


@QUANTIZERS.register(
    ("fp16", "onnxruntime"),
    Technique(
        help="16-bit floats: half the size, hardly any loss",
        order=1,
        color="#56B4E9",
        fallback=4,
        makes_integers=False,
    ),
)
def quantize(job: QuantizeJob) -> Quantized:
    """Convert weights and operators to float16, except those that overflow or that ONNX Runtime needs in float32.

    An operator overflows if calibration samples take it beyond 65504; processors without float16 arithmetic, which
    compute in float32, would hide that. If the outputs still differ by more than rounding, only the weights become
    float16.

    Raises:
        StageError: The graph cannot be prepared.
    """
    model = load_prepared(job.source)
    ignored = ignored_nodes(model.graph, job.ignore)
    overflowing = _overflowing(model, job)
    halved = _halved(model, {*ignored, *overflowing, *_crashing(model.graph)})
    if Reference(model, job).sqnr_db(halved) >= _GOOD_DB:
        save(halved, job.target)
        if not overflowing:
            return Quantized()
        return Quantized((f"{_listed(overflowing)} overflow float16 and stay in float32",), {"kept": overflowing})
    store_as(model.graph, {layer.node for layer in layers_of(model.graph)} - set(ignored), _kind("FLOAT16"))
    save(model, job.target)
    return Quantized(("float16 arithmetic loses too much here: weights are float16, arithmetic float32",))


@QUANTIZERS.register(
    ("bf16", "onnxruntime"),
    Technique(
        help="16-bit floats with the range of 32: for machines that compute in them",
        order=2,
        color="#0072B2",
        makes_integers=False,
    ),
)
def quantize_bf16(job: QuantizeJob) -> Quantized:
    """Store weights as bfloat16, widened by a Cast that is folded at load.

    ONNX Runtime has no bfloat16 arithmetic on CPUs.

    Raises:
        StageError: The graph cannot be prepared.
    """
    model = load_prepared(job.source)
    layers = {layer.node for layer in layers_of(model.graph)}
    store_as(model.graph, layers - set(ignored_nodes(model.graph, job.ignore)), _kind("BFLOAT16"))
    save(model, job.target)
    return Quantized()


def _halved(model: Any, kept: Iterable[str]) -> Any:
    import onnx
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    halved = convert_float_to_float16(
        copy, keep_io_types=True, op_block_list=DEFAULT_OP_BLOCK_LIST, node_block_list=list(kept)
    )
    _drop_round_trips(halved.graph)
    return halved


def _drop_round_trips(graph: Any) -> None:
    """Remove casts to float16 and back that the converter leaves between float32 operators, as they could overflow."""
    casts = {node.output[0]: node for node in graph.node if node.op_type == "Cast"}
    outputs = {item.name for item in graph.output}
    shorter = {
        name: casts[back.input[0]].input[0]
        for name, back in casts.items()
        if name not in outputs and back.input[0] in casts and casts[back.input[0]].input[0].endswith(_WAS_FLOAT32)
    }
    for node in graph.node:
        for position, name in enumerate(node.input):
            node.input[position] = shorter.get(name, name)
    read = {name for node in graph.node for name in names_read_by(node)} | outputs
    nodes = [node for node in graph.node if node.op_type != "Cast" or node.output[0] in read]
    del graph.node[:]
    graph.node.extend(nodes)


def _crashing(graph: Any) -> list[str]:
    """Return the names of Transposes that a MatMul reads: some of them crash ONNX Runtime 1.32 at load if in float16.

    Its fusion of the two loses their types. In float32 they cost no measurable time.
    """
    reads = {name for node in graph.node if node.op_type == "MatMul" for name in node.input}
    return [node.name for node in graph.node if node.op_type == "Transpose" and reads.intersection(node.output)]


def _overflowing(model: Any, job: QuantizeJob) -> list[str]:
    """Return the names of the nodes that read or write numbers beyond float16."""
    import numpy as np
    from onnx import numpy_helper

    seen = observe(model, [name for node in model.graph.node for name in node.output if name], job, samples=COMPARED)
    beyond = {name for name, found in seen.items() if max(-found.low, found.high) > _LARGEST}
    for item in model.graph.initializer:
        if item.data_type == 1 and np.abs(numpy_helper.to_array(item)).max(initial=0) > _LARGEST:
            beyond.add(item.name)
    return [node.name for node in model.graph.node if beyond.intersection((*node.input, *node.output))]


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} others" if len(names) > 3 else "")


def _kind(name: str) -> int:
    from onnx import TensorProto

    return int(TensorProto.DataType.Value(name))
