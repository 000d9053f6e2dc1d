"""Calibration by NVIDIA's ModelOpt: ranges, channel factors, and the cost of quantizing a layer.

ModelOpt's quantized modules only simulate quantization, and their files do not shrink. So only its calibration is used,
and written into the ONNX graph of the same module. Needs the ``modelopt`` extra.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...bundle.batches import call
from ...bundle.outputs import main_output
from ...core.failures import StageError
from ..evaluate.sqnr import LOSSLESS_DB
from ..modelopt import INPUTS, OFF, WEIGHTS, in_one_sentence, quantization
from ..runtimes.onnx_graph import layers_of
from . import QuantizeJob, Ranking
from .onnx_calibration import Ranges

if TYPE_CHECKING:
    import torch

_SAMPLES, _BATCH = 512, 32
"""Calibration samples, and samples per batch; chosen, not tuned. More samples cost time in proportion."""
_SCORED_BATCHES = 4
"""Batches on which ``auto_quantize`` scores layers; chosen, not tuned: it runs the model for each layer."""
_NAMED = 3
"""Layers named in a warning; the others are summed up."""
_DOING, _HINT = "quantize", "use int8"


@dataclass(frozen=True)
class Scales:
    """Calibration of one layer.

    Attributes:
        largest: The largest magnitude of its input, after ``factors``.
        factors: Factors for the channels of its input, by which its weight is divided; None for none.
        limits: The weight that the largest integer stands for, per block: an array of outputs by blocks of inputs.
    """

    largest: float | None
    factors: np.ndarray | None = None
    limits: np.ndarray | None = None


@dataclass(frozen=True)
class Scaled:
    """Graph with the same function, scaled for quantization as ModelOpt found best.

    Attributes:
        model: The graph.
        ranges: Ranges of the inputs of layers that ModelOpt calibrated.
        unknown: Names of the nodes with weights that it did not calibrate.
        limits: The ``limits`` of each node's layer.
    """

    model: Any
    ranges: Ranges
    unknown: set[str]
    limits: dict[str, np.ndarray]

    def plainly_rounded(self) -> tuple[str, ...]:
        """Return a warning about matrix products that are rounded to four bits without AWQ's limits."""
        layers = [layer for layer in layers_of(self.model.graph) if layer.op_type in ("Gemm", "MatMul")]
        names = sorted({layer.module for layer in layers if layer.node in self.unknown})
        more = " and others" if len(names) > _NAMED else ""
        return (f"AWQ scaled none of {', '.join(names[:_NAMED])}{more}: rounded plainly",) if names else ()


def by_maximum(job: QuantizeJob) -> dict[str, Scales]:
    """Return the maximum ranges of all layers by module path.

    Raises:
        StageError: ModelOpt cannot run the module.
    """
    return _scales(job, {"quant_cfg": [OFF, WEIGHTS, INPUTS], "algorithm": "max"})


def by_smoothquant(job: QuantizeJob) -> dict[str, Scales]:
    """Return ranges and factors of SmoothQuant (Xiao et al., 2023), which moves magnitudes from inputs into weights.

    Raises:
        StageError: ModelOpt cannot run the module.
    """
    return _scales(job, {"quant_cfg": [OFF, WEIGHTS, INPUTS], "algorithm": "smoothquant"}, smooths=True)


def by_awq(job: QuantizeJob, block: int) -> dict[str, Scales]:
    """Return the factors and limits with which int4 Linear layers in blocks of inputs lose least (AWQ, Lin 2023).

    On small transformers it was 1 dB worse than plain rounding without limits, and 2 to 6 dB better with them.

    Raises:
        StageError: ModelOpt cannot run the module.
    """
    cfg = {"num_bits": 4, "block_sizes": {-1: block, "type": "static"}}
    weights = {"quantizer_name": "*weight_quantizer", "parent_class": "nn.Linear", "cfg": cfg}
    return _scales(job, {"quant_cfg": [OFF, weights], "algorithm": {"method": "awq_full"}})


def ranking(job: QuantizeJob) -> Ranking:
    """Rank layers by the cost of int8, worst first, by ModelOpt's ``auto_quantize`` on the class distributions.

    Returns:
        Module paths with a figure in dB that decreases as the divergence of the outputs grows.

    Raises:
        StageError: ModelOpt cannot run the module, or its outputs are not class scores.
    """
    if job.class_dim is None:
        raise StageError("auto_quantize compares class scores, and these outputs are none", "use int8-modelopt")
    mtq, module, dim = quantization(), _module(job), job.class_dim
    batches = job.calibration.head(_SCORED_BATCHES * _BATCH).rebatched(_BATCH)
    with in_one_sentence(_DOING, _HINT):
        _, searched = mtq.auto_quantize(
            module,
            constraints={"effective_bits": 12.0},
            quantization_formats=[{"quant_cfg": [OFF, WEIGHTS, INPUTS], "algorithm": "max"}],
            data_loader=list(batches.batches),
            forward_step=lambda model, batch: main_output(
                call(model, batches.inputs, batch.inputs), job.output
            ).movedim(dim, -1),
            num_calib_steps=len(batches.batches),
            num_score_steps=len(batches.batches),
            method="kl_div",
        )
    scored = [
        (name, _decibels(float(stats["scores"][0])))
        for stats in searched["candidate_stats"].values()
        for name in stats["module_names"]
    ]
    return sorted(scored, key=lambda item: item[1])


