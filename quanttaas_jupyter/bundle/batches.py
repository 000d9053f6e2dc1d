"""Batches of inputs and targets as they travel: shards of tensors without any code in them."""

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
# Shards sent at once; each is packed only when its turn comes.
_SENT_AT_ONCE = 4


@dataclass(frozen=True)
class Batch:
    """Leaves of inputs and targets; the first dimension of each is the batch."""

    inputs: list[torch.Tensor]
    targets: list[torch.Tensor]

    @property
    def samples(self) -> int:
        """Number of samples: the first dimension of the first input (1 for a scalar)."""
        first = self.inputs[0]
        return int(first.shape[0]) if first.ndim else 1

    @property
    def leaves(self) -> list[torch.Tensor]:
        """Inputs, then targets."""
        return [*self.inputs, *self.targets]

    @property
    def bytes(self) -> int:
        """What its tensors hold."""
        return sum(leaf.numel() * leaf.element_size() for leaf in self.leaves)


@dataclass(frozen=True)
class Batches:
    """A data set in memory: batches, and how inputs and targets are nested."""

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
        """What its tensors hold."""
        return sum(batch.bytes for batch in self.batches)

    @property
    def has_targets(self) -> bool:
        """Whether there are labels."""
        return bool(self.batches and self.batches[0].targets)

    def is_sliceable(self) -> bool:
        """Whether every leaf has one row a sample, so that batches may be cut and joined."""
        return all(leaf.ndim > 0 and leaf.shape[0] == batch.samples for batch in self.batches for leaf in batch.leaves)

    def is_uniform(self) -> bool:
        """Whether all samples have one shape, so that they may be joined into batches of any size."""
        if not self.is_sliceable():
            return False
        shapes = {tuple(tuple(leaf.shape[1:]) for leaf in batch.leaves) for batch in self.batches}
        return len(shapes) == 1

    def head(self, samples: int) -> Batches:
        """About the first ``samples`` samples, at least one batch; batches are cut where they can be."""
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
        """Batches of ``size`` samples where samples have one shape; unchanged otherwise."""
        if not self.is_uniform():
            return self
        whole = self.joined()
        cut = tuple(_cut(whole, slice(start, start + size)) for start in range(0, whole.samples, size))
        return Batches(cut, self.names, self.inputs, self.targets)

    def joined(self) -> Batch:
        """All samples as one batch; only where ``is_uniform``."""
        import torch

        columns = zip(*(batch.leaves for batch in self.batches), strict=True)
        leaves = [torch.cat(list(column)) for column in columns]
        inputs = len(self.batches[0].inputs)
        return Batch(leaves[:inputs], leaves[inputs:])

    def split(self, share: float, limit: int, seed: int) -> tuple[Batches, Batches]:
        """Two disjoint parts, the second of about ``share`` of the samples and at most ``limit``.

        Samples are drawn where batches can be cut, of every class alike where targets are classes; whole batches
        otherwise.
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
        """Positions of ``count`` samples; classes keep their shares."""
        import torch

        order = torch.randperm(self.samples, generator=generator)
        classes = self._classes()
        return order[:count] if classes is None else order[stratified(classes[order], count)]

    def _classes(self) -> torch.Tensor | None:
        """One integer a sample, where the targets are that."""
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
    """Positions of about equal shares of every class, the first of each, ``count`` in all.

    Args:
        classes: One integer a sample (n), in the order in which samples are preferred.
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
    """Call a model the way its inputs are nested: a tuple as positions, a dict as keywords, else one argument."""
    inputs = unflatten(structure, list(leaves))
    if isinstance(inputs, dict):
        return model(**inputs)
    if isinstance(inputs, (tuple, list)):
        return model(*inputs)
    return model(inputs)


def write(store: Store, batches: Batches, upload: Callable[[], Progress] | None = None) -> dict[str, Any]:
    """Store batches as shards.

    Args:
        store: Where to.
        batches: What to store.
        upload: Called for every shard; gives what that shard's upload tells.

    Returns:
        The reference that ``read`` takes, with a digest of the content.
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


def read(store: Store, reference: dict[str, Any]) -> Batches:
    """Load batches that ``write`` stored. Raises MissingKey where a blob was deleted."""
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
    about = {"names": batches.names, "inputs": batches.inputs, "targets": batches.targets}
    return save(tensors, metadata={"batches": json.dumps(about)})


def _unpack(data: bytes) -> Batches:
    from safetensors.torch import load

    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    about = json.loads(header["__metadata__"]["batches"])
    tensors = load(data)
    grouped: dict[str, dict[str, list[Any]]] = {}
    for name in sorted(tensors):
        index, kind, _ = name.split(".")
        grouped.setdefault(index, {"i": [], "t": []})[kind].append(tensors[name])
    found = tuple(Batch(group["i"], group["t"]) for _, group in sorted(grouped.items()))
    return Batches(found, tuple(about["names"]), about["inputs"], about["targets"])


def _cut(batch: Batch, rows: Any) -> Batch:
    return Batch([leaf[rows] for leaf in batch.inputs], [leaf[rows] for leaf in batch.targets])
