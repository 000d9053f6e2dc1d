"""Reading of data batch by batch, in the ways that arrays, lists, loaders and streams are read.

Map-style data sets are read in index order through their ``collate_fn``, in a forked worker under a fixed seed: later
changes in the notebook do not affect the data, and reading it does not change the notebook's random state. All other
data is read at once, and the random state is restored afterwards. If there are too many samples, a seeded selection is
drawn, stratified by class if the labels are known. Of a stream only the first samples are taken.
"""

from __future__ import annotations

import contextlib
import gc
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..core.errors import DataError
from .batches import stratified
from .overflow import Overflow
from .parsing import as_tensor, is_array, stacked
from .structure import flatten, unflatten
from .unpacking import by_form

BATCH = 64
_COPIED_BYTES = 64 << 20
"""Bytes of tensors that are copied at once; larger ones are copied batch by batch in a forked process. Not tuned."""
_WORKER_TIMEOUT = 300
"""Seconds to wait for a batch from the forked worker; longer for slow storage than any batch should take, not tuned."""


@contextlib.contextmanager
def fixed_random_state(seed: int) -> Iterator[None]:
    """Seed the random generators of Python, NumPy and torch, and restore their states afterwards."""
    import numpy
    import torch

    python, legacy = random.getstate(), numpy.random.get_state()
    with torch.random.fork_rng():
        random.seed(seed)
        numpy.random.seed(seed)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            numpy.random.set_state(legacy)


def from_arrays(data: Any, option: str, max_samples: int, seed: int) -> tuple[Iterator[Any], int]:
    """Cut an array, or a tuple of arrays, into batches along the first dimension; also return the number of samples.

    Raises:
        DataError: The arrays have different numbers of samples.
    """
    from torch.utils.data import DataLoader

    parts = data if isinstance(data, tuple) else (data,)
    leaves, _ = flatten(parts)
    tensors = [as_tensor(leaf, option, name) for name, leaf in leaves]
    lengths = {len(tensor) if tensor.ndim else 1 for tensor in tensors}
    if len(lengths) != 1:
        found = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
        raise DataError(f"the tensors of {option} have different numbers of samples: {found}")
    count = lengths.pop()
    labels = _as_classes(tensors[-1]) if len(parts) > 1 else None
    chosen = _chosen(range(count), max_samples, seed, labels)

    def cut(value: Any, rows: Sequence[int]) -> Any:
        if isinstance(value, Mapping):
            return {key: cut(item, rows) for key, item in value.items()}
        return as_tensor(value, option, "")[list(rows)]

    batches = [chosen[start : start + BATCH] for start in range(0, len(chosen), BATCH)]
    whole: Any = _Cut(lambda rows: tuple(cut(part, rows) for part in parts), batches)
    if sum(tensor.nbytes for tensor in tensors) * len(chosen) / max(1, count) <= _COPIED_BYTES:
        return iter(list(whole)), len(chosen)
    return _in_worker(DataLoader(whole, batch_size=None), [list(range(len(batches)))], seed), len(chosen)


class _Cut(Sequence[Any]):
    """Batches of tensors as a data set, whose items are batches."""

    def __init__(self, cut: Callable[[Sequence[int]], Any], batches: Sequence[Sequence[int]]) -> None:
        self._cut, self._batches = cut, batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, position: Any) -> Any:
        return self._cut(self._batches[position])


def from_batches(items: Sequence[Any], option: str, max_samples: int, seed: int) -> tuple[Iterator[Any], int, bool]:
    """Read batches from a list; of too many samples draw some of each batch, or whole batches if they cannot be cut.

    Returns:
        The batches, the number of samples, and whether rows of batches were drawn along their first dimension.
    """
    import torch

    flat = [flatten(item) for item in items]
    sizes = [_rows(leaves[0][1]) if leaves else 1 for leaves, _ in flat]
    if sum(sizes) <= max_samples:
        return iter(list(items)), sum(sizes), False
    if not _can_be_cut([[leaf for _, leaf in leaves] for leaves, _ in flat], sizes):
        sizes = [_samples(item, size) for item, size in zip(items, sizes, strict=True)]
        drawn = _some_batches(list(items), sizes, max_samples, seed)
        return iter(drawn), min(sum(sizes), max_samples), False
    mark = torch.zeros(sum(sizes), dtype=torch.bool)
    mark[list(_chosen(range(sum(sizes)), max_samples, seed, _classes_in(items, option)))] = True
    taken = []
    for (leaves, structure), rows in zip(flat, mark.split(sizes), strict=True):
        if bool(rows.any()):
            kept = rows.nonzero().flatten().tolist()
            taken.append(unflatten(structure, [leaf[kept] for _, leaf in leaves]))
    return iter(taken), max_samples, True


