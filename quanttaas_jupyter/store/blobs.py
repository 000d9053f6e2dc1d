"""Immutable blobs, named by the SHA-256 of their bytes and shared between studies."""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager
from pathlib import Path

from .base import Progress, Store

_CHUNK = 1 << 20
# What is bigger is sent in chunks.
_SMALL = 8 << 20


def put_file(store: Store, path: Path, progress: Progress | None = None) -> str:
    """Store a file; returns its SHA-256. What the store has is not sent again."""
    sha = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            sha.update(chunk)
    store.create_from(_key(sha.hexdigest()), path, progress)
    return sha.hexdigest()


def put_bytes(store: Store, data: bytes, progress: Progress | None = None) -> str:
    """Store bytes; returns their SHA-256. What the store has is not sent again."""
    name = hashlib.sha256(data).hexdigest()
    if len(data) > _SMALL:
        store.create_from(_key(name), data, progress)
        return name
    if store.size(_key(name)) is None:
        store.create(_key(name), data)
    else:
        store.touch(_key(name))
    if progress is not None:
        progress(len(data), len(data))
    return name


def get_bytes(store: Store, sha: str) -> bytes:
    """The bytes of a blob. Raises MissingKey."""
    return store.read(_key(sha))


def blob_file(store: Store, sha: str) -> AbstractContextManager[Path]:
    """A blob as a read-only file on this machine. Raises MissingKey."""
    return store.as_file(_key(sha))


def has_blob(store: Store, sha: str) -> bool:
    """Whether the store holds the blob."""
    return store.size(_key(sha)) is not None


def _key(sha: str) -> str:
    return f"blobs/{sha}"
