"""Rules of operations with weights, normalization, attention and pooling."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from .couplings import Couplings, Label, Labels
from .rules import Operation, Passed, fixed, rule

if TYPE_CHECKING:
    import torch


@rule("mm addmm bmm baddbmm linear mv matmul dot")
def _product(op: Operation) -> Labels:
    first: Any = op.values.get("mat1", op.values.get("batch1", op.values.get("input", op.values.get("self"))))
    second: Any = op.values.get("mat2", op.values.get("batch2", op.values.get("weight", op.values.get("vec"))))
    if first.ndim < 2 or second.ndim != first.ndim:
        return fixed(op)
    left, right = op.labels(first), op.labels(second)
    if op.name == "linear":
        right = right[::-1]
    inner = op.couplings.unify(left[-1], right[-2])
    if not op.is_weight(first) and not op.is_weight(second):
        # Attention scales an inner product by its width, and reshapes all of its parts by the same numbers.
        for label in (inner, left[-2], right[-1]):
            op.couplings.freeze(label)
    outer = [op.couplings.unify(a, b) for a, b in zip(left[:-2], right[:-2], strict=True)]
    labels_out = [*outer, left[-2], right[-1]]
    bias = op.values.get("bias", op.values.get("self") if op.name in ("addmm", "baddbmm") else None)
    return labels_out if bias is None else _added(op, labels_out, bias)


def _added(op: Operation, labels_out: Labels, bias: torch.Tensor) -> Labels:
    offset = len(labels_out) - bias.ndim
    for dim, label in enumerate(op.labels(bias)):
        if bias.shape[dim] != 1:
            labels_out[dim + offset] = op.couplings.unify(labels_out[dim + offset], label)
    return labels_out


@rule(
    "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_efficient_attention "
    "_scaled_dot_product_flash_attention scaled_dot_product_attention"
)
def _attention(op: Operation) -> list[Labels]:
    query, key, value = (list(op.labels(op.values[name])) for name in ("query", "key", "value"))
    for labels in (query, key, value):
        op.couplings.freeze(labels[-1])
        op.couplings.freeze(labels[-2])
    heads = [None if q is None and k is None else op.couplings.unify(q, k) for q, k in zip(query[:-2], key[:-2])]  # noqa: B905
    heads = [None if h is None and v is None else op.couplings.unify(h, v) for h, v in zip(heads, value[:-2])]  # noqa: B905
    mask = op.values.get("attn_mask")
    if mask is not None:
        heads = _added(op, [*heads, None, None], mask)[:-2]
    return [[*heads, None, None][: out.ndim] for out in op.outputs]


@rule("convolution _convolution conv1d conv2d conv3d mkldnn_convolution")
def _convolution(op: Operation) -> Labels:
    source, kernel, bias = op.values["input"], op.values["weight"], op.values.get("bias")
    groups, couplings = int(op.values.get("groups", 1)), op.couplings
    labels, weight = op.labels(source), op.labels(kernel)
    for spatial in (*labels[2:], *weight[2:]):
        couplings.freeze(spatial)
    is_transposed = bool(op.values.get("transposed", False))
    channels, inner, outer = labels[1], weight[0 if is_transposed else 1], weight[1 if is_transposed else 0]
    if groups == 1:
        couplings.unify(channels, inner)
    elif is_transposed:
        inner, outer = (
            couplings.unify(channels, inner),
            _grouped(couplings, inner, outer, groups, op.outputs[0].shape[1]),
        )
    else:
        outer = _grouped(couplings, outer, inner, groups, source.shape[1], channels)
    labels_out: Labels = [labels[0], outer, *[None] * (source.ndim - 2)]
    if bias is not None:
        labels_out[1] = couplings.unify(labels_out[1], op.labels(bias)[0])
    return labels_out


def _grouped(
    couplings: Couplings, whole: Label, part: Label, groups: int, size: int, data: Label | bool = False
) -> Label:
    """Couple the two sides of a grouped convolution: ``whole`` counts all groups, ``part`` one of them.

    Depthwise groups may be removed one by one; wider groups all stay and lose the same places.

    Returns:
        The label of the side with ``size`` channels (transposed) or of ``whole``.
    """
    width = size // groups
    is_forward = data is not False
    if width == 1:
        couplings.freeze(part)
        if whole is None:
            couplings.freeze(data if is_forward else None)  # type: ignore[arg-type]
            return None
        per_group = len(whole) // groups
        for place in range(1, per_group):
            couplings.unify(whole[::per_group], whole[place::per_group])
        side = couplings.unify(whole[::per_group], data) if is_forward else whole[::per_group]  # type: ignore[arg-type]
        return couplings.resolve(whole) if is_forward else couplings.resolve(side)
    couplings.tie(whole, groups)
    spread = None if part is None else np.tile(part, (groups, 1))
    if not is_forward:
        return spread
    couplings.unify(data, spread)  # type: ignore[arg-type]
    return couplings.resolve(whole)


@rule(
    "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm "
    "batch_norm _native_batch_norm_legit_functional _batch_norm_with_update _batch_norm_no_update"
)
def _batch_norm(op: Operation) -> Passed:
    labels_out = list(op.labels(op.values["input"]))
    for name in ("weight", "bias", "running_mean", "running_var"):
        if op.values.get(name) is not None:
            labels_out[1] = op.couplings.unify(labels_out[1], op.labels(op.values[name])[0])
    return [labels_out, *[None] * (len(op.outputs) - 1)]


@rule("native_layer_norm layer_norm rms_norm _fused_rms_norm")
def _layer_norm(op: Operation) -> Passed:
    labels_out = list(op.labels(op.values["input"]))
    for name in ("weight", "bias"):
        if op.values.get(name) is not None:
            labels_out = _added(op, labels_out, op.values[name])
    return [labels_out, *[None] * (len(op.outputs) - 1)]


@rule("native_group_norm group_norm")
def _group_norm(op: Operation) -> Passed:
    labels_out = list(op.labels(op.values["input"]))
    for name in ("weight", "bias"):
        if op.values.get(name) is not None:
            labels_out[1] = op.couplings.unify(labels_out[1], op.labels(op.values[name])[0])
    groups = int(op.values.get("group", op.values.get("num_groups", 1)))
    # With one channel per group, the number of groups follows the number of channels.
    if labels_out[1] is not None and groups < len(labels_out[1]):
        op.couplings.tie(labels_out[1], groups)
    labels_out[1] = op.couplings.resolve(labels_out[1])
    return [labels_out, *[None] * (len(op.outputs) - 1)]


@rule(
    "max_pool2d_with_indices max_pool3d_with_indices max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d "
    "avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool1d adaptive_max_pool2d "
    "adaptive_max_pool3d adaptive_max_pool1d upsample_nearest1d upsample_nearest2d upsample_nearest3d "
    "upsample_bilinear2d upsample_linear1d upsample_trilinear3d upsample_bicubic2d _upsample_bilinear2d_aa "
    "_upsample_bicubic2d_aa _upsample_nearest_exact2d constant_pad_nd reflection_pad1d reflection_pad2d "
    "reflection_pad3d replication_pad1d replication_pad2d replication_pad3d col2im max_unpool2d"
)
def _resized(op: Operation) -> list[Labels]:
    """Freeze the dimensions whose size changes, and pass the others on."""
    source: Any = op.values.get("self", op.values.get("input"))
    labels = list(op.labels(source))
    if op.name != "constant_pad_nd" and op.outputs[0].ndim == source.ndim:
        spatial = list(range(2 if source.ndim > 2 else 1, source.ndim))
    else:
        spatial = [dim for dim, size in enumerate(op.outputs[0].shape) if size != source.shape[dim]]
    for dim in spatial:
        op.couplings.freeze(labels[dim])
        labels[dim] = None
    return [labels] * len(op.outputs)


@rule("embedding")
def _embedding(op: Operation) -> Labels:
    rows, width = op.labels(op.values["weight"])
    op.couplings.freeze(rows)
    return [*op.labels(op.values["indices"]), width]


@rule("_embedding_bag _embedding_bag_forward_only")
def _embedding_bag(op: Operation) -> Passed:
    rows, width = op.labels(op.values["weight"])
    op.couplings.freeze(rows)
    return [[None, width], *[None] * (len(op.outputs) - 1)]


@rule("index index_select")
def _index(op: Operation) -> Labels:
    source = op.values["self"]
    labels = list(op.labels(source))
    if op.name == "index_select":
        dim = op.dim("dim")
        op.couplings.freeze(labels[dim])
        labels[dim] = None
        return labels
    indices = op.values["indices"]
    used = [dim for dim, index in enumerate(indices) if index is not None]
    if not used or used != list(range(used[0], used[-1] + 1)) or any(indices[d].dtype.is_floating_point for d in used):
        return fixed(op)
    for dim in used:
        op.couplings.freeze(labels[dim])
    behind = labels[used[-1] + 1 :]
    return [*labels[: used[0]], *[None] * (op.outputs[0].ndim - used[0] - len(behind)), *behind]


@rule("pixel_shuffle")
def _pixel_shuffle(op: Operation) -> Labels:
    labels, shape = list(op.labels(op.values["self"])), op.values["self"].shape
    factor = int(op.values["upscale_factor"])
    channels = math.prod(shape[-3:-2]) // factor**2
    parts = op.couplings.reshape([labels[-3]], [shape[-3]], [channels, factor**2])
    op.couplings.freeze(parts[1])
    return [*labels[:-3], op.couplings.resolve(parts[0]), None, None]


@rule("_pack_padded_sequence")
def _pack(op: Operation) -> Passed:
    labels = op.labels(op.values["input"])
    return [[None, *labels[2:]], *[None] * (len(op.outputs) - 1)]


@rule("_pad_packed_sequence")
def _unpack(op: Operation) -> Passed:
    labels = op.labels(op.values["data"])
    return [[None, None, *labels[1:]], *[None] * (len(op.outputs) - 1)]
