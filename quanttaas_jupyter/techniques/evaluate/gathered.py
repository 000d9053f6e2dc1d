"""Outputs or targets of all batches as one: in memory while they are few, in a mapped file beyond that."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np

from ...bundle.structure import flatten, unflatten
from ...core.failures import StageError

_IN_MEMORY = 64 << 20
"""Bytes above which values are gathered in a file; chosen, not tuned."""


class Gathered:
    """Takes the values of batches, and gives them as one value.

    A tensor that is going to be large is written into a file that is as large as all samples need, and mapped. Lists
    with one item a sample stay lists.
    """

    def __init__(self, metric: str, dim: int, samples: int) -> None:
        """Gather for a metric of this name, over ``samples`` samples that lie in ``dim`` of every tensor."""
        self._metric, self._dim, self._samples = metric, dim, samples
        self._parts: list[Any] = []
        self._columns: list[_Column] | None = None
        self._structure: Any = None
        self.bytes = 0

    def add(self, value: Any) -> None:
        """Take the value of a batch. Raises StageError where it does not fit to those before it."""
        size = bytes_of(value)
        is_first, self.bytes = not self._parts and self._columns is None, self.bytes + size
        if is_first and self._is_going_to_be_large(value, size):
            leaves, self._structure = flatten(value)
            self._columns = [_Column(leaf, self._samples) for _, leaf in leaves]
        if self._columns is None:
            self._parts.append(value)
            return
        for column, (_, leaf) in zip(self._columns, flatten(value)[0], strict=True):
            if not column.takes(leaf):
                raise uneven(self._metric)

    def whole(self) -> Any:
        """Return the values of all batches as one."""
        if self._columns is None:
            return joined(self._parts, self._metric, self._dim)
        return unflatten(self._structure, [column.whole() for column in self._columns])

    def _is_going_to_be_large(self, value: Any, size: int) -> bool:
        import torch

        leaves = [leaf for _, leaf in flatten(value)[0]] if not isinstance(value, list) else []
        if self._dim or not leaves or not all(isinstance(leaf, torch.Tensor) and leaf.ndim for leaf in leaves):
            return False
        rows = {len(leaf) for leaf in leaves}
        return len(rows) == 1 and size * self._samples / max(1, *rows, 1) > _IN_MEMORY


class _Column:
    """One tensor of all samples, in a file that is removed when nobody holds it."""

    def __init__(self, first: Any, samples: int) -> None:
        import torch

        self._filled = 0
        with tempfile.TemporaryFile(prefix="quanttaas-") as file:
            # A mapping outlives the name and the handle of its file.
            shape = (samples, *first.shape[1:])
            mapped = np.memmap(file, np.uint8, "w+", shape=(int(np.prod(shape)) * first.element_size(),))
        self._rows = torch.from_numpy(mapped).view(first.dtype).reshape(shape)

    def takes(self, leaf: Any) -> bool:
        end = self._filled + (len(leaf) if leaf.ndim else 1)
        if end > len(self._rows) or leaf.shape[1:] != self._rows.shape[1:]:
            return False
        self._rows[self._filled : end] = leaf
        self._filled = end
        return True

    def whole(self) -> Any:
        return self._rows[: self._filled]


def joined(parts: list[Any], metric: str, dim: int = 0) -> Any:
    """Return values of batches, whose samples lie in ``dim``, as the value of one.

    Raises:
        StageError: Their shapes do not allow it.
    """
    import torch

    if parts[0] is None:
        return None
    if isinstance(parts[0], list):
        return [item for part in parts for item in part]
    flat = [flatten(part) for part in parts]
    columns = zip(*([leaf for _, leaf in leaves] for leaves, _ in flat), strict=True)
    try:
        leaves = [
            torch.cat(column, dim if column[0].ndim > dim else 0) if column[0].ndim else torch.stack(column)
            for column in map(list, columns)
        ]
    except RuntimeError:
        raise uneven(metric) from None
    return unflatten(flat[0][1], leaves)


def uneven(metric: str) -> StageError:
    """Return the error of a metric that needs everything at once, where batches cannot be joined."""
    return StageError(
        f"metric {metric!r} needs everything at once, and the lengths of batches differ",
        "pad all batches to one length, or let it return one value a sample: it is then called a batch at a time",
    )


def bytes_of(value: Any) -> int:
    """Return the bytes of the tensors and arrays in a value."""
    leaves = value if isinstance(value, list) else [leaf for _, leaf in flatten(value)[0]]
    return sum(int(getattr(leaf, "nbytes", 0)) for leaf in leaves)
