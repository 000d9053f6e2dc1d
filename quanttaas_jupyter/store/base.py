"""Where bytes live: a flat space of keys with exclusive creation, listing from an offset and one compare-and-swap."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from ..errors import QuantTaaSError

_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")


class MissingKey(LookupError):
    """Nothing is stored under this key."""


class Store(ABC):
    """A store. Keys are ``/``-separated, of letters, digits, ``.``, ``_`` and ``-``; no part starts with a dot."""

    uri: str

    @abstractmethod
    def read(self, key: str) -> bytes:
        """The bytes under a key. Raises MissingKey, StoreError."""

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
    def touch(self, key: str) -> None:
        """Make a key young again, so that a sweep leaves it."""

    @abstractmethod
    def create_from(self, key: str, path: Path) -> bool:
        """Like ``create`` for a file of any size; an existing key is left as it is and counts as created."""

    @abstractmethod
    def as_file(self, key: str) -> AbstractContextManager[Path]:
        """The bytes under a key as a read-only file on this machine. Raises MissingKey, StoreError."""


def checked_key(key: str) -> str:
    """The key itself if it is of the strict form above; a QuantTaaSError otherwise."""
    if not _KEY.fullmatch(key):
        raise QuantTaaSError(f"{key!r} is no valid key of a store: use letters, digits, '.', '_', '-' and '/'")
    return key