def scaled(model: Any, scales: dict[str, Scales]) -> Scaled:
    """Multiply the inputs of layers by their factors, and divide their weights by them, in a copy of the graph.

    Args:
        model: The prepared ONNX graph; it is not changed.
        scales: Calibration by the path of the module that a node comes from.
    """
    import onnx
    from onnx import helper, numpy_helper

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    constants = {item.name: item for item in graph.initializer}
    modules = {layer.node: layer.module for layer in layers_of(graph)}
    ranges: Ranges = {}
    limits: dict[str, np.ndarray] = {}
    nodes, unknown = [], set()
    for node in graph.node:
        layer_scales = scales.get(modules[node.name]) if node.name in modules else None
        if node.name in modules and (layer_scales is None or not _is_usable(layer_scales, node, constants)):
            unknown.add(node.name)
        elif layer_scales is not None:
            if layer_scales.factors is not None:
                nodes.append(_multiplied(graph, node, constants, layer_scales.factors, helper, numpy_helper))
            if layer_scales.limits is not None:
                limits[node.name] = layer_scales.limits
            if layer_scales.largest is not None:
                ranges[node.input[0]] = np.float32(-layer_scales.largest), np.float32(layer_scales.largest)
        nodes.append(node)
    held = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(held)
    return Scaled(copy, ranges, unknown, limits)


def _is_usable(layer_scales: Scales, node: Any, constants: dict[str, Any]) -> bool:
    """Return whether a layer was calibrated, and its weight is the constant second input of the node."""
    is_seen = layer_scales.largest is not None or layer_scales.limits is not None
    return is_seen and node.input[0] not in constants and node.input[1] in constants


def _multiplied(graph: Any, node: Any, constants: dict[str, Any], factors: np.ndarray, helper: Any, io_: Any) -> Any:
    """Return a node that multiplies the input of another by the factors.

    The other node reads a new, divided weight, as others may share the old one.
    """
    array = io_.to_array(constants[node.input[1]])
    turned = any(item.name == "transB" and item.i for item in node.attribute)
    weight, factor, product = (f"{node.name}/{name}" for name in ("weight", "factors", "multiplied"))
    divided = array / (factors if turned else factors[:, None])
    graph.initializer.append(io_.from_array(np.ascontiguousarray(divided.astype(array.dtype)), weight))
    graph.initializer.append(io_.from_array(factors.astype(array.dtype), factor))
    before = node.input[0]
    node.input[0], node.input[1] = product, weight
    return helper.make_node("Mul", [before, factor], [product], f"{node.name}/multiply")


def _scales(job: QuantizeJob, config: dict[str, Any], smooths: bool = False) -> dict[str, Scales]:
    mtq, module = quantization(), _module(job)
    if smooths:
        # ModelOpt asserts that there are channels between which magnitudes could move.
        single = [path for path, layer in module.named_modules() if getattr(layer, "in_features", 0) == 1]
        off = [{"quantizer_name": f"{path}.input_quantizer", "enable": False} for path in single]
        config = {**config, "quant_cfg": [*config["quant_cfg"], *off]}
    shared = _part_shared(module)
    batches = job.calibration.head(_SAMPLES).rebatched(_BATCH)

    def run(model: torch.nn.Module) -> None:
        for batch in batches.batches:
            call(model, batches.inputs, batch.inputs)

    with in_one_sentence(_DOING, _HINT):
        quantized = mtq.quantize(module, config, run)
    layers = [(path, layer) for path, layer in quantized.named_modules() if _is_layer(layer) and path not in shared]
    return {path: _read(layer) for path, layer in layers}


def _part_shared(module: torch.nn.Module) -> set[str]:
    """Give each layer its own weight, since ModelOpt scales weights in place, and return the paths that shared one.

    In the graph, shared weights are one constant, which does not show from which layer a node comes.
    """
    import torch

    holders: dict[int, list[str]] = {}
    for path, layer in module.named_modules():
        if isinstance(getattr(layer, "weight", None), torch.nn.Parameter):
            holders.setdefault(id(layer.weight), []).append(path)
    shared = {path for paths in holders.values() if len(paths) > 1 for path in paths}
    for path in shared:
        holder: Any = module.get_submodule(path)
        holder.weight = torch.nn.Parameter(holder.weight.detach().clone(), requires_grad=holder.weight.requires_grad)
    return shared


def _is_layer(module: Any) -> bool:
    return hasattr(module, "weight_quantizer") and module.weight_quantizer.is_enabled


def _read(layer: Any) -> Scales:
    seen, factors = layer.input_quantizer, getattr(layer.input_quantizer, "pre_quant_scale", None)
    largest = float(seen.amax.max()) if seen.is_enabled and seen.amax is not None else None
    multiplied = None if factors is None else factors.detach().cpu().float().numpy().reshape(-1)
    return Scales(largest, multiplied, _limits(layer))


def _limits(layer: Any) -> np.ndarray | None:
    weights = layer.weight_quantizer
    if not weights.block_sizes or weights.amax is None:
        return None
    blocks: np.ndarray = weights.amax.detach().cpu().float().numpy().reshape(len(layer.weight), -1)
    return blocks


def _decibels(divergence: float) -> float:
    return float(min(LOSSLESS_DB, -10 * np.log10(max(divergence, 1e-12))))


def _module(job: QuantizeJob) -> torch.nn.Module:
    if job.module is None:
        raise StageError("ModelOpt starts from the PyTorch module, which is not at hand", "use int8 or fp8 instead")
    return job.module()
