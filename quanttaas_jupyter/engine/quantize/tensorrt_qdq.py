"""TensorRT: ``int8`` and ``fp8`` by explicit symmetric QDQ, ``fp16`` by the types in the graph.

``bf16`` is not offered: TensorRT widens weights that are merely stored in it, and nothing without a GPU computes in it.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from ..failures import StageError
from ..runtimes.onnx_graph import ignored_nodes
from ..runtimes.tensorrt import TensorRt, seen_by
from ..runtimes.tensorrt_engine import build, package, shapes_of
from . import QUANTIZERS, Quantized, QuantizeJob, onnx_fp16
from .fidelity import sqnr_db
from .onnx_calibration import observe, ranges_by
from .onnx_file import load_prepared, save
from .onnx_symmetric import nodes_to_quantize, with_symmetric_qdq

_PACKAGE = "quanttaas_jupyter.engine"
_HELPERS = (
    *(
        f"{_PACKAGE}.runtimes.{name}"
        for name in ("onnx_graph", "onnx_lean", "onnxruntime", "tensorrt", "tensorrt_engine")
    ),
    f"{_PACKAGE}.quantize.fidelity",
    *(f"{_PACKAGE}.quantize.onnx_{name}" for name in ("calibration", "file", "fp16", "symmetric", "weights")),
)
_PACKAGES = ("onnx", "onnxruntime", "tensorrt", "tensorrt-rtx")
_GOOD_DB = 35.0


@QUANTIZERS.register(("int8", "tensorrt"), packages=_PACKAGES, helpers=_HELPERS, needs=("calibrator",))
def quantize(job: QuantizeJob) -> Quantized:
    """Signed eight-bit inputs and weights of all products; what is nearest of minimum and maximum, percentile, entropy.

    Raises:
        StageError: The graph cannot be prepared or calibrated, or TensorRT refuses it.
    """
    return _with_qdq(job, "int8")


@QUANTIZERS.register(("fp8", "tensorrt"), packages=_PACKAGES, helpers=_HELPERS, needs=("calibrator",))
def quantize_fp8(job: QuantizeJob) -> Quantized:
    """The same in float8 (E4M3), for GPUs from SM89 on.

    Raises:
        StageError: The graph cannot be prepared or calibrated, or TensorRT refuses it.
    """
    return _with_qdq(job, "fp8")


@QUANTIZERS.register(("fp16", "tensorrt"), packages=_PACKAGES, helpers=_HELPERS)
def halve(job: QuantizeJob) -> Quantized:
    """Weights and arithmetic in float16, but what overflows.

    Raises:
        StageError: The graph cannot be prepared, or TensorRT refuses it.
    """
    package()
    graph = job.target.with_suffix(".onnx")
    return _built(job, graph, onnx_fp16.quantize(replace(job, target=graph)))


def _with_qdq(job: QuantizeJob, kind: str) -> Quantized:
    import torch

    package()
    model = load_prepared(job.source)
    kept = set(ignored_nodes(model.graph, job.ignore))
    nodes = nodes_to_quantize(model.graph, kept)
    if not nodes:
        raise StageError(f"{kind} quantizes products with weights only; this model has none to quantize", "use fp16")
    constants = {item.name for item in model.graph.initializer}
    inputs = [name for node in nodes for name in node.input[:2] if name not in constants]
    seen, graph, runtime = observe(model, inputs, job), job.target.with_suffix(".onnx"), TensorRt()
    source = runtime.open_graph(job.source, torch.get_num_threads(), job.names)
    best, quality, chosen = None, -math.inf, ""
    for calibrator in ("minmax", "percentile", "entropy") if job.calibrator == "auto" else (job.calibrator,):
        made = with_symmetric_qdq(model, ranges_by(calibrator, seen), kind, kept)
        save(made, graph)
        if (found := sqnr_db(runtime.open_graph(graph, torch.get_num_threads(), job.names), source, job)) > quality:
            best, quality, chosen = made, found, calibrator
        if quality >= _GOOD_DB:
            break
    job.report(f"calibrated by {chosen}: {quality:.1f} dB on calibration samples")
    save(best, graph)
    return _built(job, graph, Quantized((), {"calibrator": chosen}))


def _built(job: QuantizeJob, graph: Path, done: Quantized) -> Quantized:
    build(graph, job.target, job.targets, shapes_of(graph, seen_by(job.calibration, job.names)))
    return replace(done, graph=graph)
