"""Quantizations for ExecuTorch by XNNPACK's quantizer: static ``int8``, and ``int8-dynamic`` for linear layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...core.failures import StageError, optional
from ..runtimes.executorch_file import lower, package
from ..runtimes.torch_graph import is_ignored, layers_of, load, save, tensor_of
from . import QUANTIZERS, Quantized, QuantizeJob

if TYPE_CHECKING:
    import torch

_SAMPLES, _BATCH = 256, 32
"""Calibration samples, and samples per batch; chosen, not tuned. More samples cost time in proportion."""


@QUANTIZERS.register(("int8", "executorch"))
def quantize(job: QuantizeJob) -> Quantized:
    """Quantize weights per channel and activations per tensor, with ranges from 256 calibration samples.

    Raises:
        StageError: The graph cannot be quantized or lowered.
    """
    return _quantized(job, is_dynamic=False)


@QUANTIZERS.register(("int8-dynamic", "executorch"))
def quantize_dynamic(job: QuantizeJob) -> Quantized:
    """Quantize linear layers: weights per channel, activations with ranges found at run time.

    Raises:
        StageError: The model has no linear layer, or cannot be lowered.
    """
    return _quantized(job, is_dynamic=True)


def _quantized(job: QuantizeJob, is_dynamic: bool) -> Quantized:
    import torch

    package()
    optional("torchao", extra="executorch")
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    module = load(job.source)
    layers = layers_of(module)
    others = [layer for layer in layers if str(layer.node.target) != "aten.linear.default"] if is_dynamic else []
    if is_dynamic and len(others) == len(layers):
        raise StageError("int8-dynamic computes linear layers only; this model has none", "use int8")
    ignored = {layer.node.name for layer in layers if is_ignored(layer.module, job.ignore) or layer in others}
    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(True, is_dynamic=is_dynamic))
    quantizer.set_filter_function(lambda node: node.name not in ignored)
    inputs = job.calibration.head(2).batches[0].inputs
    dynamic = _dynamic_dims(module)
    names = {layer.node.name: [str(node.target) for node in layer.weights] for layer in layers}
    prepared = prepare_pt2e(module, quantizer)
    with torch.no_grad():
        for batch in job.calibration.head(_SAMPLES).rebatched(_BATCH).batches:
            prepared(*batch.inputs)
    made = convert_pt2e(prepared)
    _name_weights(made, names)
    graph = job.target.with_suffix(".pt2")
    save(made, inputs, dynamic, graph)
    lower(torch.export.load(graph), job.target, is_dynamic)
    left = [layer.module for layer in layers_of(load(graph)) if not layer.is_integer]
    kept = [name for name in left if not is_ignored(name, job.ignore)]
    return Quantized((f"float32 in {', '.join(kept)}",) if kept else (), graph=graph)


def _dynamic_dims(module: torch.fx.GraphModule) -> list[dict[int, Any]]:
    """Return the dynamic dimensions of each input, with the bounds that memory was planned for."""
    import torch

    layers = []
    for node in module.graph.nodes:
        if node.op == "placeholder":
            sizes = enumerate(node.meta["val"].shape)
            layers.append(
                {dim: torch.export.Dim.AUTO(**_bounds(size)) for dim, size in sizes if not isinstance(size, int)}
            )
    return layers


def _bounds(size: Any) -> dict[str, int]:
    known = size.node.shape_env.var_to_range[size.node.expr]
    return {"min": max(1, int(known.lower)), "max": int(known.upper)}


def _name_weights(module: torch.fx.GraphModule, names: dict[str, list[str]]) -> None:
    """Name quantized weights after the original ones; conversion names them ``_frozen_param0`` and so on."""
    import torch

    for layer in layers_of(module):
        for node, name in zip(layer.weights, names.get(layer.node.name, []), strict=False):
            if node.target == name:
                continue
            tensor, (parent, _, leaf) = tensor_of(module, node), name.rpartition(".")
            # A tensor with two names would be written twice.
            delattr(module, str(node.target))
            place = module
            for part in filter(None, parent.split(".")):
                if not hasattr(place, part):
                    place.add_module(part, torch.nn.Module())
                place = getattr(place, part)
            place.register_buffer(f"{leaf}_int8", tensor)
            node.target = f"{name}_int8"
    module.recompile()
