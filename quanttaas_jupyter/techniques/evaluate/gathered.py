"""Outputs or targets of all batches as one: in memory while they are few, in a mapped file beyond that."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Any

import numpy as np

from ...bundle.structure import flatten, unflatten
from ...core.failures import StageError

if TYPE_CHECKING:
    from torch import Tensor

_IN_MEMORY = 64 << 20
"""Bytes above which values are written to a file; chosen, not tuned."""


class Gathered:
    """Takes the values of batches, and gives them as one value.

    Tensors beyond some bytes are written to files, one after the other, and mapped at the end. Lists with one item a
    sample, and tensors whose samples lie in a later dimension, stay in memory.
    """

    def __init__(self, metric: str, dim: int) -> None:
        """Gather for a metric of this name; samples lie in ``dim`` of every tensor."""
        self._metric, self._dim = metric, dim
        self._parts: list[Any] = []
        self._structure: Any = None
        self._columns: list[_Column] = []
        self.bytes = 0

    def add(self, value: Any) -> None:
        """Take the value of a batch. Raises StageError where it does not fit to those before it."""
        self._parts.append(value)
        self.bytes += bytes_of(value)
        if self._columns or (self.bytes > _IN_MEMORY and not self._dim and _has_rows(value)):
            self._write()

    def whole(self) -> Any:
        """Return the values of all batches as one."""
        if not self._columns:
            return joined(self._parts, self._metric, self._dim)
        return unflatten(self._structure, [column.whole() for column in self._columns])

    def _write(self) -> None:
        for part in self._parts:
            leaves, structure = flatten(part)
            if not self._columns:
                self._structure, self._columns = structure, [_Column(leaf) for _, leaf in leaves]
            if structure != self._structure or not all(
                column.takes(leaf) for column, (_, leaf) in zip(self._columns, leaves, strict=True)
            ):
                raise uneven(self._metric)
        self._parts = []


class _Column:
    """One tensor of all samples, in a file that is removed when nobody holds it."""

    def __init__(self, first: Tensor) -> None:
        self._dtype, self._shape, self._rows = first.dtype, first.shape[1:], 0
        # Removed by the system when it is closed, however this process ends.
        self._file = tempfile.TemporaryFile(prefix="quanttaas-")  # noqa: SIM115

    def takes(self, leaf: Tensor) -> bool:
        import torch

        if not leaf.ndim or leaf.dtype != self._dtype or leaf.shape[1:] != self._shape:
            return False
        # A copy: a single element counts as contiguous whatever its stride is, and would keep that.
        values = leaf.detach().reshape(-1).clone(memory_format=torch.contiguous_format)
        self._file.write(values.view(torch.uint8).numpy().data)
        self._rows += len(leaf)
        return True

    def whole(self) -> Tensor:
        import torch

        self._file.flush()
        # A mapping outlives the name and the handle of its file.
        mapped = np.memmap(self._file, np.uint8, "c")
        return torch.from_numpy(mapped).view(self._dtype).reshape(self._rows, *self._shape)


def _has_rows(value: Any) -> bool:
    import torch

    leaves = [] if isinstance(value, list) else [leaf for _, leaf in flatten(value)[0]]
    return bool(leaves) and all(isinstance(leaf, torch.Tensor) and leaf.ndim and leaf.numel() for leaf in leaves)


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