def _samples(item: Any, rows: int) -> int:
    """Return the samples of a batch that cannot be cut: targets, if they are fewer than rows of time or nodes."""
    leaves, _ = flatten(by_form(item)(item)[1])
    first: Any = leaves[0][1] if leaves else None
    return min(rows, len(first)) if is_array(first) and first.ndim and len(first) else rows


def _can_be_cut(batches: Sequence[Sequence[Any]], sizes: Sequence[int]) -> bool:
    """Return whether all leaves have one row per sample and the same shape.

    Padded sequences of different lengths are not cut, because shorter batches would train worse.
    """
    if not all(is_array(leaf) and leaf.ndim for leaves in batches for leaf in leaves):
        return False
    shapes = {tuple(tuple(leaf.shape[1:]) for leaf in leaves) for leaves in batches}
    return len(shapes) == 1 and all(
        len(leaf) == size for leaves, size in zip(batches, sizes, strict=True) for leaf in leaves
    )


def _some_batches(batches: list[Any], sizes: Sequence[int], max_samples: int, seed: int) -> list[Any]:
    """Draw whole batches until they hold ``max_samples`` samples, and return them in their original order."""
    import torch

    drawn: list[int] = []
    samples = 0
    for index in torch.randperm(len(batches), generator=torch.Generator().manual_seed(seed)).tolist():
        if samples >= max_samples:
            break
        drawn.append(index)
        samples += sizes[index]
    return [batches[index] for index in sorted(drawn)]


def _classes_in(items: Sequence[Any], option: str) -> Any:
    """Return the class of each sample of a list of batches as a tensor, or None if the targets are not classes."""
    import torch

    found = []
    for item in items:
        leaves, _ = flatten(by_form(item)(item)[1])
        classes = _as_classes(as_tensor(leaves[0][1], option, "target")) if leaves else None
        if classes is None:
            return None
        found.append(classes)
    return torch.cat(found)


def from_loader(
    loader: Any, max_samples: int, seed: int, max_bytes: int | None = None
) -> tuple[Iterator[Any], int | None]:
    """Read the batches of a DataLoader; also return the number of samples, or None for a stream."""
    from torch.utils.data import DataLoader, IterableDataset, TensorDataset

    if isinstance(loader.dataset, IterableDataset):
        return read_now(loader, max_samples, seed, max_bytes), None
    batches = _index_batches(loader, max_samples, seed)
    total = sum(map(len, batches))
    dataset = loader.dataset
    if type(dataset) is TensorDataset and _collates_plainly(loader):
        share = total / max(1, len(dataset))
        if share * sum(tensor.nbytes for tensor in dataset.tensors) <= _COPIED_BYTES:
            # Reading is fast and deterministic: the tensors are copied at once, so that later changes have no effect.
            return iter([dataset[list(batch)] for batch in batches]), total
        cut: Any = _Cut(lambda rows: dataset[list(rows)], batches)
        return _in_worker(DataLoader(cut, batch_size=None), [list(range(len(batches)))], seed), total
    return _in_worker(loader, batches, seed), total


def collated_rows(rows: Sequence[Any]) -> Any:
    """Collate rows as torch does, with lists of numbers as tensors. Raises DataError where their lengths differ."""
    from torch.utils.data import default_collate

    rows = [stacked(row) for row in rows]
    for name, leaf in flatten(rows[0])[0] if isinstance(rows[0], Mapping) else ():
        shapes = {tuple(row[name].shape) for row in rows if is_array(row.get(name))}
        if is_array(leaf) and len(shapes) > 1:
            found = ", ".join(map(str, sorted(shapes)[:3]))
            raise DataError(
                f"rows of the data differ in size at {name} ({found}): pad them to one length, or give batches"
            )
    return default_collate(rows)


def _index_batches(loader: Any, max_samples: int, seed: int) -> list[list[int]]:
    from torch.utils.data import BatchSampler, RandomSampler, SequentialSampler, SubsetRandomSampler

    if type(loader.batch_sampler) not in (BatchSampler, type(None)):
        with fixed_random_state(seed), _kept_generator(loader.batch_sampler):
            batches = [list(batch) for batch in loader.batch_sampler]
        return _some_batches(batches, [len(batch) for batch in batches], max_samples, seed)
    sampler = loader.sampler
    if isinstance(sampler, (RandomSampler, SequentialSampler)):
        indices: Sequence[int] = range(len(loader.dataset))
    else:
        with fixed_random_state(seed), _kept_generator(sampler):
            indices = [int(index) for index in sampler]
        if isinstance(sampler, SubsetRandomSampler):
            indices = sorted(indices)
    labels = _classes_of(loader.dataset) if len(indices) > max_samples else None
    chosen = _chosen(indices, max_samples, seed, None if labels is None else labels[list(indices)])
    size = loader.batch_size or 1
    return [list(chosen[start : start + size]) for start in range(0, len(chosen), size)]


