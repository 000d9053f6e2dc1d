"""A user's evaluation or training data on its way to ``Batches``: which parts a batch has, and how far it is read."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.errors import DataError
from ..core.failures import last_line
from .batches import Batch, Batches
from .parsing import as_tensor, is_array, parsed_batch, stacked
from .reading import BATCH, collated_rows, from_arrays, from_batches, from_loader, read_now
from .shards import Spool
from .structure import Structure
from .unpacking import Unpacking, by_form

Progress = Callable[[int, "int | None"], None]


class Source:
    """Data being read: the first batch is available at once, ``read`` reads the rest.

    Attributes:
        total: Number of samples to read; None for a stream.
        is_of_rows: Whether batches were made here, by cutting arrays along their first dimension.
        is_batched_here: Whether the data are single samples, of which batches are made here.
        is_drawn: Whether rows of the person's batches were drawn along their first dimension.
        note: Remark for the user about the selection of samples, available after ``read``; mostly empty.
    """

    def __init__(
        self, option: str, items: Iterator[Any], limit: int, total: int | None, most_bytes: int | None = None
    ) -> None:
        """Read the first batch; ``read`` stops at ``limit`` samples, or where it has ``most_bytes`` bytes.

        Raises:
            DataError: There is no batch.
        """
        self._option, self._items, self._limit, self.total = option, items, limit, total
        self._most_bytes = most_bytes
        self.note = ""
        self._unpack: Unpacking | None = None
        self._names: tuple[str, ...] = ()
        self._structures: tuple[Structure, Structure] | None = None
        self._dims: tuple[int, ...] = ()
        self._is_cut = True
        self._is_narrowed = False
        self.is_of_rows = self.is_batched_here = self.is_drawn = False
        self._batches: list[Batch] = []
        self._raw: list[Any] = []
        self._position = 0
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
        self._batches, self._structures, self._position = [], None, 0

    def lay_out(self, dims: tuple[int, ...], is_cut: bool) -> None:
        """Say where the samples lie in every leaf, and whether batches may be cut."""
        self._dims, self._is_cut = dims, is_cut
        self._batches = [dataclasses.replace(batch, dim=dims[0] if dims else 0) for batch in self._batches]

    def first(self, samples: int = 1) -> Batches:
        """Return the first batches, of at least ``samples`` samples if there are as many."""
        while sum(batch.samples for batch in self._batches) < samples and (batch := self._next()) is not None:
            self._batches.append(batch)
        if not self._batches or not self._batches[0].samples:
            raise self._empty()
        return self._so_far(len(self._batches))

    def read(self, progress: Progress | None = None, scratch: Path | None = None) -> Batches:
        """Read all batches, up to the limit of samples; what does not fit into one shard lies in files meanwhile.

        Args:
            progress: Called with the samples so far, and their number in all if that is known.
            scratch: Folder for these files, by default the system's.

        Raises:
            DataError: Reading failed, or a batch is nested differently from the first.
        """
        first = self.first()
        samples, size = first.samples, first.bytes
        spool = Spool(scratch, self._so_far(0))
        for known in self._batches:
            spool.add(known)
        self._batches = self._batches[:1]
        while samples < self._limit and not self._is_full(size) and (batch := self._next()) is not None:
            spool.add(batch)
            samples, size = samples + batch.samples, size + batch.bytes
            if progress:
                progress(samples, self.total)
        kept = spool.batches().head(self._limit)
        # The look before a study may have read more than is kept.
        if self.total is None and (kept.samples < samples or next(self._items, None) is not None):
            limit = "max_bytes" if self._is_full(size) else "max_samples"
            self.note = f"{self._option} is a stream of which the first {kept.samples} samples were taken ({limit})"
        return kept

    def _is_full(self, size: int) -> bool:
        return self._most_bytes is not None and size >= self._most_bytes

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
                f"{self._option} cannot be read at batch {len(self._raw)}: {type(error).__name__}: {last_line(error)}"
            ) from error
        return True

    def _next(self) -> Batch | None:
        """Return the next batch with samples: a filter of the person's may leave some without."""
        while (batch := self._next_of_any()) is not None and not batch.samples:
            if self._position == 1:
                # The first item tells how all are taken apart.
                self._raw.pop(0)
                self._position = 0
        return batch

    def _next_of_any(self) -> Batch | None:
        position = self._position
        if position >= len(self._raw) and not self._fetch():
            return None
        batch, names, structures = self._parsed(self._raw[position])
        if position:
            # Of later batches only the tensors are kept.
            self._raw[position] = None
        if self._structures is None:
            self._names, self._structures = names, structures
        elif structures != self._structures:
            raise DataError(
                f"batch {position} of {self._option} is nested unlike the first batch; "
                "every batch must have the same inputs and targets"
            )
        self._position += 1
        return batch

    def _parsed(self, item: Any) -> tuple[Batch, tuple[str, ...], tuple[Structure, Structure]]:
        unpacking = self._unpack or by_form(item)
        inputs, targets, is_one = unpacking(item)
        if unpacking.is_each:
            inputs = self._stacked(inputs)
        batch, names, structures = parsed_batch(inputs, targets, self._option, self._is_narrowed)
        if unpacking.is_each:
            structures = {"argument": {"each": structures[0]}}, structures[1]
        elif is_one and isinstance(structures[0], (list, dict)):
            structures = {"argument": structures[0]}, structures[1]
        return dataclasses.replace(batch, dim=self._dims[0] if self._dims else 0), names, structures

    def _stacked(self, inputs: Sequence[Any]) -> Any:
        import torch

        tensors = [as_tensor(leaf, self._option, "its inputs") for leaf in inputs]
        if len({tuple(tensor.shape) for tensor in tensors}) > 1:
            found = ", ".join(str(tuple(tensor.shape)) for tensor in tensors[:3])
            raise DataError(
                f"the inputs of a batch of {self._option} differ in size ({found}): give batches of one "
                "(batch_size=1), or resize them"
            )
        return torch.stack(tensors)


