"""Store in a folder of this machine."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

from filelock import FileLock

from ..core.errors import QuantTaaSError, StoreError, Unreadable
from . import plain_files
from .base import Counted, MissingKey, Progress, Store, checked_key, is_key, most_bytes, opened, quarantined, too_large

_TEMPORARY = ".tmp"
_LOCKS = ".locks"
_LOCK_SECONDS = 60.0
"""Seconds to wait for a lock that others hold for milliseconds; chosen, not tuned."""


class LocalStore(Store):
    """Store whose keys are files below ``root``.

    Bytes are first written to a temporary file. Exclusive creation hard-links it to its name, which fails if the name
    is taken. File systems without hard links use a rename under a lock instead. No link below ``root`` is followed.

    Args:
        root: The folder, made on demand.
        is_shared: Whether folders that are made follow the umask; otherwise only this user may enter them.
    """

    def __init__(self, root: Path, is_shared: bool = False) -> None:
        self.root = root.expanduser().absolute()
        self.uri = self.root.as_uri()
        self._mode = 0o777 if is_shared else 0o700

    def read(self, key: str) -> bytes:
        """Return the content of the file under a key."""
        most = most_bytes(key)
        try:
            data = plain_files.content(self._plain(key), key, most)
        except QuantTaaSError:
            raise
        except OSError as error:
            raise self._store_error(error, "read") from error
        if most is not None and len(data) > most:
            raise too_large(key)
        return data

    def create(self, key: str, data: bytes) -> bool:
        """Write a file that does not exist yet, and return whether it holds ``data``."""
        with self._written(data) as temporary:
            return self._link(temporary, key) or self.read(key) == data

    def create_from(self, key: str, source: Path | bytes, progress: Progress | None = None) -> bool:
        """Copy a file or bytes into the store, unless the key exists; an existing file is only touched."""
        with opened(source) as (stream, total):
            if self._heals(key, total) or self.size(key) is None:
                with self._copied(Counted(stream, total, progress)) as temporary:
                    self._link(temporary, key)
            else:
                self.touch(key)
        if progress is not None:
            progress(total, total)
        return True

    def quarantine(self, key: str) -> None:
        """Rename a damaged file."""
        with suppress(MissingKey):
            self._rename(self._path(key), quarantined(key))

    @property
    def scratch(self) -> Path:
        """Folder for temporary files, on the file system of the store."""
        return self.root / _TEMPORARY

    def adopt(self, key: str, path: Path, progress: Progress | None = None) -> bool:
        """Link a file into the store, unless the key exists; a file of another file system is copied."""
        try:
            known = path.stat()
            is_there = not self._heals(key, known.st_size) and self.size(key) is not None
            if is_there or known.st_dev != self._device():
                return self.create_from(key, path, progress)
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
            self._link(path, key)
        except QuantTaaSError:
            raise
        except OSError as error:
            raise self._store_error(error, "write to") from error
        if progress is not None:
            progress(known.st_size, known.st_size)
        return True

    def replace(self, key: str, data: bytes) -> None:
        """Write a file atomically, and overwrite an existing one."""
        with self._written(data) as temporary:
            self._rename(temporary, key)

    def swap(self, key: str, data: bytes, expected: bytes | None) -> bool:
        """Write a file under a lock if it holds ``expected``, and return whether it was written."""
        with self._lock(key):
            try:
                present: bytes | None = self.read(key)
            except MissingKey:
                present = None
            if present != expected:
                return False
            self.replace(key, data)
            return True

    def delete(self, key: str) -> None:
        """Remove a file, and its folder if that is empty then."""
        path = self._path(key)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise self._store_error(error, "delete from") from error
        with suppress(OSError):
            path.parent.rmdir()

    def list(self, prefix: str, after: str = "") -> Iterator[str]:
        """Yield the names directly under ``prefix`` that sort after ``after``, in sorted order."""
        try:
            with os.scandir(self._folder(prefix)) as entries:
                names = [entry.name for entry in entries if entry.name > after]
        except (FileNotFoundError, NotADirectoryError):
            return iter(())
        except PermissionError as error:
            if prefix.count("/"):
                raise Unreadable(f"{self.root / prefix} cannot be listed: {error.strerror}") from None
            raise self._store_error(error, "list") from error
        except OSError as error:
            if isinstance(error, QuantTaaSError):
                raise
            raise self._store_error(error, "list") from error
        return iter(sorted(name for name in names if not name.startswith(".")))

    def walk(self, prefix: str) -> Iterator[str]:
        """Yield all keys under ``prefix``, in no particular order; a link to a folder is a key, and not followed."""
        top = self._folder(prefix)
        for folder, folders, names in os.walk(top):
            links = [name for name in folders if (Path(folder) / name).is_symlink()]
            for name in (*names, *links):
                key = (Path(folder) / name).relative_to(self.root).as_posix()
                # Files with other names are not ours: nobody could read or delete them by a key.
                if is_key(key):
                    yield key

    def size(self, key: str) -> int | None:
        """Return the size of a file in bytes, or None if it does not exist."""
        known = plain_files.regular(self._plain(key))
        return known.st_size if known else None

    def size_in_use(self, key: str, seconds: float) -> int | None:
        """Return the size of a file, and touch it if it is old."""
        known = plain_files.regular(self._plain(key))
        if known is None:
            return None
        if time.time() - known.st_mtime > seconds:
            self.touch(key)
        return known.st_size

    def age(self, key: str) -> float | None:
        """Return the seconds since a file was written or touched, or None if it does not exist."""
        known = plain_files.regular(self._plain(key))
        return time.time() - known.st_mtime if known else None

    def folder_size(self, prefix: str) -> int:
        """Return the total size in bytes of all files below ``prefix``."""
        return sum(self.size(key) or 0 for key in self.walk(prefix))

    def stamp(self, key: str) -> str:
        """Return modification time, size and inode of a file as a string; an empty string if it does not exist."""
        stat = plain_files.regular(self._plain(key))
        if stat is None:
            return ""
        # A replaced file may have the size of the one before within one tick of the clock.
        return f"{stat.st_mtime_ns}-{stat.st_size}-{stat.st_ino}"

    def touch(self, key: str) -> None:
        """Set the modification time of a file to now; without permission to write, do nothing."""
        # Reading a store must not need permission to write; a reader does not sweep it either.
        with suppress(OSError):
            if plain_files.regular(path := self._path(key)):
                os.utime(path)

    def as_file(self, key: str) -> AbstractContextManager[Path]:
        """Return a context manager that yields the stored file itself."""
        path = self._path(key)
        if not plain_files.regular(path):
            raise MissingKey(key)
        return nullcontext(path)

    def _path(self, key: str) -> Path:
        return Path(plain_files.inside(self.root, checked_key(key)))

    def _plain(self, key: str) -> str:
        return plain_files.inside(self.root, checked_key(key), is_read=True)

    def _folder(self, prefix: str) -> Path:
        # The folder itself must be no link either.
        return Path(plain_files.inside(self.root, f"{checked_key(prefix)}/_")).parent

    def _heals(self, key: str, size: int) -> bool:
        """Set a blob of another size than its bytes have aside, and return whether that was done."""
        present = self.size(key)
        if present is None or present == size or not key.startswith("blobs/"):
            return False
        self.quarantine(key)
        return True

    @contextmanager
    def _lock(self, key: str) -> Iterator[None]:
        folder = self.root / _LOCKS
        self._make(folder)
        lock = FileLock(folder / hashlib.sha256(key.encode()).hexdigest()[:32])
        try:
            lock.acquire(timeout=_LOCK_SECONDS)
        except (OSError, NotImplementedError) as error:
            # A drive without locks refuses them at once, or for ever.
            raise StoreError(
                f"cannot lock a file of the store {self.root}: {error}; name a store on a drive with file locks, such "
                "as this machine's own, with --store"
            ) from None
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def _temporary(self) -> Iterator[Path]:
        folder = self.root / _TEMPORARY
        self._make(folder)
        path = folder / uuid.uuid4().hex
        try:
            yield path
        except OSError as error:
            if isinstance(error, QuantTaaSError):
                raise
            raise self._store_error(error, "write to") from error
        finally:
            # What a vanished or broken drive says now would hide what it said first.
            with suppress(OSError):
                path.unlink(missing_ok=True)

    @contextmanager
    def _written(self, data: bytes) -> Iterator[Path]:
        with self._temporary() as path:
            with path.open("xb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            yield path

    @contextmanager
    def _copied(self, source: Counted) -> Iterator[Path]:
        with self._temporary() as path:
            with path.open("xb") as stream:
                shutil.copyfileobj(source, stream, 1 << 20)
                stream.flush()
                os.fsync(stream.fileno())
            yield path

    def _link(self, temporary: Path, key: str) -> bool:
        path = self._path(key)
        self._make(path.parent)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except FileNotFoundError:
            # Another process removed the folder when it emptied it.
            self._make(path.parent)
            os.link(temporary, path)
        except OSError as error:
            # Drives without hard links answer with all kinds of errors; a full or read-only one would fail again.
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                raise
            with self._lock(key):
                if path.exists():
                    return False
                self._rename(temporary, key)
        return True

    def _rename(self, temporary: Path, key: str) -> None:
        path = self._path(key)
        self._make(path.parent)
        try:
            os.replace(temporary, path)
        except FileNotFoundError:
            if not temporary.exists():
                raise MissingKey(key) from None
            # Another process removed the folder when it emptied it.
            self._make(path.parent)
            os.replace(temporary, path)

    def _device(self) -> int:
        self._make(self.root)
        return self.root.stat().st_dev

    def _make(self, folder: Path) -> None:
        try:
            for path in (*reversed(folder.relative_to(self.root).parents), folder.relative_to(self.root)):
                (self.root / path).mkdir(self._mode, parents=True, exist_ok=True)
        except OSError as error:
            raise self._store_error(error, "write to") from error

    def _store_error(self, error: OSError, action: str) -> StoreError:
        reason = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "free some space, or name another store with --store"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            hint = "make it writable, or name another store with --store"
        else:
            hint = "check that the folder exists, or name another store with --store"
        return StoreError(f"cannot {action} the store {self.root}: {reason}; {hint}")
