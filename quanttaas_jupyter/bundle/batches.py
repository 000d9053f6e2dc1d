"""Batches of inputs and targets, stored as shards of tensors that hold no code."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from ..store import blobs
from ..store.base import Progress, Store
from .structure import Structure, is_one_argument, unflatten

if TYPE_CHECKING:
    import torch

SHARD_BYTES = 64 << 20
"""Bytes of tensors per blob; chosen, not tuned. Smaller shards cost more requests, larger ones more memory."""
_SENT_AT_ONCE = 4
"""Shards that are packed and uploaded at the same time; chosen, not tuned."""


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
class Batches:
    """A data set in memory: batches, and how inputs and targets are nested.

    Attributes:
        batches: The batches.
        names: Names of the inputs.
        inputs: How inputs are nested.
        targets: How targets are nested.
        dims: Dimension of the samples in every leaf, inputs first; empty where it is 0 in all.
        is_cut: Whether batches may be cut and joined at all: not where samples of a batch depend on each other.
        sizes: For every input the dimensions that vary over all data of a study, with smallest and largest size;
            empty where none does.
    """

    batches: tuple[Batch, ...]
    names: tuple[str, ...]
    inputs: Structure
    targets: Structure
    dims: tuple[int, ...] = ()
    is_cut: bool = True
    sizes: tuple[dict[int, tuple[int, int]], ...] = ()

    @property
    def samples(self) -> int:
        """Number of samples."""
        return sum(batch.samples for batch in self.batches)

    @property
    def bytes(self) -> int:
        """Size of all tensors in bytes."""
        return sum(batch.bytes for batch in self.batches)

    @property
    def has_targets(self) -> bool:
        """Whether the data has targets (labels)."""
        return bool(self.batches and self.batches[0].targets)

    def is_sliceable(self) -> bool:
        """Whether every leaf has one row a sample, so that batches may be cut and joined."""
        return self.is_cut and all(
            _rows(leaf, dim) == batch.samples for batch in self.batches for leaf, dim in self._located(batch)
        )

    def is_uniform(self) -> bool:
        """Return whether all samples have the same shape, so that they may be joined into batches of any size."""
        if not self.is_sliceable():
            return False
        shapes = {tuple(_shape_of_one(*located) for located in self._located(batch)) for batch in self.batches}
        return len(shapes) == 1

    def head(self, samples: int) -> Batches:
        """Return about the first ``samples`` samples, at least one batch; the last batch is cut if possible."""
        taken: list[Batch] = []
        left = samples
        sliceable = self.is_sliceable()
        for batch in self.batches:
            if left <= 0:
                break
            taken.append(self.cut(batch, slice(0, left)) if sliceable and batch.samples > left else batch)
            left -= batch.samples
        return dataclasses.replace(self, batches=tuple(taken))

    def rebatched(self, size: int) -> Batches:
        """Return the samples in batches of ``size``, or unchanged if the samples differ in shape."""
        if not self.is_uniform():
            return self
        whole = self.joined()
        cut = tuple(self.cut(whole, slice(start, start + size)) for start in range(0, whole.samples, size))
        return dataclasses.replace(self, batches=cut)

    def joined(self) -> Batch:
        """All samples as one batch; only where ``is_uniform``."""
        columns = zip(*(batch.leaves for batch in self.batches), strict=True)
        leaves = [_joined(column, dim) for column, dim in zip(columns, self._dims(), strict=True)]
        return self._batch(leaves)

    def cut(self, batch: Batch, rows: Any) -> Batch:
        """Return some samples of a batch; ``rows`` is a slice, positions or a mask."""
        return self._batch([_cut(leaf, rows, dim) for leaf, dim in self._located(batch)])

    def _batch(self, leaves: list[Any]) -> Batch:
        first, inputs = self.batches[0], len(self.batches[0].inputs)
        return Batch(leaves[:inputs], leaves[inputs:], first.dim)

    def _dims(self) -> tuple[int, ...]:
        return self.dims or (0,) * len(self.batches[0].leaves)

    def _located(self, batch: Batch) -> Iterator[tuple[Leaf, int]]:
        # Some batches carry no targets, such as examples that a person gave.
        yield from zip(batch.leaves, self._dims(), strict=False)

    def split(self, share: float, limit: int, seed: int) -> tuple[Batches, Batches]:
        """Split into two disjoint parts, the second with about ``share`` of the samples and at most ``limit``.

        Samples are drawn if batches can be cut, stratified by class if the targets are classes. Otherwise whole batches
        are drawn.
        """
        import torch

        generator = torch.Generator().manual_seed(seed)
        if self.is_sliceable():
            count = max(1, min(int(self.samples * share), limit))
            chosen = torch.zeros(self.samples, dtype=torch.bool)
            chosen[self._drawn(count, generator)] = True
            marks = chosen.split([batch.samples for batch in self.batches])
        else:
            count = max(1, int(len(self.batches) * share))
            picked = set(torch.randperm(len(self.batches), generator=generator)[:count].tolist())
            marks = tuple(torch.full((batch.samples,), index in picked) for index, batch in enumerate(self.batches))
        pairs = list(zip(self.batches, marks, strict=True))
        return self._marked(pairs, False), self._marked(pairs, True)

    def _drawn(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Draw the positions of ``count`` samples, stratified by class if the targets are classes."""
        import torch

        order = torch.randperm(self.samples, generator=generator)
        classes = self._classes()
        return order[:count] if classes is None else order[stratified(classes[order], count)]

    def _classes(self) -> torch.Tensor | None:
        """Return the class of each sample as a tensor of integers, or None if the targets are not classes."""
        import torch

        labels = [batch.targets[0] for batch in self.batches] if self.has_targets else []
        classes = [leaf for leaf in labels if isinstance(leaf, torch.Tensor) and _are_classes(leaf)]
        return torch.cat(classes) if classes and len(classes) == len(labels) else None

    def _marked(self, pairs: Iterable[tuple[Batch, Any]], wanted: bool) -> Batches:
        kept = []
        for batch, mark in pairs:
            rows = mark if wanted else ~mark
            if bool(rows.all()):
                kept.append(batch)
            elif bool(rows.any()):
                kept.append(self.cut(batch, rows))
        return dataclasses.replace(self, batches=tuple(kept))


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


