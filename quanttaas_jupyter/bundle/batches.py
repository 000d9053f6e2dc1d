"""Batches of inputs and targets, and views of them: the first samples, other sizes of batches, parts.

A data set need not fit into memory: its batches may be made when they are asked for (``LazyBatches``), and the views of
such a data set are made in the same way.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, overload

from .structure import Structure, is_one_argument, unflatten

if TYPE_CHECKING:
    import torch

Leaf: TypeAlias = "torch.Tensor | list[torch.Tensor]"
"""A tensor with a dimension of samples, or a list of one tensor a sample where their shapes differ."""


@dataclass(frozen=True)
class Batch:
    """Leaves of inputs and targets.

    Attributes:
        inputs: Tensors the model is called with.
        targets: What they are compared with.
        dim: Dimension of the samples in the first input.
    """

    inputs: list[torch.Tensor]
    targets: list[Leaf]
    dim: int = 0

    @property
    def samples(self) -> int:
        """Number of samples: the size of the first input along ``dim`` (1 for a scalar)."""
        first = self.inputs[0]
        return int(first.shape[self.dim]) if first.ndim > self.dim else 1

    @property
    def leaves(self) -> list[Leaf]:
        """Inputs, then targets."""
        return [*self.inputs, *self.targets]

    @property
    def bytes(self) -> int:
        """Bytes of its tensors."""
        parts = [part for leaf in self.leaves for part in (leaf if isinstance(leaf, list) else [leaf])]
        return sum(part.numel() * part.element_size() for part in parts)


@dataclass(frozen=True)
class Outline:
    """Sizes of a batch, known without its values.

    Attributes:
        samples: Number of samples.
        shapes: Shape of every leaf, inputs first; of a list of one tensor a sample, the number of tensors.
        bytes: Bytes of its tensors.
    """

    samples: int
    shapes: tuple[tuple[int, ...] | int, ...]
    bytes: int

    @staticmethod
    def of(batch: Batch) -> Outline:
        """Return the outline of a batch."""
        shapes = tuple(len(leaf) if isinstance(leaf, list) else tuple(leaf.shape) for leaf in batch.leaves)
        return Outline(batch.samples, shapes, batch.bytes)


class LazyBatches(Sequence[Batch]):
    """Batches that are made when they are asked for; the one asked for last is kept.

    Attributes:
        outlines: Sizes of all batches.
    """

    def __init__(self, outlines: Sequence[Outline], make: Callable[[int], Batch]) -> None:
        """Make the batch at a position by ``make``."""
        self.outlines, self._make = tuple(outlines), make
        self._last: tuple[int, Batch] | None = None

    def __len__(self) -> int:
        return len(self.outlines)

    @overload
    def __getitem__(self, index: int) -> Batch: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Batch]: ...

    def __getitem__(self, index: int | slice) -> Batch | Sequence[Batch]:
        if isinstance(index, slice):
            positions = range(len(self))[index]
            return LazyBatches([self.outlines[at] for at in positions], lambda at: self[positions[at]])
        position = range(len(self))[index]
        last = self._last
        if last is None or last[0] != position:
            # The one before is let go first: two batches need not be held.
            self._last = last = None
            self._last = last = position, self._make(position)
        return last[1]

    def __iter__(self) -> Iterator[Batch]:
        try:
            for position in range(len(self)):
                yield self[position]
        finally:
            self._last = None


@dataclass(frozen=True)
class Batches:
    """A data set: batches, and how inputs and targets are nested.

    Attributes:
        batches: The batches, in memory or made when they are asked for.
        names: Names of the inputs.
        inputs: How inputs are nested.
        targets: How targets are nested.
        dims: Dimension of the samples in every leaf, inputs first; empty where it is 0 in all.
        is_cut: Whether batches may be cut and joined at all: not where samples of a batch depend on each other.
        sizes: For every input the dimensions that vary over all data of a study, with smallest and largest size;
            empty where none does.
    """

    batches: Sequence[Batch]
    names: tuple[str, ...]
    inputs: Structure
    targets: Structure
    dims: tuple[int, ...] = ()
    is_cut: bool = True
    sizes: tuple[dict[int, tuple[int, int]], ...] = ()

    @property
    def outlines(self) -> tuple[Outline, ...]:
        """Sizes of all batches."""
        if isinstance(self.batches, LazyBatches):
            return self.batches.outlines
        return tuple(map(Outline.of, self.batches))

    @property
    def samples(self) -> int:
        """Number of samples."""
        return sum(outline.samples for outline in self.outlines)

    @property
    def bytes(self) -> int:
        """Size of all tensors in bytes."""
        return sum(outline.bytes for outline in self.outlines)

    @property
    def has_targets(self) -> bool:
        """Whether the data has targets (labels)."""
        return bool(self.batches) and len(self.outlines[0].shapes) > len(self.names)

    def is_sliceable(self) -> bool:
        """Whether every leaf has one row a sample, so that batches may be cut and joined."""
        return self.is_cut and all(
            _rows(shape, dim) == outline.samples
            for outline in self.outlines
            for shape, dim in zip(outline.shapes, self._dims(), strict=False)
        )

    def is_uniform(self) -> bool:
        """Return whether all samples have the same shape, so that they may be joined into batches of any size."""
        if not self.is_sliceable():
            return False
        shapes = {
            tuple(_shape_of_one(shape, dim) for shape, dim in zip(outline.shapes, self._dims(), strict=False))
            for outline in self.outlines
        }
        return len(shapes) == 1

    def head(self, samples: int) -> Batches:
        """Return about the first ``samples`` samples, at least one batch; the last batch is cut if possible."""
        outlines = self.outlines
        ends = list(itertools.accumulate(outline.samples for outline in outlines))
        count = min(bisect.bisect_left(ends, max(samples, 1)) + 1, len(ends)) if ends else 0
        kept = self._with(self.batches[:count])
        if not count or ends[count - 1] <= samples or not self.is_sliceable():
            return kept
        rest = samples - (ends[count - 1] - outlines[count - 1].samples)
        rows = [slice(None)] * (count - 1) + [slice(0, rest)]
        return kept._cut_each(rows, [outline.samples for outline in outlines[: count - 1]] + [rest])

    def rebatched(self, size: int) -> Batches:
        """Return the samples in batches of ``size``, or unchanged if the samples differ in shape."""
        if not self.is_uniform():
            return self
        counts = [outline.samples for outline in self.outlines]
        if all(count == size for count in counts[:-1]) and counts[-1] <= size:
            return self
        starts = [0, *itertools.accumulate(counts)]
        edges = range(0, starts[-1], size)
        first, dims = self.outlines[0], self._dims()
        outlines = [_narrowed(first, min(size, starts[-1] - start), dims) for start in edges]
        return self._made(outlines, lambda at: self._between(starts, edges[at], edges[at] + size))

    def joined(self) -> Batch:
        """All samples as one batch; only where ``is_uniform``."""
        return self._joined(list(self.batches))

    def cut(self, batch: Batch, rows: Any) -> Batch:
        """Return some samples of a batch; ``rows`` is a slice, positions or a mask."""
        return self._batch([_cut(leaf, rows, dim) for leaf, dim in self._located(batch)], batch)

    def split(self, share: float, limit: int, seed: int) -> tuple[Batches, Batches]:
        """Split into two disjoint parts, the second with about ``share`` of the samples and at most ``limit``.

        Samples are drawn if batches can be cut, stratified by class if the targets are classes. Otherwise whole batches
        are drawn.
        """
        import torch

        generator = torch.Generator().manual_seed(seed)
        counts = [outline.samples for outline in self.outlines]
        if self.is_sliceable():
            count = max(1, min(int(self.samples * share), limit))
            chosen = torch.zeros(self.samples, dtype=torch.bool)
            chosen[self._drawn(count, generator)] = True
            marks = chosen.split(counts)
        else:
            count = max(1, int(len(counts) * share))
            picked = set(torch.randperm(len(counts), generator=generator)[:count].tolist())
            marks = tuple(torch.full((samples,), index in picked) for index, samples in enumerate(counts))
        return self._marked([~mark for mark in marks]), self._marked(marks)

    def located_inputs(self, batch: Batch) -> Iterator[tuple[torch.Tensor, int]]:
        """Yield the inputs of a batch, each with the dimension of its samples."""
        yield from zip(batch.inputs, self._dims(), strict=False)

    def _with(self, batches: Sequence[Batch]) -> Batches:
        return dataclasses.replace(self, batches=batches)

    def _made(self, outlines: Sequence[Outline], make: Callable[[int], Batch]) -> Batches:
        """Return batches that are made of these: at once where these are in memory."""
        if isinstance(self.batches, LazyBatches):
            return self._with(LazyBatches(outlines, make))
        return self._with(tuple(map(make, range(len(outlines)))))

    def _cut_each(self, rows: Sequence[Any], counts: Sequence[int]) -> Batches:
        """Return some rows of every batch; ``counts`` says how many."""
        outlines = [
            _narrowed(outline, count, self._dims()) for outline, count in zip(self.outlines, counts, strict=True)
        ]

        def make(at: int) -> Batch:
            batch = self.batches[at]
            return batch if counts[at] == batch.samples else self.cut(batch, rows[at])

        return self._made(outlines, make)

    def _between(self, starts: Sequence[int], start: int, end: int) -> Batch:
        """Return the samples from ``start`` to ``end``; batch i holds those from ``starts[i]`` to ``starts[i + 1]``."""
        parts = []
        at = bisect.bisect_right(starts, start) - 1
        while at < len(self.batches) and starts[at] < end:
            rows = slice(max(0, start - starts[at]), end - starts[at])
            parts.append(self.cut(self.batches[at], rows))
            at += 1
        return parts[0] if len(parts) == 1 else self._joined(parts)

    def _joined(self, parts: Sequence[Batch]) -> Batch:
        columns = zip(*(batch.leaves for batch in parts), strict=True)
        leaves = [_joined(column, dim) for column, dim in zip(columns, self._dims(), strict=False)]
        return self._batch(leaves, parts[0])

    def _batch(self, leaves: list[Any], like: Batch) -> Batch:
        inputs = len(like.inputs)
        return Batch(leaves[:inputs], leaves[inputs:], like.dim)

    def _dims(self) -> tuple[int, ...]:
        return self.dims or (0,) * len(self.outlines[0].shapes)

    def _located(self, batch: Batch) -> Iterator[tuple[Leaf, int]]:
        # Some batches carry no targets, such as examples that a person gave.
        yield from zip(batch.leaves, self._dims(), strict=False)

    def _drawn(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Draw the positions of ``count`` samples, stratified by class if the targets are classes."""
        import torch

        order = torch.randperm(self.samples, generator=generator)
        classes = self._classes()
        return order[:count] if classes is None else order[stratified(classes[order], count)]

    def _classes(self) -> torch.Tensor | None:
        """Return the class of each sample as a tensor of integers, or None if the targets are not classes."""
        import torch

        if not self.has_targets:
            return None
        found = []
        for batch in self.batches:
            leaf = batch.targets[0]
            if not isinstance(leaf, torch.Tensor) or not _are_classes(leaf):
                return None
            found.append(leaf.clone())
        return torch.cat(found)

    def _marked(self, marks: Sequence[torch.Tensor]) -> Batches:
        """Return the marked samples; batches without any are left out."""
        kept = [at for at, mark in enumerate(marks) if bool(mark.any())]
        chosen = self._with(self._at(kept))
        return chosen._cut_each([marks[at] for at in kept], [int(marks[at].sum()) for at in kept])

    def _at(self, positions: Sequence[int]) -> Sequence[Batch]:
        if isinstance(self.batches, LazyBatches):
            outlines = self.batches.outlines
            return LazyBatches([outlines[at] for at in positions], lambda at: self.batches[positions[at]])
        return tuple(self.batches[at] for at in positions)


