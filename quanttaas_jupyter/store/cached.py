"""Local cache of blobs in front of a remote store."""

from __future__ import annotations

import hashlib
import io
import os
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock

from ..core.errors import DamagedBlob, StoreError
from . import verified
from .base import MissingKey, Progress, R, Store, T, opened

BOUND = 20 * 10**9
"""Bytes of blobs that the cache keeps; chosen, not tuned. A smaller bound causes more downloads."""
YOUNG_SECONDS = 300.0
"""Seconds since the last use, known to the half of it, in which a blob is not evicted; chosen, not tuned."""

_BLOB = re.compile(r"blobs/([0-9a-f]{64})")
_LOCKS = ".locks"
_TEMPORARY = ".tmp"
_ABANDONED_SECONDS = 24 * 3600.0
"""Seconds after which a temporary file is taken for the leftover of a killed process; longer than any download."""
_CHUNK = 1 << 20
"""Bytes copied or hashed at once; chosen, not tuned."""


class CachedStore(Store):
    """Store that reads blobs from a local folder and passes all other calls on to another store.

    Blobs never change, so a copy in the folder is never stale. Several processes may share the folder, and it may be
    deleted at any time. A folder that cannot be written only costs speed.

    Args:
        inner: The store itself.
        folder: Folder for the copies of blobs.
        bound: Bytes in the folder above which the least recently used blobs are evicted.
    """

    def __init__(self, inner: Store, folder: Path, bound: int = BOUND) -> None:
        self.inner, self.folder, self.bound = inner, folder, bound
        self.uri = inner.uri

    def each(self, act: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Apply ``act`` to each item as the inner store does."""
        return self.inner.each(act, items)

    def read(self, key: str) -> bytes:
        """Return the bytes under a key; a blob is read from the folder, and downloaded into it first if necessary."""
        sha = _sha(key)
        stream = self._fetched(sha) if sha else None
        if stream is None:
            return self.inner.read(key)
        with stream:
            return stream.read()

    def create(self, key: str, data: bytes) -> bool:
        """Write a new key to the inner store, and copy a blob into the folder."""
        is_created = self.inner.create(key, data)
        if is_created:
            self._keep(key, data)
        return is_created

    def create_from(self, key: str, source: Path | bytes, progress: Progress | None = None) -> bool:
        """Write a file or bytes to the inner store, and copy a blob into the folder."""
        is_created = self.inner.create_from(key, source, progress)
        if is_created:
            self._keep(key, source)
        return is_created

    @property
    def scratch(self) -> Path:
        """Folder for temporary files beside the copies of blobs."""
        return self.folder / _TEMPORARY

    def replace(self, key: str, data: bytes) -> None:
        """Write a key in the inner store, and remove its copy."""
        self._drop(key)
        self.inner.replace(key, data)

    def swap(self, key: str, data: bytes, expected: bytes | None) -> bool:
        """Write a key in the inner store if it holds ``expected``, and remove its copy."""
        self._drop(key)
        return self.inner.swap(key, data, expected)

    def delete(self, key: str) -> None:
        """Remove a key from the inner store and its copy from the folder."""
        self._drop(key)
        self.inner.delete(key)

    def list(self, prefix: str, after: str = "") -> Iterator[str]:
        """Yield names of the inner store."""
        return self.inner.list(prefix, after)

    def walk(self, prefix: str) -> Iterator[str]:
        """Yield keys of the inner store."""
        return self.inner.walk(prefix)

    def size(self, key: str) -> int | None:
        """Return the number of bytes under a key of the inner store."""
        return self.inner.size(key)

    def size_in_use(self, key: str, seconds: float) -> int | None:
        """Return the size of a key of the inner store, and touch it there if it is old."""
        return self.inner.size_in_use(key, seconds)

    def age(self, key: str) -> float | None:
        """Return the age in seconds of a key of the inner store."""
        return self.inner.age(key)

    def folder_size(self, prefix: str) -> int:
        """Return the total number of bytes below a prefix of the inner store."""
        return self.inner.folder_size(prefix)

    def stamp(self, key: str) -> str | None:
        """Return the stamp that the inner store gives to a key."""
        return self.inner.stamp(key)

    def quarantine(self, key: str) -> None:
        """Drop a damaged copy; the blob itself is verified by the next download."""
        sha = _sha(key)
        if sha and self._path(sha).exists():
            self._drop(key)
        else:
            self.inner.quarantine(key)

    def touch(self, key: str) -> None:
        """Set the age of a key in the inner store to zero."""
        self.inner.touch(key)

    def as_file(self, key: str) -> AbstractContextManager[Path]:
        """Return a context manager that yields a local file; the copy of a blob is not evicted while it is open."""
        sha = _sha(key)
        if not sha:
            return self.inner.as_file(key)
        if not self._path(sha).is_file() and self.inner.size(key) is None:
            raise MissingKey(key)
        return self._opened(sha)

    def download(self, key: str, path: Path) -> None:
        """Write the bytes under a key to a local file; a blob is copied from the folder."""
        if not _sha(key):
            self.inner.download(key, path)
        else:
            super().download(key, path)

    @contextmanager
    def _opened(self, sha: str) -> Iterator[Path]:
        stream = self._fetched(sha)
        if stream is None:
            with self.inner.as_file(f"blobs/{sha}") as path:
                yield path
        else:
            # While the stream is open no process evicts the file.
            with stream:
                yield self._path(sha)

    def _path(self, sha: str) -> Path:
        return self.folder / sha

    def _fetched(self, sha: str) -> BinaryIO | None:
        """Open the copy of a blob, downloading it if necessary; return None if the folder cannot be used.

        Raises:
            MissingKey: The store does not hold the blob.
            StoreError: The store cannot be reached, or the blob is damaged.
        """
        try:
            stream = self._held(sha)
            if stream is not None:
                return stream
            # One of all threads and processes downloads; the others find it when their turn comes.
            with self._lock(sha):
                stream = self._held(sha)
                if stream is None:
                    self._download(sha)
                    stream = self._held(sha)
        except StoreError:
            raise
        except OSError:
            return None
        self._evict()
        return stream

    def _held(self, sha: str) -> BinaryIO | None:
        """Open the copy of a blob and mark it as used and in use; return None if there is no copy."""
        path = self._path(sha)
        try:
            stream = path.open("rb")
        except FileNotFoundError:
            return None
        try:
            _mark_open(stream)
            # Not at each use: a file with another time of modification is verified again.
            if os.fstat(stream.fileno()).st_mtime < time.time() - YOUNG_SECONDS / 2:
                os.utime(path)
            if os.path.samestat(os.fstat(stream.fileno()), path.stat()):
                return stream
        except FileNotFoundError:
            pass
        except BaseException:
            stream.close()
            raise
        # Evicted before it was marked.
        stream.close()
        return None

    def _download(self, sha: str) -> None:
        with self._temporary() as temporary:
            self.inner.download(f"blobs/{sha}", temporary)
            if not _holds(temporary, sha):
                raise DamagedBlob(
                    f"blob {sha[:12]} of the store {self.uri} is damaged: its bytes do not match its name"
                )
            os.replace(temporary, self._path(sha))
            verified.remember(self._path(sha), sha)

    def _keep(self, key: str, source: Path | bytes) -> None:
        """Copy a blob that the store holds into the folder; failures are ignored."""
        sha = _sha(key)
        if not sha or self._path(sha).exists():
            return
        with suppress(OSError):
            with opened(source) as (stream, _), self._temporary() as temporary:
                with temporary.open("wb") as target:
                    _copy(stream, target)
                # A file may have changed since its digest was taken.
                if _holds(temporary, sha):
                    os.replace(temporary, self._path(sha))
            self._evict()

    def _drop(self, key: str) -> None:
        sha = _sha(key)
        if sha:
            with suppress(OSError):
                self._path(sha).unlink()

    def _evict(self) -> None:
        """Remove the least recently used blobs until the rest fits ``bound``, but keep those used recently or open."""
        now = time.time()
        with suppress(OSError):
            files = sorted(_files(self.folder), key=lambda file: file[0])
            excess = sum(size for _, size, _ in files) - self.bound
            for used, size, path in files:
                if excess <= 0 or used > now - YOUNG_SECONDS:
                    break
                if _remove_unless_open(path):
                    excess -= size

    def _own(self, name: str) -> Path:
        """Return a folder below that of the copies, both made for this user alone.

        A folder that others could write to would have its blobs copied at each use.
        """
        for folder in (self.folder, self.folder / name):
            folder.mkdir(0o700, parents=True, exist_ok=True)
        return self.folder / name

    def _lock(self, sha: str) -> FileLock:
        folder = self._own(_LOCKS)
        # Lock files are never removed: two processes could then hold the same lock. Three digits bound their number.
        return FileLock(folder / sha[:3])

    @contextmanager
    def _temporary(self) -> Iterator[Path]:
        folder = self._own(_TEMPORARY)
        for used, _, path in list(_files(folder)):
            # Left by a process that was killed.
            if used < time.time() - _ABANDONED_SECONDS:
                path.unlink(missing_ok=True)
        path = folder / uuid.uuid4().hex
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)


def _sha(key: str) -> str | None:
    match = _BLOB.fullmatch(key)
    return match[1] if match else None


def _files(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """Yield the time of last use, the size in bytes and the path of each file directly in a folder."""
    with os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                if entry.is_file(follow_symlinks=False):
                    stat = entry.stat()
                    yield stat.st_mtime, stat.st_size, Path(entry.path)


def _holds(path: Path, sha: str) -> bool:
    """Return whether a file has this digest, after flushing it to the disk: its content is not verified again."""
    digest = hashlib.sha256()
    with path.open("rb+") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
        os.fsync(stream.fileno())
    return digest.hexdigest() == sha


def _copy(source: BinaryIO, target: io.BufferedWriter) -> None:
    while chunk := source.read(_CHUNK):
        target.write(chunk)


def _mark_open(stream: BinaryIO) -> None:
    """Take a shared lock on a file that is in use; on Windows an open file cannot be removed, so none is needed."""
    with suppress(ImportError, OSError):
        import fcntl

        fcntl.flock(stream.fileno(), fcntl.LOCK_SH)


def _remove_unless_open(path: Path) -> bool:
    try:
        with path.open("rb") as stream, suppress(ImportError):
            import fcntl

            fcntl.flock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
        path.unlink(missing_ok=True)
    except OSError:
        return False
    return True
