"""Store in a bucket of Google Cloud Storage."""

from __future__ import annotations

import io
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..core.errors import QuantTaaSError, StoreError
from .base import Counted, MissingKey, Progress, R, Store, T, checked_key, most_bytes, opened, quarantined, too_large
from .gcs_errors import google_errors, is_damaged, is_session_lost, missing, reason

DEADLINE = 60.0
"""Seconds for which a failing request is retried; chosen, not tuned. A longer one delays the error message."""
CHUNK = 8 << 20
"""Bytes of one upload request, a multiple of 256 KiB; chosen, not tuned. Larger chunks cost more when one is resent."""

_CONNECT_SECONDS, _ANSWER_SECONDS = 30.0, 60.0
"""Timeouts of one request in seconds; connecting has the shorter one, since a host has several addresses to try."""
_CONNECTIONS = 16
"""Concurrent requests of a process; chosen, not tuned."""
_UPLOADS = 3
"""Attempts of an upload whose session is lost or whose bytes arrive damaged; chosen, not tuned."""
_ONE_REQUEST = 8 << 20
"""Bytes that google-cloud-storage sends in one request if it knows the size, regardless of the chunk size."""
_TYPE = "application/octet-stream"
_TOUCHED = "touched"
_POOL = "quanttaas-gcs"

# Objects, and full names of folders with a trailing slash.
_Page = tuple[Sequence[Any], Sequence[str]]

_URI = re.compile(r"gs://([a-z0-9][a-z0-9._-]{1,220}[a-z0-9])(/.*)?")