def write_batches(store: Store, batches: Batches, upload: Callable[[], Progress] | None = None) -> dict[str, Any]:
    """Store batches as shards.

    Args:
        store: The store.
        batches: The batches.
        upload: Called for each shard; returns the progress callback of its upload.

    Returns:
        The reference that ``read`` takes: digest of the content, shards, number of samples, and whether it has labels.
    """

    def put(part: list[Batch]) -> str:
        return blobs.put_bytes(store, _pack(part, batches), upload() if upload else None)

    with ThreadPoolExecutor(_SENT_AT_ONCE, thread_name_prefix="shards") as pool:
        shards = list(pool.map(put, _shards(batches)))
    return {
        "digest": hashlib.sha256(b"".join(map(bytes.fromhex, shards))).hexdigest(),
        "shards": shards,
        "samples": batches.samples,
        "labelled": batches.has_targets,
    }


def read_batches(store: Store, reference: Mapping[str, Any]) -> Batches:
    """Load batches that ``write`` stored.

    Raises:
        MissingKey: A blob was deleted.
    """
    parts = [_unpack(blobs.get_bytes(store, sha)) for sha in reference["shards"]]
    return dataclasses.replace(parts[0], batches=tuple(batch for part in parts for batch in part.batches))


def _shards(batches: Batches) -> Iterator[list[Batch]]:
    part: list[Batch] = []
    size = 0
    for batch in batches.batches:
        part.append(batch)
        size += batch.bytes
        if size >= SHARD_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


def _pack(part: list[Batch], batches: Batches) -> bytes:
    from safetensors.torch import save

    tensors = {
        ".".join([f"{index:06d}", kind, f"{position:03d}", *sample]): part_.contiguous()
        for index, batch in enumerate(part)
        for kind, leaves in (("i", batch.inputs), ("t", batch.targets))
        for position, leaf in enumerate(leaves)
        for sample, part_ in _parts(leaf)
    }
    # One metadata key: safetensors writes several in random order, which would change the digest.
    about = {"names": batches.names, "inputs": batches.inputs, "targets": batches.targets}
    if batches.dims or not batches.is_cut:
        about |= {"dims": batches.dims, "is_cut": batches.is_cut, "dim": part[0].dim}
    if batches.sizes:
        about["sizes"] = batches.sizes
    return save(tensors, metadata={"batches": json.dumps(about)})


def _parts(leaf: Leaf) -> Iterator[tuple[tuple[str, ...], torch.Tensor]]:
    if isinstance(leaf, list):
        yield from (((f"{sample:06d}",), tensor) for sample, tensor in enumerate(leaf))
    else:
        yield (), leaf


def _unpack(data: bytes) -> Batches:
    from safetensors.torch import load

    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    structures = json.loads(header["__metadata__"]["batches"])
    tensors = load(data)
    grouped: dict[str, dict[str, dict[str, Any]]] = {}
    for name in sorted(tensors):
        index, kind, position, *sample = name.split(".")
        leaves = grouped.setdefault(index, {"i": {}, "t": {}})[kind]
        if sample:
            leaves.setdefault(position, []).append(tensors[name])
        else:
            leaves[position] = tensors[name]
    dim = structures.get("dim", 0)
    batches = tuple(
        Batch(list(group["i"].values()), list(group["t"].values()), dim) for _, group in sorted(grouped.items())
    )
    names, dims = tuple(structures["names"]), tuple(structures.get("dims", ()))
    sizes = tuple({int(at): tuple(ends) for at, ends in leaf.items()} for leaf in structures.get("sizes", ()))
    return Batches(
        batches, names, structures["inputs"], structures["targets"], dims, structures.get("is_cut", True), sizes
    )


def varying_sizes(data: Iterable[Batches]) -> tuple[dict[int, tuple[int, int]], ...]:
    """Return for every input the dimensions that vary over all data, with smallest and largest size.

    The dimension of the samples is left out where batches may be cut.
    """
    sizes: list[dict[int, tuple[int, int]]] = []
    skipped: list[int | None] = []
    for batches in data:
        for batch in batches.batches:
            for position, leaf in enumerate(batch.inputs):
                if position == len(sizes):
                    sizes.append({})
                    rows = batches.dims[position] if batches.dims else 0
                    skipped.append(rows if batches.is_sliceable() else None)
                for dim, size in enumerate(leaf.shape):
                    low, high = sizes[position].get(dim, (size, size))
                    sizes[position][dim] = min(low, size), max(high, size)
    found = tuple(
        {dim: ends for dim, ends in leaf.items() if ends[0] < ends[1] and dim != rows}
        for leaf, rows in zip(sizes, skipped, strict=True)
    )
    return found if any(found) else ()


def _rows(leaf: Leaf, dim: int) -> int | None:
    if isinstance(leaf, list):
        return len(leaf)
    return int(leaf.shape[dim]) if leaf.ndim > dim else None


def _shape_of_one(leaf: Leaf, dim: int) -> tuple[int, ...]:
    return () if isinstance(leaf, list) else (*leaf.shape[:dim], *leaf.shape[dim + 1 :])


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