def open_source(data: Any, option: str, max_samples: int, seed: int, max_bytes: int | None = None) -> Source:
    """Start reading data, and read its first batch; a note tells where a limit cut.

    Args:
        data: A DataLoader, a Dataset, an iterable of ``(inputs, targets)`` batches, or a tuple of tensors or arrays.
        option: Name of the data in messages, such as ``--data``.
        max_samples: Largest number of samples to read. Of larger map-style data a seeded selection is drawn, stratified
            by class if the labels can be read without reading all samples.
        seed: Seed of the selection, and of random augmentations during reading.
        max_bytes: Largest number of bytes to read, if there is a limit.

    Raises:
        DataError: The data cannot be used; one sentence says what is wrong and what was expected.
    """
    source = _opened(data, option, max_samples, seed, max_bytes)
    fitting = max_samples if max_bytes is None else max(1, int(max_bytes / _bytes_of_one(source)))
    if source.total is None or min(source.total, max_samples) <= fitting:
        return source
    found, source = source, _opened(data, option, fitting, seed, max_bytes)
    source.note = f"{option}: {fitting} of {found.total} samples were taken, as many as max_bytes allows"
    return source


def _bytes_of_one(source: Source) -> float:
    """Return the bytes of a sample of the first batch; 1 if it cannot be taken apart yet."""
    try:
        first = source.first()
    except DataError:
        return 1.0
    return max(1.0, first.bytes / first.samples)


def _opened(data: Any, option: str, max_samples: int, seed: int, max_bytes: int | None) -> Source:
    import torch

    items: Iterator[Any]
    total: int | None
    is_drawn = is_batched_here = False
    data = _without_pandas(data)
    if type(data) is tuple and any(map(is_array, data)):
        data = stacked(data)
    _refuse_columns(data, option)
    is_of_rows = is_array(data) or (isinstance(data, tuple) and bool(data) and all(map(_is_array_or_dict, data)))
    if is_of_rows:
        items, total = from_arrays(data, option, max_samples, seed)
    elif isinstance(data, torch.utils.data.DataLoader):
        items, total = from_loader(data, max_samples, seed, max_bytes)
    elif isinstance(data, (str, bytes, Mapping)) or data is None:
        raise _unusable(data, option)
    elif isinstance(data, torch.utils.data.IterableDataset):
        items, total = (
            read_now(torch.utils.data.DataLoader(data, batch_size=BATCH), max_samples, seed, max_bytes),
            None,
        )
    elif isinstance(data, torch.utils.data.Dataset) or _is_map_style(data) or _is_list_of_samples(data):
        is_batched_here = True
        collate = None if type(data) is torch.utils.data.TensorDataset else collated_rows
        loader = torch.utils.data.DataLoader(data, batch_size=BATCH, collate_fn=collate)
        items, total = from_loader(loader, max_samples, seed, max_bytes)
    elif isinstance(data, (list, tuple)):
        items, total, is_drawn = from_batches(data, option, max_samples, seed)
    elif isinstance(data, Iterable):
        items, total = read_now(data, max_samples, seed, max_bytes), None
    else:
        raise _unusable(data, option)
    source = Source(option, items, max_samples, total, max_bytes if total is None else None)
    source.is_of_rows, source.is_drawn = is_of_rows, is_drawn
    source.is_batched_here = is_of_rows or is_batched_here
    return source


def _refuse_columns(data: Any, option: str) -> None:
    """Raise DataError for [X, y]: a list holds batches, and these two would be two of them."""
    if type(data) is not list or len(data) != 2:
        return
    shapes = [tuple(value.shape) if is_array(value) else (len(value),) for value in data if hasattr(value, "__len__")]
    if not is_array(data[0]) or len(shapes) < 2 or len(shapes[0]) == 0 or shapes[0][:1] != shapes[1][:1]:
        return
    if len(shapes[1]) < len(shapes[0]):
        raise DataError(
            f"{option} is a list of inputs and targets of shapes {shapes[0]} and {shapes[1]}, but a list holds "
            "batches: give a tuple of tensors (inputs, targets)"
        )


def _without_pandas(data: Any) -> Any:
    """Return data with arrays in place of data frames and series of pandas."""
    # Who gives a data frame has imported pandas; importing it takes half a second.
    pandas = sys.modules.get("pandas")
    if pandas is None:
        return data
    if isinstance(data, (pandas.DataFrame, pandas.Series)):
        return data.to_numpy()
    return tuple(map(_without_pandas, data)) if type(data) is tuple else data


def _is_array_or_dict(value: Any) -> bool:
    return is_array(value) or (isinstance(value, Mapping) and all(map(is_array, value.values())))


def _is_list_of_samples(data: Any) -> bool:
    """Whether the items of a list are single samples: their labels are one number each."""
    if not isinstance(data, (tuple, list)) or not data or not isinstance(data[0], (tuple, list, Mapping)):
        return False
    label = by_form(data[0])(data[0])[1]
    return isinstance(label, (bool, int, float)) or (is_array(label) and label.ndim == 0)


def _is_map_style(value: Any) -> bool:
    is_sequence = hasattr(value, "__getitem__") and hasattr(value, "__len__")
    return is_sequence and not isinstance(value, (list, tuple))


def _unusable(data: Any, option: str) -> DataError:
    return DataError(
        f"{option} is a {type(data).__name__}; give a DataLoader, a Dataset, an iterable of "
        "(inputs, targets) batches, or a tuple of tensors or arrays"
    )
