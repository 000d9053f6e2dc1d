"""Quantizations for PyTorch: ``int8-weight``, ``fp16`` and ``bf16`` of weights, and products in int8: ``int8-dynamic``.

The exported graph itself is changed: a weight becomes an int8 tensor with one scale per output channel, or a two-byte
tensor, and is widened where it is read, once at load. So convolutions and recurrent layers shrink too, and the file
needs only PyTorch. PT2E is not offered, because its files grow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ...core.failures import StageError
from ..runtimes.torch_graph import Layer, add_tensor, is_ignored, layers_of, rewrite, tensor_of
from . import QUANTIZERS, Quantized, QuantizeJob

if TYPE_CHECKING:
    import torch


@QUANTIZERS.register(("int8-weight", "torch"))
def quantize(job: QuantizeJob) -> Quantized:
    """Store all weights of layers as symmetric int8 with one scale per output channel; arithmetic stays float32."""
    return _changed(job, _store_int8)


@QUANTIZERS.register(("fp16", "torch"))
def quantize_fp16(job: QuantizeJob) -> Quantized:
    """Store weights as float16; arithmetic stays float32, which is faster on CPUs and cannot overflow."""
    import torch

    return _changed(job, lambda module, layer: _store_as(module, layer, torch.float16))


@QUANTIZERS.register(("bf16", "torch"))
def quantize_bf16(job: QuantizeJob) -> Quantized:
    """Store weights as bfloat16; arithmetic stays float32."""
    import torch

    return _changed(job, lambda module, layer: _store_as(module, layer, torch.bfloat16))


@QUANTIZERS.register(("int8-dynamic", "torch"))
def quantize_dynamic(job: QuantizeJob) -> Quantized:
    """Compute linear layers in int8: weights with a scale per channel, activations with one per row at run time.

    Other weights are stored as int8.

    Raises:
        StageError: The model has no linear layer.
    """
    others: list[str] = []
    linear: list[str] = []

    def change(module: torch.fx.GraphModule, layer: Layer) -> None:
        is_linear = str(layer.node.target) == "aten.linear.default" and layer.node.args[1] is layer.weights[0]
        (linear if is_linear else others).append(layer.module)
        (_make_dynamic if is_linear else _store_int8)(module, layer)

    _changed(job, change)
    if not linear:
        raise StageError("int8-dynamic computes linear layers only; this model has none", "use int8-weight")
    return Quantized((f"int8 weights, float32 arithmetic in {', '.join(others)}",) if others else ())


def _changed(job: QuantizeJob, change: Callable[[torch.fx.GraphModule, Layer], None]) -> Quantized:
    def all_layers(module: torch.fx.GraphModule) -> None:
        for layer in layers_of(module):
            if not is_ignored(layer.module, job.ignore):
                change(module, layer)

    rewrite(job.source, job.target, job.calibration.head(2).batches[0].inputs, all_layers)
    return Quantized()


def _store_int8(module: torch.fx.GraphModule, layer: Layer) -> None:
    import torch

    for node in layer.weights:
        values, scales = _int8(tensor_of(module, node), 1 if "conv_transpose" in str(layer.node.target) else 0)
        stored, scale = add_tensor(module, node, "int8", values), add_tensor(module, node, "scale", scales)
        with module.graph.inserting_before(node):
            wide = module.graph.call_function(torch.ops.aten.to.dtype, (stored, torch.float32))
            node.replace_all_uses_with(module.graph.call_function(torch.ops.aten.mul.Tensor, (wide, scale)))


def _store_as(module: torch.fx.GraphModule, layer: Layer, kind: torch.dtype) -> None:
    import torch

    for node in layer.weights:
        narrow = tensor_of(module, node).detach().to(kind)
        if bool(torch.isfinite(narrow).all()):
            stored = add_tensor(module, node, str(kind).rpartition(".")[2], narrow)
            with module.graph.inserting_before(node):
                wide = module.graph.call_function(torch.ops.aten.to.dtype, (stored, torch.float32))
            node.replace_all_uses_with(wide)


def _make_dynamic(module: torch.fx.GraphModule, layer: Layer) -> None:
    node = layer.weights[0]
    values, scales = _int8(tensor_of(module, node), 0)
    stored, scale = add_tensor(module, node, "int8", values), add_tensor(module, node, "scale", scales[:, 0].clone())
    call = layer.node
    bias = call.args[2] if len(call.args) > 2 else None
    with module.graph.inserting_before(call):
        product = module.graph.call_function(_linear_int8, (call.args[0], stored, scale, bias))
    call.replace_all_uses_with(product)
    module.graph.erase_node(call)


def _linear_int8(x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Compute a linear layer for ``x`` (..., in) with an int8 weight (out, in); it exports to plain operators."""
    import torch

    rows = x.reshape(-1, x.shape[-1])
    step = rows.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
    product = torch._int_mm(torch.round(rows / step).to(torch.int8), weight.t())
    y = product.to(torch.float32) * step * scale
    y = y if bias is None else y + bias
    return y.reshape(*x.shape[:-1], weight.shape[0])


def _int8(tensor: torch.Tensor, axis: int) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    others = [dim for dim in range(tensor.ndim) if dim != axis]
    scales = tensor.detach().abs().amax(others, keepdim=True) / 127
    scales = torch.where(scales == 0, torch.ones_like(scales), scales)
    return torch.round(tensor.detach() / scales).clamp(-127, 127).to(torch.int8), scales
