"""Quantizations for TensorRT: ``int8`` and ``fp8`` by symmetric QDQ, ``fp16`` and ``bf16`` by the graph's types."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ...core.catalogue import Rounding, Technique
from ..runtimes.onnx_graph import ignored_nodes, layers_of
from ..runtimes.tensorrt import TensorRt, seen_by
from ..runtimes.tensorrt_engine import build, package, shapes_of
from . import QUANTIZERS, Quantized, QuantizeJob, modelopt_scales, onnx_fp16, onnx_gpu
from .onnx_bf16 import with_bf16_products
from .onnx_file import load_prepared, save


@QUANTIZERS.register(("int8", "tensorrt"), needs=("calibrator",))
def quantize(job: QuantizeJob) -> Quantized:
    """Quantize inputs and weights of all products to signed int8, by the best of minmax, percentile and entropy.

    Raises:
        StageError: The graph cannot be prepared or calibrated, or TensorRT refuses it.
    """
    return _made(job, lambda graph: onnx_gpu.calibrated(job, "int8", graph))


@QUANTIZERS.register(
    ("fp8", "tensorrt"),
    Technique(
        help="8-bit floats: for recent GPUs",
        order=7,
        color="#A8396B",
        is_proposed=False,
        makes_integers=False,
    ),
    needs=("calibrator",),
)
def quantize_fp8(job: QuantizeJob) -> Quantized:
    """Quantize inputs and weights of all products to float8 (E4M3), for GPUs from SM89 on.

    Raises:
        StageError: The graph cannot be prepared or calibrated, or TensorRT refuses it.
    """
    return _made(job, lambda graph: onnx_gpu.calibrated(job, "fp8", graph))


@QUANTIZERS.register(("fp16", "tensorrt"))
def halve(job: QuantizeJob) -> Quantized:
    """Convert weights and arithmetic to float16, except operators that overflow.

    Raises:
        StageError: The graph cannot be prepared, or TensorRT refuses it.
    """
    return _made(job, lambda graph: onnx_fp16.quantize(replace(job, target=graph)))


@QUANTIZERS.register(("bf16", "tensorrt"))
def quantize_bf16(job: QuantizeJob) -> Quantized:
    """Compute products in bfloat16, for GPUs from SM80 on.

    Without such a GPU, a graph with the same rounding is evaluated instead. TensorRT would widen weights that are only
    stored as bfloat16, so the products have that type. Transposed convolutions stay in float32, as TensorRT has no such
    kernel for them.

    Raises:
        StageError: The graph cannot be prepared, or TensorRT refuses it.
    """
    package()
    model = load_prepared(job.source)
    turned = [layer for layer in layers_of(model.graph) if layer.op_type == "ConvTranspose"]
    kept = {*ignored_nodes(model.graph, job.ignore), *(layer.node for layer in turned)}
    graph, typed = job.target.with_suffix(".onnx"), job.target.with_suffix(".typed.onnx")
    save(with_bf16_products(model, kept, is_typed=False), graph)
    save(with_bf16_products(model, kept, is_typed=True), typed)
    _build(job, typed)
    return Quantized(("transposed convolutions stay float32",) if turned else (), graph=graph)


@QUANTIZERS.register(
    ("int8-modelopt", "tensorrt"),
    Technique(
        help="int8 for GPUs with the ranges of NVIDIA's ModelOpt",
        order=9,
        color="#B87F00",
        is_proposed=False,
        makes_integers=True,
        rounding=Rounding("int8", inputs=True, by_modelopt=True),
    ),
    needs=("module",),
    extra="modelopt",
)
def quantize_by_modelopt(job: QuantizeJob) -> Quantized:
    """Quantize inputs and weights to signed int8, with minimum and maximum ranges by NVIDIA's ModelOpt.

    Raises:
        StageError: ModelOpt cannot run the module, or TensorRT refuses the graph.
    """
    return _made(job, lambda graph: onnx_gpu.by_scales(job, "int8", modelopt_scales.by_maximum, graph))


@QUANTIZERS.register(
    ("int8-smoothquant", "tensorrt"),
    Technique(
        help="int8 for GPUs after ModelOpt's SmoothQuant: for transformers with outliers",
        order=10,
        color="#FFC14D",
        starts={"linear": 2},
        makes_integers=True,
        rounding=Rounding("int8", inputs=True, by_modelopt=True),
    ),
    needs=("module",),
    extra="modelopt",
)
def quantize_smoothed(job: QuantizeJob) -> Quantized:
    """Quantize to int8 after ModelOpt's SmoothQuant, for Linear layers whose inputs have outliers.

    Raises:
        StageError: ModelOpt cannot run the module, or TensorRT refuses the graph.
    """
    return _made(job, lambda graph: onnx_gpu.by_scales(job, "int8", modelopt_scales.by_smoothquant, graph))


@QUANTIZERS.register(
    ("fp8-modelopt", "tensorrt"),
    Technique(
        help="fp8 with the ranges of ModelOpt",
        order=12,
        color="#D4719C",
        is_proposed=False,
        makes_integers=False,
        rounding=Rounding("fp8", inputs=True, by_modelopt=True),
    ),
    needs=("module",),
    extra="modelopt",
)
def quantize_fp8_by_modelopt(job: QuantizeJob) -> Quantized:
    """Quantize inputs and weights to float8 (E4M3), with ranges by ModelOpt.

    Raises:
        StageError: ModelOpt cannot run the module, or TensorRT refuses the graph.
    """
    return _made(job, lambda graph: onnx_gpu.by_scales(job, "fp8", modelopt_scales.by_maximum, graph))


@QUANTIZERS.register(("int4-awq", "tensorrt"), needs=("module",), extra="modelopt")
def quantize_by_awq(job: QuantizeJob) -> Quantized:
    """Store weights of matrix products in four bits, scaled by ModelOpt's AWQ; arithmetic stays float.

    Raises:
        StageError: ModelOpt cannot run the module, no product fits, or TensorRT refuses the graph.
    """
    return _made(job, lambda graph: onnx_gpu.by_awq(job, graph))


@QUANTIZERS.register(
    ("mixed-modelopt", "tensorrt"),
    Technique(
        help="int8 for GPUs, with the layers kept precise that ModelOpt finds most sensitive",
        order=13,
        color="#4DC3A2",
        fallback=2,
        makes_integers=True,
        rounding=Rounding("int8", inputs=True, by_modelopt=True),
    ),
    needs=("module", "goal", "keep"),
    extra="modelopt",
)
def quantize_mixed(job: QuantizeJob) -> Quantized:
    """Quantize to int8, but keep the layers in float that ModelOpt's ``auto_quantize`` finds most sensitive.

    Raises:
        StageError: ModelOpt cannot run the module, no number of layers suffices, or TensorRT refuses the graph.
    """

    def judged(graph: Path) -> Path:
        if TensorRt(job.targets).why_not_run():
            return graph
        _build(job, graph)
        return job.target

    return _made(job, lambda graph: onnx_gpu.mixed(job, graph, judged))


def _made(job: QuantizeJob, write: Callable[[Path], Quantized]) -> Quantized:
    """Write the graph, and build its engine."""
    package()
    graph = job.target.with_suffix(".onnx")
    done = write(graph)
    _build(job, graph)
    return replace(done, graph=graph)


def _build(job: QuantizeJob, graph: Path) -> None:
    build(graph, job.target, job.targets, shapes_of(graph, seen_by(job.calibration, job.names)), job.notes)