def _chosen(indices: Sequence[int], max_samples: int, seed: int, labels: Any = None) -> Sequence[int]:
    import torch

    if len(indices) <= max_samples:
        return indices
    order = torch.randperm(len(indices), generator=torch.Generator().manual_seed(seed))
    picked = order[:max_samples] if labels is None else order[stratified(labels[order], max_samples)]
    return [indices[position] for position in sorted(picked.tolist())]


def _classes_of(dataset: Any) -> Any:
    """Return the class of each sample of a data set as a tensor, or None if it does not hold them in memory."""
    import torch
    from torch.utils.data import Subset, TensorDataset

    if type(dataset) is Subset:
        whole = _classes_of(dataset.dataset)
        return None if whole is None else whole[list(dataset.indices)]
    found = dataset.tensors[-1] if isinstance(dataset, TensorDataset) else getattr(dataset, "targets", None)
    if isinstance(found, (list, tuple)) and found and all(isinstance(label, int) for label in found):
        found = torch.tensor(found)
    return _as_classes(found) if isinstance(found, torch.Tensor) and len(found) == len(dataset) else None


def _as_classes(labels: Any) -> Any:
    is_integer = not (labels.is_floating_point() or labels.is_complex())
    return labels.detach().cpu().long() if labels.ndim == 1 and is_integer else None


def _collates_plainly(loader: Any) -> bool:
    from torch.utils.data import default_collate

    return loader.collate_fn is default_collate and loader.batch_size is not None


@contextlib.contextmanager
def _kept_generator(sampler: Any) -> Iterator[None]:
    generator = getattr(sampler, "generator", None)
    state = generator.get_state() if generator is not None else None
    try:
        yield
    finally:
        if generator is not None:
            generator.set_state(state)


def _in_worker(loader: Any, batches: list[list[int]], seed: int) -> Iterator[Any]:
    import torch

    if sys.platform != "linux":
        return _read_directly(loader, batches, seed)
    # With batch_size=None an item of the data set is a batch already.
    order: dict[str, Any] = {"batch_sampler": batches}
    if loader.batch_size is None and loader.batch_sampler is None:
        order = {"batch_size": None, "sampler": [index for batch in batches for index in batch]}
    own = torch.utils.data.DataLoader(
        loader.dataset,
        **order,
        collate_fn=loader.collate_fn,
        num_workers=1,
        worker_init_fn=loader.worker_init_fn,
        timeout=_WORKER_TIMEOUT,
        generator=torch.Generator().manual_seed(seed),
        multiprocessing_context="fork",
    )
    with _garbage_left_alone():
        items = iter(own)
    try:
        first = next(items)
    except StopIteration:
        return iter(())
    except Exception:
        # Some data sets fail in a forked process (CUDA tensors, open handles). An error of the data set itself is
        # raised again here, with a useful traceback.
        return _read_directly(loader, batches, seed)
    return _chained(first, items)


@contextlib.contextmanager
def _garbage_left_alone() -> Iterator[None]:
    """Keep a process forked inside this context from collecting garbage of this process.

    Finalizers of native objects (sessions of OpenVINO or ONNX Runtime) would wait for threads that a fork does not
    copy, and hang or crash.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _chained(first: Any, items: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from items


def _read_directly(loader: Any, batches: list[list[int]], seed: int) -> Iterator[Any]:
    # Read all items at once: between two items the user's code would see the seeded random state.
    with fixed_random_state(seed):
        items = Overflow()
        for batch in batches:
            if loader.batch_size is None and loader.batch_sampler is None:
                for index in batch:
                    items.add(loader.collate_fn(loader.dataset[index]))
            else:
                items.add(loader.collate_fn([loader.dataset[index] for index in batch]))
    yield from items


def read_now(batches: Iterable[Any], max_samples: int, seed: int, max_bytes: int | None = None) -> Iterator[Any]:
    """Read the first batches of a stream at once, and one more, which tells that the stream goes on."""
    items = Overflow()
    samples = 0
    with fixed_random_state(seed):
        # A loader of a stream may fork workers of its own.
        with _garbage_left_alone():
            found = iter(batches)
        for item in found:
            items.add(item)
            if samples >= max_samples or (max_bytes is not None and items.bytes > max_bytes):
                # One item too many, so that ``Source`` knows that the stream goes on.
                break
            leaves, _ = flatten(item)
            samples += _rows(leaves[0][1]) if leaves else 1
    yield from items


def _rows(leaf: Any) -> int:
    return len(leaf) if hasattr(leaf, "ndim") and leaf.ndim else 1
