"""Conversion of a user's evaluation or training data into ``Batches``.

Map-style data sets are read in index order through their ``collate_fn``, in a forked worker under a fixed seed: later
changes in the notebook do not affect the data, and reading it does not change the notebook's random state. All other
data is read at once, and the random state is restored afterwards. If there are too many samples, a seeded selection is
drawn, stratified by class if the labels are known. Of a stream only the first samples are taken, and ``Source.note``
says so.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..core.errors import DataError
from ..core.failures import last_line
from .batches import Batch, Batches, stratified
from .structure import TEXT, Structure, flatten, unflatten
from .unpacking import Unpacking, by_form

_BATCH = 64
_WORKER_TIMEOUT = 300
"""Seconds to wait for a batch from the forked worker; longer for slow storage than any batch should take, not tuned."""

Progress = Callable[[int, "int | None"], None]


class Source:
    """Data being read: the first batch is available at once, ``read`` reads the rest.

    Attributes:
        total: Number of samples to read; None for a stream.
        is_of_rows: Whether batches were made here, by cutting arrays along their first dimension.
        note: Remark for the user about the selection of samples, available after ``read``; mostly empty.
    """

    def __init__(self, option: str, items: Iterator[Any], limit: int, total: int | None) -> None:
        """Read the first batch. Raises DataError where there is none."""
        self._option, self._items, self._limit, self.total = option, items, limit, total
        self.note = ""
        self._unpack: Unpacking | None = None
        self._names: tuple[str, ...] = ()
        self._structures: tuple[Structure, Structure] | None = None
        self._dims: tuple[int, ...] = ()
        self._is_cut = True
        self._is_narrowed = False
        self.is_of_rows = False
        self._batches: list[Batch] = []
        self._raw: list[Any] = []
        if not self._fetch():
            raise self._empty()

    @property
    def first_item(self) -> Any:
        """The first batch as the person's data gives it."""
        return self._raw[0]

    @property
    def dims(self) -> tuple[int, ...]:
        """Dimension of the samples in every leaf; empty where it is 0 in all."""
        return self._dims

    def unpack_by(self, unpacking: Unpacking, is_narrowed: bool = False) -> None:
        """Take batches apart in this way, where they have these parts; by their form alone otherwise.

        Args:
            unpacking: Which parts are inputs and which are targets.
            is_narrowed: Cast inputs of float64 to float32, which the model's weights are.
        """
        self._unpack = unpacking if unpacking.fits(self.first_item) else by_form(self.first_item)
        self._is_narrowed = is_narrowed
        self._batches, self._structures = [], None

    def lay_out(self, dims: tuple[int, ...], is_cut: bool) -> None:
        """Say where the samples lie in every leaf, and whether batches may be cut."""
        self._dims, self._is_cut = dims, is_cut
        self._batches = [dataclasses.replace(batch, dim=dims[0] if dims else 0) for batch in self._batches]

    def first(self, samples: int = 1) -> Batches:
        """Return the first batches, of at least ``samples`` samples if there are as many."""
        while sum(batch.samples for batch in self._batches) < samples and self._read_one():
            pass
        if not self._batches or not self._batches[0].samples:
            raise self._empty()
        return self._so_far(len(self._batches))

    def read(self, progress: Progress | None = None) -> Batches:
        """Read all batches, up to the limit of samples.

        Raises:
            DataError: Reading failed, or a batch is nested differently from the first.
        """
        samples = self.first().samples
        while samples < self._limit and self._read_one():
            samples += self._batches[-1].samples
            if progress:
                progress(samples, self.total)
        kept = self._so_far(len(self._batches)).head(self._limit)
        # The look before a study may have read more than is kept.
        if self.total is None and (kept.samples < samples or next(self._items, None) is not None):
            self.note = f"{self._option} is a stream of which the first {self._limit} samples were taken (max_samples)"
        return kept

    def _empty(self) -> DataError:
        return DataError(f"{self._option} is empty; give at least one batch of (inputs, targets)")

    def _so_far(self, count: int) -> Batches:
        assert self._structures is not None
        inputs, targets = self._structures
        return Batches(tuple(self._batches[:count]), self._names, inputs, targets, self._dims, self._is_cut)

    def _fetch(self) -> bool:
        try:
            self._raw.append(next(self._items))
        except StopIteration:
            return False
        except DataError:
            raise
        except Exception as error:
            raise DataError(
                f"{self._option} cannot be read at batch {len(self._batches)}: "
                f"{type(error).__name__}: {last_line(error)}"
            ) from error
        return True

    def _read_one(self) -> bool:
        position = len(self._batches)
        if position >= len(self._raw) and not self._fetch():
            return False
        batch, names, structures = self._parsed(self._raw[position])
        if position:
            # Of later batches only the tensors are kept.
            self._raw[position] = None
        if self._structures is None:
            self._names, self._structures = names, structures
        elif structures != self._structures:
            raise DataError(
                f"batch {len(self._batches)} of {self._option} is nested unlike the first batch; "
                "every batch must have the same inputs and targets"
            )
        self._batches.append(batch)
        return True

    def _parsed(self, item: Any) -> tuple[Batch, tuple[str, ...], tuple[Structure, Structure]]:
        unpacking = self._unpack or by_form(item)
        inputs, targets, is_one = unpacking(item)
        if unpacking.is_each:
            inputs = self._stacked(inputs)
        batch, names, structures = _parsed(inputs, targets, self._option, self._is_narrowed)
        if unpacking.is_each:
            structures = {"argument": {"each": structures[0]}}, structures[1]
        elif is_one and isinstance(structures[0], (list, dict)):
            structures = {"argument": structures[0]}, structures[1]
        return dataclasses.replace(batch, dim=self._dims[0] if self._dims else 0), names, structures

    def _stacked(self, inputs: Sequence[Any]) -> Any:
        import torch

        tensors = [_tensor(leaf, self._option, "its inputs") for leaf in inputs]
        if len({tuple(tensor.shape) for tensor in tensors}) > 1:
            found = ", ".join(str(tuple(tensor.shape)) for tensor in tensors[:3])
            raise DataError(
                f"the inputs of a batch of {self._option} differ in size ({found}): give batches of one "
                "(batch_size=1), or resize them"
            )
        return torch.stack(tensors)


