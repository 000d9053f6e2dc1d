"""Where bytes live: a flat space of keys with exclusive creation, listing from an offset and one compare-and-swap."""

from __future__ import annotations

import io
import re
import shutil
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

from ..core.errors import QuantTaaSError

T = TypeVar("T")
R = TypeVar("R")

# Bytes sent, bytes in all.
Progress = Callable[[int, int], None]

_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")


class MissingKey(LookupError):
    """Nothing is stored under this key."""


class Store(ABC):
    """A store. Keys are ``/``-separated, of letters, digits, ``.``, ``_`` and ``-``; no part starts with a dot."""

    uri: str

    def each(self, act: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """What ``act`` gives for every item, in order; several at once where the store answers slowly."""
        return map(act, items)

    @abstractmethod
    def read(self, key: str) -> bytes:
        """The bytes under a key. Raises MissingKey, StoreError."""

    def read_if_there(self, key: str) -> bytes | None:
        """The bytes under a key, or None. Raises StoreError."""
        try:
            return self.read(key)
        except MissingKey:
            return None

    @abstractmethod
    def create(self, key: str, data: bytes) -> bool:
        """Write a key that does not exist yet, whole or not at all.

        Returns:
            True if it was created, or holds these very bytes already (an earlier try of ours came through);
            False if it holds something else.
        """

    @abstractmethod
    def replace(self, key: str, data: bytes) -> None:
        """Write a key, whole or not at all, whatever it held."""

    @abstractmethod
    def swap(self, key: str, data: bytes, expected: bytes | None) -> bool:
        """Write a key only while it holds ``expected`` (None: while it does not exist); whether it was written."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove a key; removing what is not there is no error."""

    @abstractmethod
    def list(self, prefix: str, after: str = "") -> Iterator[str]:
        """Names directly under ``prefix`` (keys and folders) that sort behind ``after``, in order."""

    @abstractmethod
    def walk(self, prefix: str) -> Iterator[str]:
        """All keys under ``prefix``, at any depth."""

    @abstractmethod
    def size(self, key: str) -> int | None:
        """Bytes under a key, or None where nothing is stored."""

    @abstractmethod
    def age(self, key: str) -> float | None:
        """Seconds since a key was written, or None where nothing is stored."""

    @abstractmethod
    def weight(self, prefix: str) -> int:
        """Bytes under all keys below ``prefix``."""

    def stamp(self, key: str) -> str | None:
        """What changes whenever the bytes under a key do: empty where nothing is stored, None where only reading tells.

        Stores for which it would cost as much as reading do not tell.
        """
        return None

    @abstractmethod
    def touch(self, key: str) -> None:
        """Make a key young again, so that a sweep leaves it."""

    @abstractmethod
    def create_from(self, key: str, source: Path | bytes, progress: Progress | None = None) -> bool:
        """Like ``create`` for a file or bytes of any size; an existing key is left as it is and counts as created.

        Args:
            key: The key.
            source: A file, or the bytes themselves; neither is copied in memory.
            progress: Called with bytes sent and bytes in all; an upload that begins anew starts at 0 again.
        """

    @abstractmethod
    def as_file(self, key: str) -> AbstractContextManager[Path]:
        """The bytes under a key as a read-only file on this machine. Raises MissingKey, StoreError."""

    def download(self, key: str, path: Path) -> None:
        """Write the bytes under a key to a file. Raises MissingKey, StoreError."""
        with self.as_file(key) as source:
            shutil.copyfile(source, path)


class Together:
    """The progress of several uploads at once, told as one; ``total`` is what they come to in bytes."""

    def __init__(self, total: int, progress: Progress) -> None:
        self._total, self._progress = total, progress
        self._done = 0
        self._lock = threading.Lock()

    def part(self) -> Progress:
        """What one of the uploads tells."""
        before = 0

        def tell(done: int, _: int) -> None:
            nonlocal before
            with self._lock:
                self._done += done - before
                before = done
                self._progress(min(self._done, self._total), self._total)

        return tell


class Counted:
    """A stream that tells ``progress`` how far it was read."""

    def __init__(self, stream: BinaryIO, total: int, progress: Progress | None) -> None:
        self._stream, self._total, self._progress = stream, total, progress

    def read(self, size: int = -1) -> bytes:
        """Whoever asks for more has sent what he got before."""
        if self._progress is not None:
            self._progress(self._stream.tell(), self._total)
        return self._stream.read(size)

    def tell(self) -> int:
        """Where the stream stands."""
        return self._stream.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the stream."""
        return self._stream.seek(offset, whence)


@contextmanager
def opened(source: Path | bytes) -> Iterator[tuple[BinaryIO, int]]:
    """A file or bytes as a stream, with its size; bytes are not copied."""
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as stream:
        total = stream.seek(0, io.SEEK_END)
        stream.seek(0)
        yield stream, total


def checked_key(key: str) -> str:
    """The key itself if it is of the strict form above; a QuantTaaSError otherwise."""
    if not _KEY.fullmatch(key):
        raise QuantTaaSError(f"{key!r} is no valid key of a store: use letters, digits, '.', '_', '-' and '/'")
    return key
