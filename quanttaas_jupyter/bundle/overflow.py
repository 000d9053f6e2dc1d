"""Items that have to be kept for a while: in memory while they are few, in a file of this process beyond that."""

from __future__ import annotations

import pickle
import tempfile
from collections import deque
from collections.abc import Iterator
from typing import IO, Any

from .structure import flatten

_HELD_BYTES = 128 << 20
"""Bytes of tensors and arrays that stay in memory; chosen, not tuned."""


_WRITTEN = object()
"""Stands for an item that lies in the file."""


class Overflow:
    """Keeps items in order; they are yielded once, and forgotten.

    Attributes:
        bytes: Bytes of the tensors and arrays of all items so far.
    """

    def __init__(self) -> None:
        """Keep nothing yet."""
        self._kept: deque[Any] = deque()
        self.bytes = 0
        self._file: IO[bytes] | None = None

    def add(self, item: Any) -> None:
        """Keep an item."""
        self.bytes += _bytes_of(item)
        # An item that cannot be pickled has to stay.
        is_written = self.bytes > _HELD_BYTES and self._write(item)
        self._kept.append(_WRITTEN if is_written else item)

    def __iter__(self) -> Iterator[Any]:
        if self._file is not None:
            self._file.seek(0)
        while self._kept:
            item = self._kept.popleft()
            yield pickle.load(self._file) if item is _WRITTEN and self._file is not None else item
        if self._file is not None:
            self._file.close()

    def _write(self, item: Any) -> bool:
        try:
            data = pickle.dumps(item, protocol=5)
        except Exception:
            return False
        # Removed by the system when it is closed, however this process ends.
        self._file = self._file or tempfile.TemporaryFile(prefix="quanttaas-")  # noqa: SIM115
        self._file.write(data)
        return True


def _bytes_of(item: Any) -> int:
    leaves, _ = flatten(item)
    return sum(int(getattr(leaf, "nbytes", 0)) for _, leaf in leaves)
