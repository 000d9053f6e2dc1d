"""Blobs: immutable bytes, named by their SHA-256 digest and shared between studies."""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager
from pathlib import Path

from .base import Progress, Store

_CHUNK = 1 << 20
"""Bytes read at once while a file is hashed; chosen, not tuned."""
_SMALL = 8 << 20
"""Bytes up to which a blob is sent in one request, larger ones in chunks; equal to ``gcs.CHUNK``."""


def put_file(store: Store, path: Path, progress: Progress | None = None) -> str:
    """Store a file, unless the store already has its bytes, and return its SHA-256 digest."""
    sha = _digest_of(path)
    store.create_from(_key(sha), path, progress)
    return sha


def give_file(store: Store, path: Path, progress: Progress | None = None) -> str:
    """Store a file that nobody changes from then on, as ``put_file`` does; a local store links it."""
    sha = _digest_of(path)
    store.adopt(_key(sha), path, progress)
    return sha


def put_bytes(store: Store, data: bytes, progress: Progress | None = None) -> str:
    """Store bytes, unless the store already has them, and return their SHA-256 digest."""
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
    """Return the bytes of a blob.

    Raises:
        MissingKey: The store does not hold the blob.
    """
    return store.read(_key(sha))


def blob_file(store: Store, sha: str) -> AbstractContextManager[Path]:
    """Return a context manager that yields a blob as a read-only local file.

    Raises:
        MissingKey: The store does not hold the blob.
    """
    return store.as_file(_key(sha))


def has_blob(store: Store, sha: str) -> bool:
    """Return whether the store holds a blob."""
    return store.size(_key(sha)) is not None


def _digest_of(path: Path) -> str:
    sha = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            sha.update(chunk)
    return sha.hexdigest()


def _key(sha: str) -> str:
    return f"blobs/{sha}"