class GcsStore(Store):
    """Store whose keys are objects below ``gs://bucket/prefix``.

    Creation and swaps are conditional on the object's generation. A retried request may have succeeded before, so a
    failed condition is followed by a comparison of the bytes: equal bytes count as success.

    Args:
        uri: ``gs://bucket`` or ``gs://bucket/prefix``.
        deadline: Seconds for which a request with a transient failure is retried.
        chunk: Bytes per request of a larger upload; a multiple of 256 KiB.

    Raises:
        StoreError: The URI is malformed.
    """

    def __init__(self, uri: str, *, deadline: float = DEADLINE, chunk: int = CHUNK) -> None:
        self._bucket, self._prefix = _parts(uri)
        self.uri = f"gs://{self._bucket}/{self._prefix}".rstrip("/")
        self._deadline, self._chunk = deadline, chunk
        self._is_bucket_known = False

    def each(self, act: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Apply ``act`` to each item on a pool of threads, and yield the results in order."""
        # A call from one of the pool's threads could wait forever for a free thread.
        is_nested = threading.current_thread().name.startswith(_POOL)
        return map(act, items) if is_nested else _pool(os.getpid()).map(act, items)

    def read(self, key: str) -> bytes:
        """Return the content of the object under a key."""
        return self._load(key)[0]

    def create(self, key: str, data: bytes) -> bool:
        """Write an object that does not exist yet, and return whether it holds ``data``."""
        while not self._write(key, data, generation=0):
            # Deleted between the two: it can be created again.
            with suppress(MissingKey):
                return self.read(key) == data
        return True

    def replace(self, key: str, data: bytes) -> None:
        """Write an object unconditionally."""
        self._write(key, data, generation=None)

    def swap(self, key: str, data: bytes, expected: bytes | None) -> bool:
        """Write an object if it holds ``expected``, and return whether it was written."""
        present, generation = self._present(key)
        if present != expected:
            return False
        return self._write(key, data, generation) or self._present(key)[0] == data

    def delete(self, key: str) -> None:
        """Remove an object; a missing one is no error."""
        with self._translated_errors("delete from"):
            try:
                self._object(key).delete(**self._patience())
            except google_errors().NotFound:
                self._require_bucket()

    def list(self, prefix: str, after: str = "") -> Iterator[str]:
        """Yield the names directly under ``prefix`` that sort after ``after``, fetched page by page."""
        top = self._name(prefix) + "/"
        pages = self._pages(top, "items(name),prefixes,nextPageToken", delimiter="/", start_offset=top + after)
        return _ordered((([item.name for item in items], folders) for items, folders in pages), top, after)

    def walk(self, prefix: str) -> Iterator[str]:
        """Yield all keys under ``prefix``."""
        base = len(self._name(prefix)) - len(prefix)
        for items, _ in self._pages(self._name(prefix) + "/", "items(name),nextPageToken"):
            # The console makes empty objects with a slash at the end look like folders.
            yield from (item.name[base:] for item in items if not item.name.endswith("/"))

    def size(self, key: str) -> int | None:
        """Return the size of an object in bytes, or None if it does not exist."""
        blob = self._metadata_of(key)
        return None if blob is None else int(blob.size)

    def age(self, key: str) -> float | None:
        """Return the seconds since an object was written or touched, or None if it does not exist."""
        blob = self._metadata_of(key)
        return None if blob is None else _age(blob)

    def size_in_use(self, key: str, seconds: float) -> int | None:
        """Return the size of an object, and touch it if it is old; both take one request."""
        blob = self._metadata_of(key)
        if blob is None:
            return None
        if _age(blob) > seconds:
            self.touch(key)
        return int(blob.size)

    def folder_size(self, prefix: str) -> int:
        """Return the total size in bytes of all objects below ``prefix``."""
        pages = self._pages(self._name(prefix) + "/", "items(name,size),nextPageToken")
        return sum(int(item.size) for items, _ in pages for item in items)

    def quarantine(self, key: str) -> None:
        """Rename a damaged object."""
        with self._translated_errors("write to"), suppress(google_errors().NotFound):
            found = self._object(key)
            found.bucket.rename_blob(found, self._name(quarantined(key)), **self._patience())

    def touch(self, key: str) -> None:
        """Write the current time into the metadata of an object; without permission to write, do nothing."""
        blob = self._object(key)
        # A custom time may only ever grow, which clocks of several machines do not.
        blob.metadata = {_TOUCHED: f"{time.time():.3f}"}
        # Reading a store must not need permission to write; a reader does not sweep it either.
        with (
            self._translated_errors("write to"),
            suppress(google_errors().NotFound, google_errors().Forbidden),
        ):
            blob.patch(**self._patience())

    def create_from(self, key: str, source: Path | bytes, progress: Progress | None = None) -> bool:
        """Upload a file or bytes, unless the object exists; an existing object is only touched."""
        with opened(source) as (stream, total):
            present = self.size(key)
            if present is not None and present != total and key.startswith("blobs/"):
                self.quarantine(key)
                present = None
            if present is not None:
                self.touch(key)
            else:
                with self._translated_errors("write to"):
                    self._upload(key, Counted(stream, total, progress), total)
            if progress is not None:
                progress(total, total)
        return True

    def as_file(self, key: str) -> AbstractContextManager[Path]:
        """Return a context manager that yields an object as a temporary local file."""
        if self.size(key) is None:
            raise MissingKey(key)
        return self._downloaded(key)

    def download(self, key: str, path: Path) -> None:
        """Download an object into a local file, and verify its checksum."""
        with path.open("wb") as stream, self._translated_errors("read"):
            try:
                self._object(key).download_to_file(stream, checksum="crc32c", **self._patience())
            except google_errors().NotFound:
                self._require_bucket()
                raise MissingKey(key) from None

    @contextmanager
    def _downloaded(self, key: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="quanttaas-") as folder:
            path = Path(folder) / key.rpartition("/")[2]
            self.download(key, path)
            yield path

    def _name(self, key: str) -> str:
        return f"{self._prefix}/{checked_key(key)}".lstrip("/")

    def _object(self, key: str) -> Any:
        name = self._name(key)
        with self._translated_errors("open"):
            return _client(os.getpid(), os.environ.get("STORAGE_EMULATOR_HOST")).bucket(self._bucket).blob(name)

    def _load(self, key: str) -> tuple[bytes, int]:
        """Return the bytes of an object and their generation, from one request.

        Raises:
            MissingKey: The object does not exist.
        """
        found, stream = self._object(key), _Bounded(key)
        with self._translated_errors("read"):
            try:
                found.download_to_file(stream, checksum="crc32c", **self._patience())
            except google_errors().NotFound:
                self._require_bucket()
                raise MissingKey(key) from None
        return stream.getvalue(), int(found.generation)

    def _present(self, key: str) -> tuple[bytes | None, int]:
        """Return the bytes of an object and their generation; None and 0 if it does not exist."""
        try:
            return self._load(key)
        except MissingKey:
            return None, 0

    def _metadata_of(self, key: str) -> Any:
        """Return the metadata of an object, or None if it does not exist."""
        with self._translated_errors("read"):
            found = self._object(key)
            known = found.bucket.get_blob(found.name, **self._patience())
            if known is None:
                self._require_bucket()
            return known

    def _write(self, key: str, data: bytes, generation: int | None) -> bool:
        """Write an object if its generation matches (None: always), and return whether the condition held."""
        with self._translated_errors("write to"):
            try:
                self._object(key).upload_from_string(
                    data, _TYPE, if_generation_match=generation, checksum="crc32c", **self._patience()
                )
            except google_errors().PreconditionFailed:
                return False
            except google_errors().NotFound:
                self._require_bucket()
                raise
        return True

    def _upload(self, key: str, stream: Counted, total: int) -> None:
        """Upload a stream; an object that another client creates during the upload is left unchanged.

        The client library resends a chunk with a transient failure. An upload whose session is lost, or whose bytes
        arrive damaged, starts over.
        """
        target = self._object(key)
        target.chunk_size = self._chunk
        # The client library sends a stream of unknown size in chunks.
        size = total if total <= min(self._chunk, _ONE_REQUEST) else None
        for left in reversed(range(_UPLOADS)):
            stream.seek(0)
            try:
                target.upload_from_file(
                    stream, size=size, content_type=_TYPE, if_generation_match=0, checksum="crc32c", **self._patience()
                )
                return
            except google_errors().PreconditionFailed:
                return
            except Exception as error:
                came_damaged = is_damaged(error)
                if not came_damaged and not is_session_lost(error):
                    raise
                # The answer to the last chunk may be all that was lost.
                if not came_damaged and self.size(key) == total:
                    return
                if not left:
                    raise

    def _pages(self, prefix: str, fields: str, **options: Any) -> Iterator[_Page]:
        """Yield the objects and folder names below a prefix, page by page; each page is fetched on demand."""
        with self._translated_errors("list"):
            client = _client(os.getpid(), os.environ.get("STORAGE_EMULATOR_HOST"))
            pages = client.list_blobs(self._bucket, prefix=prefix, fields=fields, **options, **self._patience()).pages
        while True:
            with self._translated_errors("list"):
                try:
                    page = next(pages, None)
                except google_errors().NotFound:
                    raise self._no_bucket() from None
            if page is None:
                return
            yield list(page), page.prefixes

    def _patience(self) -> dict[str, Any]:
        """Return timeouts and retry policy of a request; each write of this store may be repeated safely."""
        from google.cloud.storage.retry import DEFAULT_RETRY

        retry = DEFAULT_RETRY.with_delay(initial=0.25, maximum=10.0, multiplier=2.0).with_timeout(self._deadline)
        limits = min(self._deadline, _CONNECT_SECONDS), min(self._deadline, _ANSWER_SECONDS)
        return {"retry": retry, "timeout": limits}

    def _require_bucket(self) -> None:
        """Check that the bucket exists, because Google answers 404 to a missing bucket and a missing object alike.

        Raises:
            StoreError: The bucket does not exist.
        """
        if not self._is_bucket_known:
            # Asking for the bucket itself takes a permission that roles/storage.objectUser lacks.
            next(self._pages(f"{self._prefix}/".lstrip("/"), "items(name)", max_results=1), None)
            self._is_bucket_known = True

    def _no_bucket(self) -> StoreError:
        return StoreError(
            f"there is no bucket {self._bucket}; create it with gcloud storage buckets create gs://{self._bucket}, "
            "or name another store with --store"
        )

    @contextmanager
    def _translated_errors(self, action: str) -> Iterator[None]:
        """Translate errors of the client library into a StoreError with one sentence.

        The original error is not chained, because its text may hold an upload URL that lets anybody write to it.
        """
        begun = time.monotonic()
        try:
            yield
        except (QuantTaaSError, MissingKey):
            raise
        except Exception as error:
            why = reason(error, f"gs://{self._bucket}", time.monotonic() - begun)
            if why is None:
                raise
            raise StoreError(f"cannot {action} the store {self.uri}: {why}") from None


class _Bounded(io.BytesIO):
    """Bytes of an object, which may not be more than a store reads at once."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self._key, self._most = key, most_bytes(key)

    def write(self, data: Any) -> int:
        """Take some bytes.

        Raises:
            Unreadable: There are too many.
        """
        if self._most is not None and self.tell() + len(data) > self._most:
            raise too_large(self._key)
        return super().write(data)


def _age(blob: Any) -> float:
    """Return the seconds since an object was written or touched."""
    touched = float((blob.metadata or {}).get(_TOUCHED, 0))
    # A clock that is behind Google's must not make anything younger than now.
    return max(0.0, time.time() - max(float(blob.updated.timestamp()), touched))


@lru_cache(maxsize=1)
def _pool(pid: int) -> ThreadPoolExecutor:
    """Return the thread pool of a process; the threads of a parent do not survive a fork."""
    return ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix=_POOL)


