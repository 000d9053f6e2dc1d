"""``int4-weight`` on ONNX Runtime: products with four-bit weights in blocks (MatMulNBits)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from ...core.catalogue import Rounding, Technique
from ...core.failures import StageError
from ..runtimes import onnx_parts
from ..runtimes.onnx_graph import ignored_nodes, layers_of
from . import QUANTIZERS, Quantized, QuantizeJob
from .modelopt_scales import by_awq, scaled
from .onnx_file import load_prepared, save, split_gemms
from .onnx_gpu_qdq import int4_blocks
from .onnx_weights import drop_unread, store_rest

_BLOCK = 32
"""Weights that share a scale, the default block of most four-bit formats; larger blocks save bytes and lose more."""
_INT8_ARITHMETIC = 4
"""``accuracy_level`` of MatMulNBits at which activations are int8 too."""
_ZERO = 8
"""Zero point of packed four-bit weights in MatMulNBits."""


@QUANTIZERS.register(
    ("int4-weight", "onnxruntime"),
    Technique(
        help="weights of linear layers in 4 bits: an eighth of their size",
        order=6,
        color="#CC79A7",
        layers=("linear",),
        starts={"linear": 4},
        makes_integers=True,
        rounding=Rounding("int4"),
    ),
)
def quantize(job: QuantizeJob) -> Quantized:
    """Store the weights of matrix products in four bits, with a scale for each 32, and other weights as int8.

    On small transformers symmetric blocks of 32 were 1 dB better than asymmetric ones, and smaller.

    Raises:
        StageError: The model has no matrix product with weights, or cannot be prepared.
    """
    model = load_prepared(job.source, job.target.parent)
    kept = set(ignored_nodes(model.graph, job.ignore))
    _pack(_split(model, kept).graph, kept, {})
    return _finished(model, job, kept)


@QUANTIZERS.register(
    ("int4-awq", "onnxruntime"),
    Technique(
        help="int4-weight, scaled by ModelOpt's AWQ so that rounding loses least",
        order=11,
        color="#9E4F7E",
        layers=("linear",),
        makes_integers=True,
        rounding=Rounding("int4", by_modelopt=True),
    ),
    needs=("module",),
    extra="modelopt",
)
def quantize_by_awq(job: QuantizeJob) -> Quantized:
    """Store weights as ``quantize`` does, scaled by ModelOpt's AWQ so that rounding Linear layers loses least.

    Raises:
        StageError: ModelOpt cannot run the module, or there is no matrix product with weights.
    """
    model = load_prepared(job.source)
    scaled_graph, kept = scaled(model, by_awq(job, _BLOCK)), set(ignored_nodes(model.graph, job.ignore))
    if not scaled_graph.limits:
        raise StageError("AWQ knows no Linear layer of this model", "use int4-weight")
    warnings, quantized = scaled_graph.plainly_rounded(), _split(scaled_graph.model, kept)
    _pack(quantized.graph, kept, scaled_graph.limits)
    done = _finished(quantized, job, kept)
    return replace(done, warnings=(*warnings, *done.warnings))


def _split(model: Any, kept: set[str]) -> Any:
    """Split the Gemms of a model, and return it.

    Raises:
        StageError: No matrix product may be quantized.
    """
    split_gemms(model)
    if not any(layer.op_type == "MatMul" and layer.node not in kept for layer in layers_of(model.graph)):
        raise StageError("int4-weight touches matrix products only; this model has none", "use int8-weight or int8")
    return model


def _finished(model: Any, job: QuantizeJob, kept: set[str]) -> Quantized:
    """Store the remaining weights as int8, and write the file."""
    warnings = store_rest(model.graph, kept)
    save(model, job.target)
    return Quantized(warnings)


def _pack(graph: Any, kept: Collection[str], limits: Mapping[str, Any]) -> None:
    """Replace products with constant matrices by MatMulNBits, with two weights in a byte and these limits.

    One layer is rounded after the other: beside what was made so far, memory holds one matrix.
    """
    from onnx import helper, numpy_helper

    constants = {item.name: item for item in graph.initializer}
    for node in graph.node:
        weight = constants.get(node.input[1]) if node.op_type == "MatMul" and node.name not in kept else None
        if weight is None or len(weight.dims) != 2:
            continue
        packed, scales = _packed(onnx_parts.array_of(weight), limits.get(node.name))
        names = [f"{node.name}/narrow", f"{node.name}/scales"]
        graph.initializer.append(numpy_helper.from_array(packed, names[0]))
        graph.initializer.append(numpy_helper.from_array(scales, names[1]))
        made = helper.make_node(
            "MatMulNBits",
            [node.input[0], *names],
            list(node.output),
            node.name,
            domain="com.microsoft",
            K=weight.dims[0],
            N=weight.dims[1],
            bits=4,
            block_size=_BLOCK,
            accuracy_level=_INT8_ARITHMETIC,
        )
        node.CopyFrom(made)
    drop_unread(graph)


def _packed(array: Any, limits: Any) -> tuple[Any, Any]:
    """Return a matrix of inputs by outputs as MatMulNBits reads it: two weights in a byte, and scales."""
    import numpy as np
    from onnxruntime.quantization import matmul_nbits_quantizer as ort

    if limits is None:
        config = ort.DefaultWeightOnlyQuantConfig(block_size=_BLOCK, is_symmetric=True, bits=4)
        packed, scales, _ = ort.DefaultWeightOnlyQuantizer(config).qbits_block_quant(np.ascontiguousarray(array))
        return packed, scales.reshape(-1)
    padded = np.pad(array, ((0, -len(array) % _BLOCK), (0, 0)))
    narrow, scales = int4_blocks(padded, _BLOCK, limits)
    halves = (narrow + _ZERO).astype(np.uint8).transpose(2, 0, 1)
    return np.ascontiguousarray(halves[..., 0::2] | halves[..., 1::2] << 4), np.ascontiguousarray(scales.T.reshape(-1))