def open_source(data: Any, option: str, max_samples: int, seed: int) -> Source:
    """Start reading data, and read its first batch.

    Args:
        data: A DataLoader, a Dataset, an iterable of ``(inputs, targets)`` batches, or a tuple of tensors or arrays.
        option: Name of the data in messages, such as ``--data``.
        max_samples: Largest number of samples to read. Of larger map-style data a seeded selection is drawn, stratified
            by class if the labels can be read without reading all samples.
        seed: Seed of the selection, and of random augmentations during reading.

    Raises:
        DataError: The data cannot be used; one sentence says what is wrong and what was expected.
    """
    import torch

    items: Iterator[Any]
    total: int | None
    data = _without_pandas(data)
    is_of_rows = _is_array(data) or (isinstance(data, tuple) and bool(data) and all(map(_is_array_or_dict, data)))
    if is_of_rows:
        items, total = _from_arrays(data, option, max_samples, seed)
    elif isinstance(data, torch.utils.data.DataLoader):
        items, total = _from_loader(data, max_samples, seed)
    elif isinstance(data, (str, bytes, Mapping)) or data is None:
        raise _unusable(data, option)
    elif isinstance(data, torch.utils.data.IterableDataset):
        items, total = (
            _read_now(torch.utils.data.DataLoader(data, batch_size=_BATCH), max_samples, seed),
            None,
        )
    elif isinstance(data, torch.utils.data.Dataset) or _is_map_style(data) or _is_list_of_samples(data):
        loader = torch.utils.data.DataLoader(data, batch_size=_BATCH)
        items, total = _from_loader(loader, max_samples, seed)
    elif isinstance(data, (list, tuple)):
        items, total = _from_batches(data, option, max_samples, seed)
    elif isinstance(data, Iterable):
        items, total = _read_now(data, max_samples, seed), None
    else:
        raise _unusable(data, option)
    source = Source(option, items, max_samples, total)
    source.is_of_rows = is_of_rows
    return source


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


def _from_arrays(data: Any, option: str, max_samples: int, seed: int) -> tuple[Iterator[Any], int]:
    parts = data if isinstance(data, tuple) else (data,)
    leaves, _ = flatten(parts)
    tensors = [_tensor(leaf, option, name) for name, leaf in leaves]
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
        return _tensor(value, option, "")[list(rows)]

    rows = [chosen[start : start + _BATCH] for start in range(0, len(chosen), _BATCH)]
    items = [tuple(cut(part, some) for part in parts) for some in rows]
    return iter(items), len(chosen)


