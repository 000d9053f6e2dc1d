"""Batches of inputs and targets, stored as shards of tensors that hold no code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..store import blobs
from ..store.base import Progress, Store
from .structure import Structure, unflatten

if TYPE_CHECKING:
    import torch

SHARD_BYTES = 64 << 20
"""Bytes of tensors per blob; chosen, not tuned. Smaller shards cost more requests, larger ones more memory."""
_SENT_AT_ONCE = 4
"""Shards that are packed and uploaded at the same time; chosen, not tuned."""


@dataclass(frozen=True)
class Batch:
    """Input and target tensors (leaves) of one batch; the first dimension of each is the batch."""

    inputs: list[torch.Tensor]
    targets: list[torch.Tensor]

    @property
    def samples(self) -> int:
        """Number of samples: the first dimension of the first input (1 for a scalar)."""
        first = self.inputs[0]
        return int(first.shape[0]) if first.ndim else 1

    @property
    def leaves(self) -> list[torch.Tensor]:
        """Inputs followed by targets."""
        return [*self.inputs, *self.targets]

    @property
    def bytes(self) -> int:
        """Size of all tensors in bytes."""
        return sum(leaf.numel() * leaf.element_size() for leaf in self.leaves)


@dataclass(frozen=True)
class Batches:
    """Data set in memory: its batches, and the structures in which inputs and targets are nested."""

    batches: tuple[Batch, ...]
    names: tuple[str, ...]
    inputs: Structure
    targets: Structure

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
        """Return whether each leaf has one row per sample, so that batches may be cut and joined."""
        return all(leaf.ndim > 0 and leaf.shape[0] == batch.samples for batch in self.batches for leaf in batch.leaves)

    def is_uniform(self) -> bool:
        """Return whether all samples have the same shape, so that they may be joined into batches of any size."""
        if not self.is_sliceable():
            return False
        shapes = {tuple(tuple(leaf.shape[1:]) for leaf in batch.leaves) for batch in self.batches}
        return len(shapes) == 1

    def head(self, samples: int) -> Batches:
        """Return about the first ``samples`` samples, at least one batch; the last batch is cut if possible."""
        taken: list[Batch] = []
        left = samples
        sliceable = self.is_sliceable()
        for batch in self.batches:
            if left <= 0:
                break
            taken.append(_cut(batch, slice(0, left)) if sliceable and batch.samples > left else batch)
            left -= batch.samples
        return Batches(tuple(taken), self.names, self.inputs, self.targets)

    def rebatched(self, size: int) -> Batches:
        """Return the samples in batches of ``size``, or unchanged if the samples differ in shape."""
        if not self.is_uniform():
            return self
        whole = self.joined()
        cut = tuple(_cut(whole, slice(start, start + size)) for start in range(0, whole.samples, size))
        return Batches(cut, self.names, self.inputs, self.targets)

    def joined(self) -> Batch:
        """Join all samples into one batch; only valid if ``is_uniform``."""
        import torch

        columns = zip(*(batch.leaves for batch in self.batches), strict=True)
        leaves = [torch.cat(list(column)) for column in columns]
        inputs = len(self.batches[0].inputs)
        return Batch(leaves[:inputs], leaves[inputs:])

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

        if not self.has_targets or any(
            b.targets[0].ndim != 1 or b.targets[0].is_floating_point() for b in self.batches
        ):
            return None
        return torch.cat([batch.targets[0] for batch in self.batches])

    def _marked(self, pairs: Iterable[tuple[Batch, Any]], wanted: bool) -> Batches:
        kept = []
        for batch, mark in pairs:
            rows = mark if wanted else ~mark
            if bool(rows.all()):
                kept.append(batch)
            elif bool(rows.any()):
                kept.append(_cut(batch, rows))
        return Batches(tuple(kept), self.names, self.inputs, self.targets)


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


def call(model: Any, structure: Structure, leaves: Sequence[Any]) -> Any:
    """Call a model with its inputs unpacked: a tuple as positional arguments, a dict as keywords, else one argument."""
    inputs = unflatten(structure, list(leaves))
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


def read_batches(store: Store, reference: dict[str, Any]) -> Batches:
    """Load batches that ``write`` stored.

    Raises:
        MissingKey: A blob was deleted.
    """
    parts = [_unpack(blobs.get_bytes(store, sha)) for sha in reference["shards"]]
    first = parts[0]
    joined = tuple(batch for part in parts for batch in part.batches)
    return Batches(joined, first.names, first.inputs, first.targets)


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
        f"{index:06d}.{kind}.{position:03d}": leaf.contiguous()
        for index, batch in enumerate(part)
        for kind, leaves in (("i", batch.inputs), ("t", batch.targets))
        for position, leaf in enumerate(leaves)
    }
    # One metadata key: safetensors writes several in random order, which would change the digest.
    structures = {"names": batches.names, "inputs": batches.inputs, "targets": batches.targets}
    return save(tensors, metadata={"batches": json.dumps(structures)})


def _unpack(data: bytes) -> Batches:
    from safetensors.torch import load

    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    structures = json.loads(header["__metadata__"]["batches"])
    tensors = load(data)
    grouped: dict[str, dict[str, list[Any]]] = {}
    for name in sorted(tensors):
        index, kind, _ = name.split(".")
        grouped.setdefault(index, {"i": [], "t": []})[kind].append(tensors[name])
    parts = tuple(Batch(group["i"], group["t"]) for _, group in sorted(grouped.items()))
    return Batches(parts, tuple(structures["names"]), structures["inputs"], structures["targets"])


def _cut(batch: Batch, rows: Any) -> Batch:
    return Batch([leaf[rows] for leaf in batch.inputs], [leaf[rows] for leaf in batch.targets])