def stratified(classes: torch.Tensor, count: int) -> torch.Tensor:
    """Return the positions of a stratified selection of ``count`` samples, the first ones of each class.

    Args:
        classes: One integer per sample (n), in the order in which samples are preferred.
        count: How many to take, at most n.
    """
    import torch

    _, inverse, sizes = torch.unique(classes, return_inverse=True, return_counts=True)
    grouped = torch.argsort(inverse, stable=True)
    starts = torch.cumsum(sizes, 0) - sizes
    rank = torch.empty_like(inverse)
    rank[grouped] = torch.arange(len(classes)) - starts[inverse[grouped]]
    # The k-th sample of a class of n stands at (k + 1/2) / n: taking the smallest keeps all shares.
    return torch.argsort((rank + 0.5) / sizes[inverse], stable=True)[:count]


def call(model: Callable[..., Any], structure: Structure, leaves: Sequence[Any]) -> Any:
    """Call a model with its inputs unpacked: a tuple as positional arguments, a dict as keywords, else one argument."""
    inputs = unflatten(structure, list(leaves))
    if is_one_argument(structure):
        return model(inputs)
    if isinstance(inputs, dict):
        return model(**inputs)
    if isinstance(inputs, (tuple, list)):
        return model(*inputs)
    return model(inputs)