def _from_batches(items: Sequence[Any], option: str, max_samples: int, seed: int) -> tuple[Iterator[Any], int]:
    """Read batches from a list; of too many samples draw some of each batch, or whole batches if they cannot be cut."""
    import torch

    flat = [flatten(item) for item in items]
    sizes = [_rows(leaves[0][1]) if leaves else 1 for leaves, _ in flat]
    if sum(sizes) <= max_samples:
        return iter(list(items)), sum(sizes)
    if not _can_be_cut([[leaf for _, leaf in leaves] for leaves, _ in flat], sizes):
        drawn = _some_batches(list(items), sizes, max_samples, seed)
        return iter(drawn), min(sum(sizes), max_samples)
    mark = torch.zeros(sum(sizes), dtype=torch.bool)
    mark[list(_chosen(range(sum(sizes)), max_samples, seed, _classes_in(items, option)))] = True
    taken = []
    for (leaves, structure), rows in zip(flat, mark.split(sizes), strict=True):
        if bool(rows.any()):
            kept = rows.nonzero().flatten().tolist()
            taken.append(unflatten(structure, [leaf[kept] for _, leaf in leaves]))
    return iter(taken), max_samples


def _can_be_cut(batches: Sequence[Sequence[Any]], sizes: Sequence[int]) -> bool:
    """Return whether all leaves have one row per sample and the same shape.

    Padded sequences of different lengths are not cut, because shorter batches would train worse.
    """
    if not all(_is_array(leaf) and leaf.ndim for leaves in batches for leaf in leaves):
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
        classes = _as_classes(_tensor(leaves[0][1], option, "target")) if leaves else None
        if classes is None:
            return None
        found.append(classes)
    return torch.cat(found)


def _from_loader(loader: Any, max_samples: int, seed: int) -> tuple[Iterator[Any], int | None]:
    from torch.utils.data import IterableDataset, TensorDataset

    if isinstance(loader.dataset, IterableDataset):
        return _read_now(loader, max_samples, seed), None
    batches = _index_batches(loader, max_samples, seed)
    total = sum(map(len, batches))
    if type(loader.dataset) is TensorDataset:
        # Reading is fast and deterministic: the tensors are copied at once, so that later changes have no effect.
        rows = [loader.dataset[list(batch)] for batch in batches] if _collates_plainly(loader) else None
        if rows is not None:
            return iter(rows), total
    return _in_worker(loader, batches, seed), total


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
    return labels.detach().cpu() if labels.ndim == 1 and is_integer else None


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
        if loader.batch_size is None and loader.batch_sampler is None:
            items = [loader.collate_fn(loader.dataset[index]) for batch in batches for index in batch]
        else:
            items = [loader.collate_fn([loader.dataset[index] for index in batch]) for batch in batches]
    yield from items


def _read_now(batches: Iterable[Any], max_samples: int, seed: int) -> Iterator[Any]:
    items: list[Any] = []
    samples = 0
    with fixed_random_state(seed):
        # A loader of a stream may fork workers of its own.
        with _garbage_left_alone():
            found = iter(batches)
        for item in found:
            items.append(item)
            if samples >= max_samples:
                # One item too many, so that ``Source`` knows that the stream goes on.
                break
            leaves, _ = flatten(item)
            samples += _rows(leaves[0][1]) if leaves else 1
    yield from items


def _rows(leaf: Any) -> int:
    return len(leaf) if hasattr(leaf, "ndim") and leaf.ndim else 1


def _parsed(
    inputs: Any, targets: Any, option: str, is_narrowed: bool
) -> tuple[Batch, tuple[str, ...], tuple[Structure, Structure]]:
    inputs = dict(inputs) if isinstance(inputs, Mapping) else inputs
    input_leaves, input_structure = flatten(inputs, "" if _is_nested(inputs) else "input")
    if not input_leaves:
        raise DataError(f"a batch of {option} has no inputs; a batch is (inputs, targets)")
    found = [_tensor(leaf, option, name).clone() for name, leaf in input_leaves]
    if is_narrowed:
        found = [_narrowed(leaf) for leaf in found]
    batch = Batch(found, [])
    target_leaves, target_structure = _flat_targets(targets, batch.samples, option)
    batch = dataclasses.replace(batch, targets=target_leaves)
    return batch, tuple(name for name, _ in input_leaves), (input_structure, target_structure)


