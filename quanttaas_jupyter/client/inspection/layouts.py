"""Finds where the samples lie in batches, and tells the data so."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...bundle.batches import Batch, Batches, Leaf, call
from ...bundle.data import Source
from ...bundle.outputs import flatten_outputs
from ...core.errors import DataError, ModelError
from .rows import Collapsed, Layout, Unstacked, layout_of

if TYPE_CHECKING:
    import torch

_STACKED = 8
"""Items that are stacked to see whether they are single samples."""


def find_layout(model: torch.nn.Module, source: Source, batch_dim: int | None, most: int) -> Layout:
    """Find where samples lie, and tell the source; run about ``most`` samples at once, where that suffices.

    Raises:
        ModelError: One sample alone comes out differently.
    """
    import torch

    first = source.first(2)
    _refuse_absent(batch_dim, first)
    batch = first.batches[0] if first.batches[0].samples > 1 or not first.is_uniform() else first.joined()
    if first.is_sliceable() and batch.samples > 2 * most:
        batch = first.cut(batch, slice(0, most))

    def run(leaves: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            return [leaf for _, leaf in flatten_outputs(call(model, first.inputs, leaves))[0]]

    try:
        found = layout_of(run, Batch(batch.inputs, []), batch_dim)
        if batch_dim is None and found.dims[0] and not _has_targets_for(batch, found.dims[0]):
            # Columns that do not depend on each other are no samples where targets count rows.
            found = layout_of(run, Batch(batch.inputs, []), 0)
        if batch_dim is None and not found.is_cut:
            found = _of_batches_of_one(run, source) or found
    except Unstacked:
        raise ModelError(
            "the model gives a list of one output a sample: return one tensor for all of them, torch.stack(outputs)"
        ) from None
    except Collapsed as collapsed:
        raise ModelError(
            f"the model gives an output of shape {collapsed.alone} for one sample and of shape {collapsed.together} "
            "for two: a squeeze() in forward drops the dimension of the samples; name the dimension, as squeeze(-1)"
        ) from None
    if batch_dim is None and (not found.is_cut or found.dims[0]):
        _refuse_single_samples(run, source)
    if not first.is_sliceable() and not any(found.dims):
        # Inputs without one row a sample, such as the edges of a graph, are told by their shapes already.
        found = dataclasses.replace(found, is_cut=True) if not found.is_cut and not found.reason else found
    if not found.is_cut and found.reason and source.is_batched_here and (source.total or 0) > first.batches[0].samples:
        raise DataError(
            f"{found.reason}, and --data does not say which samples are judged together: give batches (a DataLoader, "
            "or a list of (inputs, targets))"
        )
    if found.dims[0] and source.is_of_rows and (source.total or 0) > first.batches[0].inputs[0].shape[0]:
        raise DataError(
            f"the model has its samples in dimension {found.dims[0]} of the inputs, arrays are cut along the first; "
            "give batches (a DataLoader, or a list of (inputs, targets)), or --batch-dim 0 if that is wrong"
        )
    if found.dims[0] and source.is_drawn:
        raise DataError(
            f"the model has its samples in dimension {found.dims[0]} of the inputs, and batches of too many samples "
            "are drawn from along the first: give fewer batches, or a larger max_samples in the recipe"
        )
    dims = (*found.dims, *(_target_dim(leaf, batch, found) for leaf in batch.targets))
    source.lay_out(dims if any(dims) else (), found.is_cut)
    return found


def row_notes(layout: Layout) -> list[str]:
    """Return what is told of where samples lie."""
    notes = []
    if not layout.is_cut and layout.reason:
        notes.append(f"batches are judged whole, exactly as they come: {layout.reason}")
    if layout.dims[0]:
        notes.append(f"samples lie in dimension {layout.dims[0]} of the inputs; --batch-dim says otherwise")
    return notes


def _of_batches_of_one(run: Any, source: Source) -> Layout | None:
    """Find samples in a later dimension of batches of one, along which two batches are joined; None without any."""
    import torch

    batches = source.first(_STACKED).batches[:_STACKED]
    first = batches[0].inputs
    for dim in range(1, first[0].ndim):
        if any(batch.inputs[0].ndim <= dim or batch.inputs[0].shape[dim] != 1 for batch in batches):
            continue
        # A batch of the same length, else the same one backwards.
        other = next(
            (batch.inputs for batch in batches[1:] if [a.shape for a in batch.inputs] == [a.shape for a in first]),
            [leaf.flip(0) for leaf in first],
        )
        dims = [dim if leaf.ndim > dim and leaf.shape[dim] == 1 else 0 for leaf in first]
        joined = [torch.cat(pair, at) for *pair, at in zip(first, other, dims, strict=True)]
        found = layout_of(run, Batch(joined, []), dim)
        if found.is_cut:
            return found
    return None


def _has_targets_for(batch: Batch, dim: int) -> bool:
    """Whether targets may have one entry for each sample in a dimension of the inputs, rather than for each row."""
    shape = tuple(batch.inputs[0].shape)
    sizes = [tuple(leaf.shape) if not isinstance(leaf, list) else (len(leaf),) for leaf in batch.targets]
    sizes = [size for size in sizes if size]
    return not sizes or any(shape[dim] in size for size in sizes) or not all(shape[0] in size for size in sizes)


def _refuse_single_samples(run: Any, source: Source) -> None:
    """Raise DataError where the model takes several items of the data stacked, as it takes no item alone."""
    import torch

    batches = source.first(_STACKED).batches[:_STACKED]
    first = batches[0]
    if len(first.inputs) != 1 or len(first.targets) != 1 or isinstance(first.targets[0], list):
        return
    if len(batches) < 2 or len({tuple(batch.inputs[0].shape) for batch in batches}) > 1:
        return
    target = first.targets[0].shape
    shape = first.inputs[0].shape
    if len(shape) > 1 and tuple(shape[:1]) == tuple(target[:1]):
        return
    try:
        stacked = layout_of(run, Batch([torch.stack([batch.inputs[0] for batch in batches])], []), 0)
    except Exception:
        return
    if stacked.is_cut:
        raise DataError(
            f"items of --data, with inputs of shape {tuple(shape)}, look like single samples rather than batches: give "
            "DataLoader(data, batch_size=64), or a tuple of tensors"
        )


def _refuse_absent(batch_dim: int | None, first: Batches) -> None:
    shape = tuple(first.batches[0].inputs[0].shape)
    if batch_dim is not None and not 0 <= batch_dim < len(shape):
        raise DataError(f"--batch-dim {batch_dim}: inputs have shape {shape}; dimensions count from 0")


def _target_dim(leaf: Leaf, batch: Batch, layout: Layout) -> int:
    if isinstance(leaf, list):
        return 0
    samples = int(batch.inputs[0].shape[layout.dims[0]]) if batch.inputs[0].ndim > layout.dims[0] else 1
    preferred = next((dim for dim in layout.output_dims if dim is not None), 0)
    for dim in sorted(range(leaf.ndim), key=lambda dim: dim != preferred):
        if leaf.shape[dim] == samples:
            return dim
    return 0