def varying_sizes(data: Iterable[Batches]) -> tuple[dict[int, tuple[int, int]], ...]:
    """Return for every input the dimensions that vary over all data, with smallest and largest size.

    The dimension of the samples is left out where batches may be cut.
    """
    sizes: list[dict[int, tuple[int, int]]] = []
    skipped: list[int | None] = []
    for batches in data:
        is_sliceable = batches.is_sliceable()
        for outline in batches.outlines:
            for position, shape in enumerate(outline.shapes[: len(batches.names)]):
                if position == len(sizes):
                    sizes.append({})
                    rows = batches.dims[position] if batches.dims else 0
                    skipped.append(rows if is_sliceable else None)
                for dim, size in enumerate(shape if isinstance(shape, tuple) else ()):
                    low, high = sizes[position].get(dim, (size, size))
                    sizes[position][dim] = min(low, size), max(high, size)
    found = tuple(
        {dim: ends for dim, ends in leaf.items() if ends[0] < ends[1] and dim != rows}
        for leaf, rows in zip(sizes, skipped, strict=True)
    )
    return found if any(found) else ()


def _rows(shape: tuple[int, ...] | int, dim: int) -> int | None:
    if isinstance(shape, int):
        return shape
    return shape[dim] if len(shape) > dim else None


def _shape_of_one(shape: tuple[int, ...] | int, dim: int) -> tuple[int, ...]:
    return () if isinstance(shape, int) else (*shape[:dim], *shape[dim + 1 :])


def _narrowed(outline: Outline, samples: int, dims: Sequence[int]) -> Outline:
    """Return the outline of ``samples`` samples of a batch."""
    if samples == outline.samples:
        return outline
    shapes = tuple(
        samples if isinstance(shape, int) else (*shape[:dim], samples, *shape[dim + 1 :])
        for shape, dim in zip(outline.shapes, dims, strict=False)
    )
    return Outline(samples, shapes, outline.bytes * samples // max(1, outline.samples))


def _joined(column: Sequence[Any], dim: int) -> Leaf:
    import torch

    if isinstance(column[0], list):
        return [tensor for leaf in column for tensor in leaf]
    return torch.cat(list(column), dim)


def _cut(leaf: Leaf, rows: Any, dim: int) -> Leaf:
    if not isinstance(leaf, list):
        return leaf[(*(slice(None),) * dim, rows)]
    if isinstance(rows, slice):
        return leaf[rows]
    import torch

    is_mask = isinstance(rows, torch.Tensor) and rows.dtype == torch.bool
    positions = rows.nonzero().flatten() if is_mask else rows
    return [leaf[int(position)] for position in positions]


def _are_classes(leaf: torch.Tensor) -> bool:
    return leaf.ndim == 1 and not leaf.is_floating_point()