def _narrowed(leaf: Any) -> Any:
    import torch

    return leaf.float() if leaf.dtype == torch.float64 else leaf


def _flat_targets(targets: Any, samples: int, option: str) -> tuple[list[Any], Structure]:
    """Leaves of targets and their structure; of a list with one entry a sample every leaf is a list of tensors."""
    if not _is_one_a_sample(targets, samples):
        leaves, structure = flatten(targets, "target")
        return [_tensor(leaf, option, name).clone() for name, leaf in leaves], structure
    columns: list[list[Any]] = []
    structure = None
    for target in targets:
        leaves, inner = flatten(_as_text(target), "target")
        tensors = [_tensor(leaf, option, name).clone() for name, leaf in leaves]
        marked = _marked_text(target, inner)
        if structure is None:
            structure, columns = marked, [[] for _ in tensors]
        elif marked != structure:
            raise DataError(f"the targets of {option} are nested differently from sample to sample")
        for column, tensor in zip(columns, tensors, strict=True):
            column.append(tensor)
    return columns, {"each": structure}


def _is_one_a_sample(targets: Any, samples: int) -> bool:
    if not isinstance(targets, (list, tuple)) or hasattr(targets, "_fields") or not targets:
        return False
    if any(isinstance(target, (str, Mapping, set)) for target in targets):
        return True
    if not all(_is_array(target) for target in targets):
        return False
    return len(targets) == samples and not all(target.ndim and len(target) == samples for target in targets)


def _as_text(target: Any) -> Any:
    """Strings as their bytes, sets as sorted lists."""
    import numpy

    if isinstance(target, str):
        return numpy.frombuffer(target.encode(), dtype=numpy.uint8)
    if isinstance(target, set):
        return numpy.asarray(sorted(target))
    if isinstance(target, Mapping):
        return {key: _as_text(value) for key, value in target.items()}
    return target


def _marked_text(target: Any, structure: Structure) -> Structure:
    if isinstance(target, str):
        return TEXT
    if isinstance(target, Mapping) and isinstance(structure, dict):
        return {
            **structure,
            "dict": {key: _marked_text(target[key], inner) for key, inner in structure["dict"].items()},
        }
    return structure


def _is_nested(value: Any) -> bool:
    return isinstance(value, (Mapping, tuple, list))


def _tensor(leaf: Any, option: str, name: str) -> Any:
    import numpy
    import torch

    if isinstance(leaf, torch.Tensor):
        return leaf.detach().cpu()
    if isinstance(leaf, (bool, int, float)):
        return torch.tensor(leaf)
    if isinstance(leaf, (numpy.ndarray, numpy.generic)) or hasattr(leaf, "__array__"):
        array = numpy.ascontiguousarray(leaf)
        if array.dtype.kind in "biufc":
            return torch.from_numpy(array.copy())
    raise DataError(
        f"{option} holds a {type(leaf).__name__} at {name or 'its inputs'}; "
        "inputs and targets must be tensors, arrays or numbers (tokenise text, decode images first)"
    )


def _without_pandas(data: Any) -> Any:
    """Return data with arrays in place of data frames and series of pandas."""
    import pandas

    if isinstance(data, (pandas.DataFrame, pandas.Series)):
        return data.to_numpy()
    return tuple(map(_without_pandas, data)) if type(data) is tuple else data


def _is_array(value: Any) -> bool:
    import numpy
    import torch

    return isinstance(value, (torch.Tensor, numpy.ndarray))


def _is_array_or_dict(value: Any) -> bool:
    return _is_array(value) or (isinstance(value, Mapping) and all(map(_is_array, value.values())))


def _is_list_of_samples(data: Any) -> bool:
    """Whether the items of a list are single samples: their labels are one number each."""
    if not isinstance(data, (tuple, list)) or not data or not isinstance(data[0], (tuple, list, Mapping)):
        return False
    label = by_form(data[0])(data[0])[1]
    return isinstance(label, (bool, int, float)) or (_is_array(label) and label.ndim == 0)


def _is_map_style(value: Any) -> bool:
    is_sequence = hasattr(value, "__getitem__") and hasattr(value, "__len__")
    return is_sequence and not isinstance(value, (list, tuple))


def _unusable(data: Any, option: str) -> DataError:
    return DataError(
        f"{option} is a {type(data).__name__}; give a DataLoader, a Dataset, an iterable of "
        "(inputs, targets) batches, or a tuple of tensors or arrays"
    )
