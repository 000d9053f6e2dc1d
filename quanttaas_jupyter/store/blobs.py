"""Blobs: immutable bytes, named by their SHA-256 digest and shared between studies."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from ..core.errors import DamagedBlob, StoreError
from . import verified
from .base import MissingKey, Progress, Store

_USE_SECONDS = 12 * 3600.0
"""Age in seconds at which a blob in use is touched: half of the grace of ``study_store.deletion``."""
_EMPTY = hashlib.sha256().hexdigest()
_SMALL = 8 << 20
"""Bytes up to which a blob is sent in one request, larger ones in chunks; equal to ``gcs.CHUNK``."""


def put_file(store: Store, path: Path, progress: Progress | None = None) -> str:
    """Store a file, unless the store already has its bytes, and return its SHA-256 digest."""
    sha = verified.digest_of(path)
    store.create_from(_key(sha), path, progress)
    return sha


def give_file(store: Store, path: Path, progress: Progress | None = None) -> str:
    """Store a file that nobody changes from then on, as ``put_file`` does; a local store links it."""
    sha = verified.digest_of(path)
    store.adopt(_key(sha), path, progress)
    return sha


def put_bytes(store: Store, data: bytes, progress: Progress | None = None) -> str:
    """Store bytes, unless the store already has them, and return their SHA-256 digest."""
    name = hashlib.sha256(data).hexdigest()
    if len(data) > _SMALL:
        store.create_from(_key(name), data, progress)
        return name
    present = store.size(_key(name))
    if present is not None and present != len(data):
        store.quarantine(_key(name))
        present = None
    if present is None:
        store.create(_key(name), data)
    else:
        store.touch(_key(name))
    if progress is not None:
        progress(len(data), len(data))
    return name


def get_bytes(store: Store, sha: str) -> bytes:
    """Return the bytes of a blob, which match its name.

    Raises:
        MissingKey: The store does not hold the blob.
        DamagedBlob: The bytes do not match its name.
    """
    with _healed(store, sha):
        data = store.read(_key(sha))
        if hashlib.sha256(data).hexdigest() != sha:
            raise DamagedBlob(sha)
    return data


def blob_file(store: Store, sha: str) -> AbstractContextManager[Path]:
    """Return a context manager that yields a blob as a read-only local file, whose bytes match its name.

    Entering it reads a file that this process has not read before. A file that others could change after that is copied
    first.

    Raises:
        MissingKey: The store does not hold the blob.
        DamagedBlob: The bytes do not match its name.
    """
    # Not in the context: a missing blob is told at once.
    try:
        file = store.as_file(_key(sha))
    except MissingKey:
        _tell_damage(store, sha)
        raise
    return _verified_file(store, sha, file)


@contextmanager
def _verified_file(store: Store, sha: str, file: AbstractContextManager[Path]) -> Iterator[Path]:
    with ExitStack() as stack:
        with _healed(store, sha):
            path = stack.enter_context(file)
            if verified.can_change(path):
                path = stack.enter_context(verified.private_copy(path))
            if not verified.is_verified(path, sha):
                raise DamagedBlob(sha)
        yield path


@contextmanager
def _healed(store: Store, sha: str) -> Iterator[None]:
    """Move a blob away that turns out to be damaged, so that it can be written again, and say so."""
    try:
        yield
    except MissingKey:
        _tell_damage(store, sha)
        raise
    except DamagedBlob:
        try:
            store.quarantine(_key(sha))
        except StoreError as error:
            raise _damaged(store, sha, f"it could not be set aside ({error})") from None
        raise _damaged(store, sha) from None


def _tell_damage(store: Store, sha: str) -> None:
    """Raise DamagedBlob if a missing blob was set aside earlier, and not made again since."""
    if next(iter(store.list("damaged", after=f"{sha}-")), "").startswith(f"{sha}-"):
        raise _damaged(store, sha)


def _damaged(store: Store, sha: str, where: str = "it was set aside") -> DamagedBlob:
    return DamagedBlob(
        f"blob {sha[:12]} of the store {store.uri} is damaged: its bytes do not match its name; {where}. "
        "Submitting or resuming the study makes it again"
    )


def has_blob(store: Store, sha: str) -> bool:
    """Return whether the store holds a blob, and keep a sweep from taking it for long enough to use it.

    An empty file is what a crash left, unless the blob is empty.
    """
    size = store.size_in_use(_key(sha), _USE_SECONDS)
    return size is not None and (size > 0 or sha == _EMPTY)


def _key(sha: str) -> str:
    return f"blobs/{sha}"
