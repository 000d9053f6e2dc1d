"""Interface of a store: a flat space of keys with exclusive creation, listing from an offset, and compare-and-swap."""

from __future__ import annotations

import io
import re
import shutil
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

from ..core.errors import QuantTaaSError, Unreadable

T = TypeVar("T")
R = TypeVar("R")

# Called with the bytes sent so far and the total in bytes.
Progress = Callable[[int, int], None]

MOST_BYTES = 32 << 20
"""Most bytes under a key that is no blob, which are read at once; ours stay below some megabytes."""

_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")


class MissingKey(LookupError):
    """The store holds no bytes under this key."""


class Store(ABC):
    """Interface of a store.

    Keys are separated by ``/`` and consist of letters, digits, ``.``, ``_`` and ``-``; no part starts with a dot. All
    methods raise StoreError when the store cannot be reached, read or written.
    """

    uri: str

    def each(self, act: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Apply ``act`` to each item and yield the results in order; a slow store runs several calls at once."""
        return map(act, items)

    @abstractmethod
    def read(self, key: str) -> bytes:
        """Return the bytes under a key.

        Raises:
            MissingKey: The store holds nothing under this key.
            Unreadable: It is no plain file, or larger than ``most_bytes``.
        """

    def read_if_there(self, key: str) -> bytes | None:
        """Return the bytes under a key, or None if there are none."""
        try:
            return self.read(key)
        except MissingKey:
            return None

    def quarantine(self, key: str) -> None:
        """Move a damaged key below ``damaged/``, so that it can be written again; a missing one is no error."""
        data = self.read_if_there(key)
        if data is not None:
            self.replace(quarantined(key), data)
            self.delete(key)

    @abstractmethod
    def create(self, key: str, data: bytes) -> bool:
        """Write a key that does not exist yet, whole or not at all.

        Returns:
            True if the key was created, or if it already holds these bytes (from an earlier attempt); False if it holds
            other bytes.
        """

    @abstractmethod
    def replace(self, key: str, data: bytes) -> None:
        """Write a key, whole or not at all, and overwrite what it held."""

    @abstractmethod
    def swap(self, key: str, data: bytes, expected: bytes | None) -> bool:
        """Write a key if it holds ``expected`` (None: if it does not exist), and return whether it was written."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove a key; a missing key is no error."""

    @abstractmethod
    def list(self, prefix: str, after: str = "") -> Iterator[str]:
        """Yield the names of keys and folders directly under ``prefix`` that sort after ``after``, in sorted order."""

    @abstractmethod
    def walk(self, prefix: str) -> Iterator[str]:
        """Yield all keys under ``prefix``, at any depth."""

    @abstractmethod
    def size(self, key: str) -> int | None:
        """Return the number of bytes under a key, or None if the key does not exist."""

    @abstractmethod
    def age(self, key: str) -> float | None:
        """Return the seconds since a key was written or touched, or None if the key does not exist."""

    @abstractmethod
    def folder_size(self, prefix: str) -> int:
        """Return the total number of bytes under all keys below ``prefix``."""

    def size_in_use(self, key: str, seconds: float) -> int | None:
        """Return the number of bytes under a key as ``size`` does, and touch it if it is older than ``seconds``."""
        age = self.age(key)
        if age is not None and age > seconds:
            self.touch(key)
        return self.size(key)

    def stamp(self, key: str) -> str | None:
        """Return a string that changes whenever the bytes under a key change; an empty one if the key does not exist.

        Returns None in stores that could not tell without a request as expensive as reading the key.
        """
        return None

    @abstractmethod
    def touch(self, key: str) -> None:
        """Set the age of a key to zero, so that ``sweep`` keeps it."""

    @abstractmethod
    def create_from(self, key: str, source: Path | bytes, progress: Progress | None = None) -> bool:
        """Write a file or bytes of any size under a key; an existing key is left unchanged and counts as created.

        Args:
            key: The key.
            source: A file, or the bytes themselves; neither is copied in memory.
            progress: Called with the bytes sent and the total in bytes; a restarted upload begins at 0 again.
        """

    @property
    def scratch(self) -> Path:
        """Folder of this machine for files on their way into the store; it may not exist yet."""
        return Path(tempfile.gettempdir())

    def adopt(self, key: str, path: Path, progress: Progress | None = None) -> bool:
        """Write a file under a key as ``create_from`` does; nobody may change the file from then on."""
        return self.create_from(key, path, progress)

    @abstractmethod
    def as_file(self, key: str) -> AbstractContextManager[Path]:
        """Return a context manager that yields the bytes under a key as a read-only local file.

        Raises:
            MissingKey: The store holds nothing under this key.
        """

    def download(self, key: str, path: Path) -> None:
        """Write the bytes under a key to a local file.

        Raises:
            MissingKey: The store holds nothing under this key.
        """
        with self.as_file(key) as source:
            shutil.copyfile(source, path)


def quarantined(key: str) -> str:
    """Return a key below ``damaged/`` for a damaged one."""
    return f"damaged/{key.rpartition('/')[2]}-{time.time_ns()}"


def most_bytes(key: str) -> int | None:
    """Return the most bytes that are read at once under a key; None for blobs, which may have any size."""
    return None if key.startswith("blobs/") else MOST_BYTES


def too_large(key: str) -> Unreadable:
    """Return the error of a key that holds more than ``most_bytes``."""
    return Unreadable(f"{key} is larger than {MOST_BYTES >> 20} MiB, which nothing of ours is")


class Together:
    """Sum of the progress of several concurrent uploads; ``total`` is the sum of their sizes in bytes."""

    def __init__(self, total: int, progress: Progress) -> None:
        self._total, self._progress = total, progress
        self._done = 0
        self._lock = threading.Lock()

    def part(self) -> Progress:
        """Return a progress callback for one of the uploads."""
        before = 0

        def report(done: int, _: int) -> None:
            nonlocal before
            with self._lock:
                self._done += done - before
                before = done
                self._progress(min(self._done, self._total), self._total)

        return report


class Counted:
    """Readable stream that calls ``progress`` with the number of bytes read."""

    def __init__(self, stream: BinaryIO, total: int, progress: Progress | None) -> None:
        self._stream, self._total, self._progress = stream, total, progress

    def read(self, size: int = -1) -> bytes:
        """Report the current position, then read; a client asks for more only after it has sent the previous bytes."""
        if self._progress is not None:
            self._progress(self._stream.tell(), self._total)
        return self._stream.read(size)

    def tell(self) -> int:
        """Return the position in the stream."""
        return self._stream.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position in the stream, and return it."""
        return self._stream.seek(offset, whence)


@contextmanager
def opened(source: Path | bytes) -> Iterator[tuple[BinaryIO, int]]:
    """Open a file or bytes as a stream, and yield it with its size in bytes; bytes are not copied."""
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as stream:
        total = stream.seek(0, io.SEEK_END)
        stream.seek(0)
        yield stream, total


def is_key(key: str) -> bool:
    """Return whether a key has the form that ``Store`` describes."""
    return _KEY.fullmatch(key) is not None


def checked_key(key: str) -> str:
    """Return the key if it is valid.

    Raises:
        QuantTaaSError: The key does not have the form that ``Store`` describes.
    """
    if not is_key(key):
        raise QuantTaaSError(f"{key!r} is no valid key of a store: use letters, digits, '.', '_', '-' and '/'")
    return key
