"""Rules of elementwise operations and of operations that rearrange, join, split and reduce tensors."""

from __future__ import annotations

import numpy as np

from .couplings import Label, Labels
from .rules import Operation, Passed, rule, tensors_in


@rule(
    "elementwise _prelu_kernel copy masked_fill addcmul addcdiv lerp _to_copy detach alias lift_fresh zeros_like "
    "ones_like full_like empty_like rand_like randn_like fill zero native_dropout dropout "
    "_weight_norm_interface clone contiguous _conj resolve_conj resolve_neg rrelu_with_noise hardswish "
    "hardsigmoid hardtanh hardshrink softshrink softplus mish elu celu selu leaky_relu threshold "
    "log_sigmoid_forward relu6 gelu silu"
)
def _pointwise(op: Operation) -> Passed:
    shape = op.outputs[0].shape
    labels_out: Labels = [None] * len(shape)
    started = [False] * len(shape)
    for tensor in [t for value in op.values.values() for t in tensors_in(value)]:
        offset = len(shape) - tensor.ndim
        for dim, label in enumerate(op.labels(tensor)):
            place = dim + offset
            if tensor.shape[dim] == 1 or place < 0:
                continue
            labels_out[place] = op.couplings.unify(labels_out[place], label) if started[place] else label
            started[place] = True
    return [labels_out if out.shape == shape else None for out in op.outputs]


@rule("view _unsafe_view reshape _reshape_alias flatten unflatten")
def _reshape(op: Operation) -> Labels:
    source = op.values["self"]
    return op.couplings.reshape(op.labels(source), source.shape, op.outputs[0].shape)


@rule("t numpy_T")
def _t(op: Operation) -> Labels:
    return op.labels(op.values["self"])[::-1]


@rule("transpose swapaxes")
def _transpose(op: Operation) -> Labels:
    labels = list(op.labels(op.values["self"]))
    if labels:
        one, other = op.dim("dim0"), op.dim("dim1")
        labels[one], labels[other] = labels[other], labels[one]
    return labels


@rule("permute")
def _permute(op: Operation) -> Labels:
    labels = op.labels(op.values["self"])
    return [labels[dim] for dim in op.dims("dims")]


@rule("unsqueeze")
def _unsqueeze(op: Operation) -> Labels:
    labels = list(op.labels(op.values["self"]))
    labels.insert(int(op.values["dim"]) % (len(labels) + 1), None)
    return labels


@rule("squeeze")
def _squeeze(op: Operation) -> Labels:
    source = op.values["self"]
    dropped = [dim for dim in op.dims("dim") if source.shape[dim] == 1]
    return [label for dim, label in enumerate(op.labels(source)) if dim not in dropped]


@rule("expand expand_as")
def _expand(op: Operation) -> Labels:
    labels, shape = op.labels(op.values["self"]), op.values["self"].shape
    kept = [label if size != 1 else None for label, size in zip(labels, shape, strict=True)]
    return [*[None] * (op.outputs[0].ndim - len(kept)), *kept]


@rule("repeat")
def _repeat(op: Operation) -> Labels:
    labels = op.labels(op.values["self"])
    times = [int(n) for n in op.values["repeats"]]
    padded = [*[None] * (len(times) - len(labels)), *labels]
    return [None if label is None else np.tile(label, (n, 1)) for label, n in zip(padded, times, strict=True)]


@rule("select")
def _select(op: Operation) -> Labels:
    labels = list(op.labels(op.values["self"]))
    op.couplings.freeze(labels.pop(op.dim("dim")))
    return labels


@rule("unbind")
def _unbind(op: Operation) -> list[Labels]:
    return [_select(op)] * len(op.outputs)


@rule("slice narrow")
def _slice(op: Operation) -> Labels:
    labels = list(op.labels(op.values["self"]))
    dim = op.dim("dim")
    if op.outputs[0].shape[dim] != op.values["self"].shape[dim]:
        op.couplings.freeze(labels[dim])
        labels[dim] = None
    return labels


@rule("split unsafe_split split_with_sizes unsafe_split_with_sizes chunk unsafe_chunk")
def _split(op: Operation) -> list[Labels]:
    labels, dim = list(op.labels(op.values["self"])), op.dim("dim")
    whole, sizes = labels[dim], [out.shape[dim] for out in op.outputs]
    if len(set(sizes)) == 1:
        op.couplings.tie(whole, len(sizes))
    else:
        op.couplings.freeze(whole)
    labels_out, start = [], 0
    for size in sizes:
        part = None if whole is None else whole[start : start + size]
        labels_out.append([*labels[:dim], part, *labels[dim + 1 :]])
        start += size
    return labels_out


@rule("glu")
def _glu(op: Operation) -> Labels:
    labels, dim = list(op.labels(op.values["self"])), op.dim("dim", -1)
    op.couplings.tie(labels[dim], 2)
    whole = labels[dim]
    labels[dim] = None if whole is None else whole[: len(whole) // 2]
    return labels


@rule("cat")
def _cat(op: Operation) -> Labels:
    tensors = [t for t in op.values["tensors"] if not (t.ndim == 1 and t.shape[0] == 0)]
    dim = int(op.values.get("dim", 0)) % tensors[0].ndim
    labels_out = list(op.labels(tensors[0]))
    parts = [labels_out[dim]]
    for tensor in tensors[1:]:
        labels = op.labels(tensor)
        parts.append(labels[dim])
        labels_out = [
            one if i == dim else op.couplings.unify(one, other)
            for i, (one, other) in enumerate(zip(labels_out, labels, strict=True))
        ]
    labels_out[dim] = _joined(parts, [t.shape[dim] for t in tensors])
    return labels_out


@rule("stack")
def _stack(op: Operation) -> Labels:
    tensors = op.values["tensors"]
    labels_out = list(op.labels(tensors[0]))
    for tensor in tensors[1:]:
        labels_out = [op.couplings.unify(a, b) for a, b in zip(labels_out, op.labels(tensor), strict=True)]
    labels_out.insert(int(op.values.get("dim", 0)) % (len(labels_out) + 1), None)
    return labels_out


def _joined(parts: Labels, sizes: list[int]) -> Label:
    if all(part is None for part in parts):
        return None
    arrays = [np.zeros((n, 1), np.int64) if part is None else part for part, n in zip(parts, sizes, strict=True)]
    widest = max(array.shape[1] for array in arrays)
    return np.concatenate([np.pad(array, ((0, 0), (0, widest - array.shape[1]))) for array in arrays])


@rule(
    "mean sum amax amin max min var std var_mean std_mean prod argmax argmin logsumexp norm "
    "linalg_vector_norm any all nansum median nanmean"
)
def _reduce(op: Operation) -> Labels:
    if "other" in op.values:
        whole: Labels = _pointwise(op)[0]
        return whole
    labels, gone = op.labels(op.values["self"]), op.dims("dim")
    if op.outputs[0].ndim == len(labels):
        return [None if dim in gone else label for dim, label in enumerate(labels)]
    return [label for dim, label in enumerate(labels) if dim not in gone]


@rule(
    "_softmax _log_softmax softmax log_softmax _safe_softmax cumsum cumprod sort topk flip roll tril triu "
    "index_add renorm"
)
def _along(op: Operation) -> list[Labels]:
    """Freeze the named dimensions, because removing an index would change the values at the others."""
    labels = list(op.labels(op.values["self"]))
    dims = op.dims("dims") if "dims" in op.values else op.dims("dim") if "dim" in op.values else op.dims("")
    for dim in dims:
        op.couplings.freeze(labels[dim])
        labels[dim] = None
    return [labels] * len(op.outputs)
