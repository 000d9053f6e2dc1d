"""What NVIDIA's ModelOpt finds in a module: ranges, factors for channels, what quantizing a layer costs.

Its quantized modules only pretend to be quantized, and their files do not shrink. So only what it found is taken, and
written into the ONNX graph of the same module. Needs the ``modelopt`` extra.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...bundle.batches import call
from ...core.failures import StageError
from ..evaluate.predictions import main_output
from ..modelopt import INPUTS, OFF, WEIGHTS, in_one_sentence, quantization
from ..runtimes.onnx_graph import layers_of
from . import QuantizeJob, Ranking
from .onnx_calibration import Ranges

_SAMPLES, _BATCH = 512, 32
_SCORED_BATCHES = 4
_LOSSLESS = 120.0
_NAMED = 3
_DOING, _HINT = "quantize", "use int8"


@dataclass(frozen=True)
class Scales:
    """What ModelOpt found for a layer.

    Attributes:
        largest: The largest magnitude of its input, after ``factors``.
        factors: What its input is multiplied by along its channels, and its weight divided by; None for nothing.
        limits: What the largest integer stands for in each block of its weight, outputs by blocks of inputs.
    """

    largest: float | None
    factors: np.ndarray | None = None
    limits: np.ndarray | None = None


@dataclass(frozen=True)
class Scaled:
    """A graph of the same function, ready to be quantized as ModelOpt found best.

    Attributes:
        model: The graph.
        ranges: Of the inputs of layers that ModelOpt knows.
        unknown: Names of the nodes with weights of which it knows nothing.
        limits: By node the ``limits`` of its layer.
    """

    model: Any
    ranges: Ranges
    unknown: set[str]
    limits: dict[str, np.ndarray]

    def plainly_rounded(self) -> tuple[str, ...]:
        """A warning of matrix products that get four bits without limits."""
        layers = [layer for layer in layers_of(self.model.graph) if layer.op_type in ("Gemm", "MatMul")]
        names = sorted({layer.module for layer in layers if layer.node in self.unknown})
        more = " and others" if len(names) > _NAMED else ""
        return (f"AWQ scaled none of {', '.join(names[:_NAMED])}{more}: rounded plainly",) if names else ()


def by_maximum(job: QuantizeJob) -> dict[str, Scales]:
    """Ranges of all layers by module path. Raises StageError."""
    return _scales(job, {"quant_cfg": [OFF, WEIGHTS, INPUTS], "algorithm": "max"})


def by_smoothquant(job: QuantizeJob) -> dict[str, Scales]:
    """The same after magnitudes moved from the inputs of Linear layers into their weights (SmoothQuant, Xiao 2023)."""
    return _scales(job, {"quant_cfg": [OFF, WEIGHTS, INPUTS], "algorithm": "smoothquant"}, smooths=True)


def by_awq(job: QuantizeJob, block: int) -> dict[str, Scales]:
    """Factors and limits with which Linear layers lose least as int4 in blocks of inputs (AWQ, Lin 2023).

    Without limits it was worse than plain rounding on small transformers by 1 dB, with them better by 2 to 6.

    Raises:
        StageError: ModelOpt cannot run the module.
    """
    cfg = {"num_bits": 4, "block_sizes": {-1: block, "type": "static"}}
    weights = {"quantizer_name": "*weight_quantizer", "parent_class": "nn.Linear", "cfg": cfg}
    return _scales(job, {"quant_cfg": [OFF, weights], "algorithm": {"method": "awq_full"}})


def ranking(job: QuantizeJob) -> Ranking:
    """Layers by what int8 costs, worst first: ModelOpt's ``auto_quantize`` compares the distributions of classes.

    Returns:
        Module paths with a figure in dB that falls with the divergence of the outputs.

    Raises:
        StageError: The module cannot be run by ModelOpt, or its outputs are no class scores.
    """
    if job.class_dim is None:
        raise StageError("auto_quantize compares class scores, and these outputs are none", "use int8-modelopt")
    mtq, module, dim = quantization(), _module(job), job.class_dim
    batches = job.calibration.head(_SCORED_BATCHES * _BATCH).rebatched(_BATCH)
    with in_one_sentence(_DOING, _HINT):
        _, found = mtq.auto_quantize(
            module,
            constraints={"effective_bits": 12.0},
            quantization_formats=[{"quant_cfg": [OFF, WEIGHTS, INPUTS], "algorithm": "max"}],
            data_loader=list(batches.batches),
            forward_step=lambda model, batch: main_output(call(model, batches.inputs, batch.inputs)).movedim(dim, -1),
            num_calib_steps=len(batches.batches),
            num_score_steps=len(batches.batches),
            method="kl_div",
        )
    scored = [
        (name, _decibels(float(stats["scores"][0])))
        for stats in found["candidate_stats"].values()
        for name in stats["module_names"]
    ]
    return sorted(scored, key=lambda item: item[1])


def scaled(model: Any, scales: dict[str, Scales]) -> Scaled:
    """Multiply the inputs of layers by their factors, and divide their weights.

    Args:
        model: The prepared ONNX graph; it stays as it is.
        scales: By the path of the module that a node comes from.
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
        found = scales.get(modules[node.name]) if node.name in modules else None
        if node.name in modules and (found is None or not _is_usable(found, node, constants)):
            unknown.add(node.name)
        elif found is not None:
            if found.factors is not None:
                nodes.append(_multiplied(graph, node, constants, found.factors, helper, numpy_helper))
            if found.limits is not None:
                limits[node.name] = found.limits
            if found.largest is not None:
                ranges[node.input[0]] = np.float32(-found.largest), np.float32(found.largest)
        nodes.append(node)
    held = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(held)
    return Scaled(copy, ranges, unknown, limits)


def _is_usable(found: Scales, node: Any, constants: dict[str, Any]) -> bool:
    """Whether a range or limits are known, and the weight is where they are meant for."""
    is_seen = found.largest is not None or found.limits is not None
    return is_seen and node.input[0] not in constants and node.input[1] in constants


def _multiplied(graph: Any, node: Any, constants: dict[str, Any], factors: np.ndarray, helper: Any, io_: Any) -> Any:
    """The node that multiplies the input; the weight, which others may read too, is a new one."""
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

    def run(model: Any) -> None:
        for batch in batches.batches:
            call(model, batches.inputs, batch.inputs)

    with in_one_sentence(_DOING, _HINT):
        quantized = mtq.quantize(module, config, run)
    layers = [(path, layer) for path, layer in quantized.named_modules() if _is_layer(layer) and path not in shared]
    return {path: _read(layer) for path, layer in layers}


def _part_shared(module: Any) -> set[str]:
    """Give each layer a weight of its own, since ModelOpt scales weights in place; paths of those that shared one.

    In the graph they are one constant, so that which of them a node comes from cannot be told.
    """
    import torch

    holders: dict[int, list[str]] = {}
    for path, layer in module.named_modules():
        if isinstance(getattr(layer, "weight", None), torch.nn.Parameter):
            holders.setdefault(id(layer.weight), []).append(path)
    shared = {path for paths in holders.values() if len(paths) > 1 for path in paths}
    for path in shared:
        layer = module.get_submodule(path)
        layer.weight = torch.nn.Parameter(layer.weight.detach().clone(), requires_grad=layer.weight.requires_grad)
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
    return float(min(_LOSSLESS, -10 * np.log10(max(divergence, 1e-12))))


def _module(job: QuantizeJob) -> Any:
    if job.module is None:
        raise StageError("ModelOpt starts from the PyTorch module, which is not at hand", "use int8 or fp8 instead")
    return job.module()