def _parts(uri: str) -> tuple[str, str]:
    """Split a ``gs://`` URI into bucket and prefix.

    Raises:
        StoreError: The URI is malformed.
    """
    match = _URI.fullmatch(uri)
    prefix = ((match[2] or "") if match else "").removeprefix("/").rstrip("/")
    try:
        if match is not None:
            return match[1], checked_key(prefix) if prefix else ""
    except QuantTaaSError:
        pass
    raise StoreError(
        f"{uri!r} is no valid store: use gs://bucket or gs://bucket/prefix, the bucket of lower-case letters, digits, "
        "'-', '_' and '.', the prefix of letters, digits, '.', '_', '-' and '/'"
    )


# Sockets and their locks do not survive a fork, and tests speak to several hosts.
@lru_cache(maxsize=8)
def _client(pid: int, emulator: str | None) -> Any:
    """Return the storage client of this process, which its threads share.

    Raises:
        MissingDependency: google-cloud-storage is not installed.
        DefaultCredentialsError: There are no credentials.
    """
    try:
        from google.cloud import storage
        from requests.adapters import HTTPAdapter
    except ImportError:
        raise missing() from None
    client = storage.Client(project=None)
    # The cache would request the bucket's metadata for tracing, with a permission that the account may lack.
    client._bucket_metadata_cache = None
    session = client._http
    for scheme in ("http://", "https://"):
        # An adapter that shows a client certificate stays.
        if not getattr(session, "is_mtls", False):
            session.mount(scheme, HTTPAdapter(pool_connections=_CONNECTIONS, pool_maxsize=_CONNECTIONS))
    return client


def _ordered(pages: Iterable[_Page], top: str, after: str) -> Iterator[str]:
    """Yield names in sorted order, each once.

    Google sorts a folder by its name with the slash: ``a-b`` and ``a.json`` come before ``a/``. A name is held back
    while a folder that sorts before it may still follow.
    """
    waiting: set[str] = set()
    last = after
    for items, folders in pages:
        end = (max(items) if items else max(folders, default=top))[len(top) :]
        waiting.update(name[len(top) :].rstrip("/") for name in (*items, *folders))
        for name in sorted(waiting):
            if not _is_settled(name, end):
                break
            waiting.remove(name)
            if name > last:
                last = name
                yield name
    yield from sorted(name for name in waiting if name > last)


def _is_settled(name: str, end: str) -> bool:
    """Return whether no name that sorts before ``name`` can follow once the listing has reached ``end``."""
    return name <= end and all(name[:at] + "/" <= end for at, sign in enumerate(name) if sign in "-.")
