"""ONNX graphs with explicit symmetric QDQ for GPU runtimes, calibrated here or by ModelOpt."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from ...core.failures import StageError
from ..runtimes.onnx_graph import PRODUCTS, ignored_nodes, layers_of, products_with_weights
from ..runtimes.onnxruntime import open_session
from . import Quantized, QuantizeJob, modelopt_scales
from .fidelity import session_sqnr_db
from .layer_bisection import fewest_kept
from .modelopt_scales import Scaled, Scales, scaled
from .onnx_calibration import observe, ranges_by
from .onnx_file import load_prepared, save, split_gemms
from .onnx_gpu_qdq import with_int4_blocks, with_symmetric_qdq

_GOOD_DB = 35.0
"""SQNR in decibels at which no further calibrator is tried; see ``onnx_static``."""
_BLOCK = 128
"""Inputs that share a scale of int4 weights; a block size that TensorRT supports."""
_NAMED = 3
"""Layers named in a warning; the others are summed up."""


def calibrated(job: QuantizeJob, kind: str, graph: Path) -> Quantized:
    """Write the graph with ``kind`` (int8 or fp8) inputs and weights of all products, by the recipe's calibrator.

    ``auto`` uses the one of minmax, percentile and entropy whose outputs are closest to the original.

    Raises:
        StageError: The graph cannot be prepared or calibrated, or has no such product.
    """
    import torch

    model = load_prepared(job.source)
    kept = set(ignored_nodes(model.graph, job.ignore))
    nodes = _wanted(model, kept, kind)
    constants = {item.name for item in model.graph.initializer}
    inputs = [name for node in nodes for name in node.input[:2] if name not in constants]
    seen = observe(model, inputs, job)
    source = open_session(job.source, torch.get_num_threads(), job.names, fuses=False)
    best, quality, chosen = None, -math.inf, ""
    for calibrator in ("minmax", "percentile", "entropy") if job.calibrator == "auto" else (job.calibrator,):
        made = with_symmetric_qdq(model, ranges_by(calibrator, seen), kind, kept)
        save(made, graph)
        session = open_session(graph, torch.get_num_threads(), job.names, fuses=False)
        if (decibels := session_sqnr_db(session, source, job)) > quality:
            best, quality, chosen = made, decibels, calibrator
        if quality >= _GOOD_DB:
            break
    job.report(f"calibrated by {chosen}: {quality:.1f} dB on calibration samples")
    save(best, graph)
    return Quantized((), {"calibrator": chosen})


def by_scales(job: QuantizeJob, kind: str, find: Callable[[QuantizeJob], dict[str, Scales]], graph: Path) -> Quantized:
    """Write the graph with ``kind`` inputs and weights of the layers that ModelOpt calibrated.

    Raises:
        StageError: ModelOpt cannot run the module, or the graph has no such layer.
    """
    model = load_prepared(job.source)
    kept = set(ignored_nodes(model.graph, job.ignore))
    _wanted(model, kept, kind)
    scaled_graph = scaled(model, find(job))
    kept |= scaled_graph.unknown
    if not products_with_weights(scaled_graph.model.graph, kept):
        raise StageError("ModelOpt knows no range of any layer of this model", f"use {kind}")
    save(with_symmetric_qdq(scaled_graph.model, scaled_graph.ranges, kind, kept), graph)
    return Quantized(_unknown(scaled_graph))


def by_awq(job: QuantizeJob, graph: Path) -> Quantized:
    """Write the graph with int4 weights of matrix products in blocks of 128 inputs, scaled by ModelOpt's AWQ.

    Raises:
        StageError: ModelOpt cannot run the module, or no product has a multiple of 128 inputs.
    """
    model = load_prepared(job.source)
    kept = set(ignored_nodes(model.graph, job.ignore))
    scaled_graph = scaled(model, modelopt_scales.by_awq(job, _BLOCK))
    split_gemms(scaled_graph.model)
    made, narrowed = with_int4_blocks(scaled_graph.model, kept, _BLOCK, scaled_graph.limits)
    if not narrowed:
        raise StageError(
            f"int4-awq wants matrix products with a multiple of {_BLOCK} inputs; there is none", "use int8"
        )
    save(made, graph)
    return Quantized(scaled_graph.plainly_rounded())


def mixed(job: QuantizeJob, graph: Path, judged: Callable[[Path], Path]) -> Quantized:
    """Keep the fewest layers in float with which the drop on calibration data is allowed, by ModelOpt's ranking.

    Args:
        job: The job.
        graph: Path for the graph.
        judged: Returns the path that the judge opens for a written graph: the graph, or an engine built from it.

    Raises:
        StageError: ModelOpt cannot run the module, or no number of layers suffices.
    """
    model = load_prepared(job.source)
    kept = set(ignored_nodes(model.graph, job.ignore))
    scaled_graph = scaled(model, modelopt_scales.by_maximum(job))
    kept |= scaled_graph.unknown
    layers = [layer for layer in layers_of(scaled_graph.model.graph) if layer.op_type in PRODUCTS]
    here = {layer.module for layer in layers if layer.node not in kept}
    ranked = [module for module, _ in modelopt_scales.ranking(job) if module in here]
    if not ranked:
        raise StageError("mixed finds no layer with weights that may be quantized", "ignore fewer modules")

    def write(modules: Sequence[str]) -> Path:
        left = kept | {layer.node for layer in layers if layer.module in modules}
        save(with_symmetric_qdq(scaled_graph.model, scaled_graph.ranges, "int8", left), graph)
        return judged(graph)

    number, drop = fewest_kept(job, ranked, write)
    write(ranked[:number])
    choices: dict[str, Any] = {"kept": ranked[:number]}
    if drop is not None:
        choices["drop_on_calibration"] = drop
    said = () if number else ("every layer could be int8: the same file as int8-modelopt",)
    return Quantized((*_unknown(scaled_graph), *said), choices)


def _wanted(model: Any, kept: Collection[str], kind: str) -> list[Any]:
    nodes = products_with_weights(model.graph, kept)
    if not nodes:
        raise StageError(f"{kind} quantizes products with weights only; this model has none to quantize", "use fp16")
    return nodes


def _unknown(scaled_graph: Scaled) -> tuple[str, ...]:
    """Return a warning about layers that could be quantized, but that ModelOpt did not calibrate."""
    layers = [layer for layer in layers_of(scaled_graph.model.graph) if layer.op_type in PRODUCTS]
    names = sorted({layer.module for layer in layers if layer.node in scaled_graph.unknown})
    more = " and others" if len(names) > _NAMED else ""
    return (f"ModelOpt knows no ranges of {', '.join(names[:_NAMED])}{more}: they stay float",) if names else ()
