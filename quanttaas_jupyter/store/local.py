"""Store in a folder of this machine."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from filelock import FileLock

from ..core.errors import StoreError
from .base import Counted, MissingKey, Progress, Store, checked_key, opened

_TEMPORARY = ".tmp"
_LOCKS = ".locks"


class LocalStore(Store):
    """Store whose keys are files below ``root``.

    Bytes are first written to a temporary file. Exclusive creation hard-links it to its name, which fails if the name
    is taken. File systems without hard links use a rename under a lock instead.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        self.uri = self.root.as_uri()

    def read(self, key: str) -> bytes:
        """Return the content of the file under a key."""
        try:
            return self._path(key).read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise MissingKey(key) from None
        except OSError as error:
            raise self._store_error(error, "read") from error

    def create(self, key: str, data: bytes) -> bool:
        """Write a file that does not exist yet, and return whether it holds ``data``."""
        with self._written(data) as temporary:
            return self._link(temporary, key) or self.read(key) == data

    def create_from(self, key: str, source: Path | bytes, progress: Progress | None = None) -> bool:
        """Copy a file or bytes into the store, unless the key exists; an existing file is only touched."""
        with opened(source) as (stream, total):
            if self.size(key) is not None:
                self.touch(key)
            else:
                with self._copied(Counted(stream, total, progress)) as temporary:
                    self._link(temporary, key)
        if progress is not None:
            progress(total, total)
        return True

    @property
    def scratch(self) -> Path:
        """Folder for temporary files, on the file system of the store."""
        return self.root / _TEMPORARY

    def adopt(self, key: str, path: Path, progress: Progress | None = None) -> bool:
        """Link a file into the store, unless the key exists; a file of another file system is copied."""
        if self.size(key) is not None or path.stat().st_dev != self._device():
            return self.create_from(key, path, progress)
        try:
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
            self._link(path, key)
        except OSError as error:
            raise self._store_error(error, "write to") from error
        if progress is not None:
            total = path.stat().st_size
            progress(total, total)
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
        with contextlib.suppress(OSError):
            path.parent.rmdir()

    def list(self, prefix: str, after: str = "") -> Iterator[str]:
        """Yield the names directly under ``prefix`` that sort after ``after``, in sorted order."""
        try:
            with os.scandir(self._path(prefix)) as entries:
                names = [entry.name for entry in entries if entry.name > after]
        except (FileNotFoundError, NotADirectoryError):
            return iter(())
        except OSError as error:
            raise self._store_error(error, "list") from error
        return iter(sorted(name for name in names if not name.startswith(".")))

    def walk(self, prefix: str) -> Iterator[str]:
        """Yield all keys under ``prefix``, in no particular order."""
        top = self._path(prefix)
        for folder, _, names in os.walk(top):
            for name in names:
                yield (Path(folder) / name).relative_to(self.root).as_posix()

    def size(self, key: str) -> int | None:
        """Return the size of a file in bytes, or None if it does not exist."""
        try:
            return self._path(key).stat().st_size
        except OSError:
            return None

    def age(self, key: str) -> float | None:
        """Return the seconds since a file was written or touched, or None if it does not exist."""
        try:
            return time.time() - self._path(key).stat().st_mtime
        except OSError:
            return None

    def folder_size(self, prefix: str) -> int:
        """Return the total size in bytes of all files below ``prefix``."""
        return sum(self.size(key) or 0 for key in self.walk(prefix))

    def stamp(self, key: str) -> str:
        """Return modification time, size and inode of a file as a string; an empty string if it does not exist."""
        try:
            stat = self._path(key).stat()
        except OSError:
            return ""
        # A replaced file may have the size of the one before within one tick of the clock.
        return f"{stat.st_mtime_ns}-{stat.st_size}-{stat.st_ino}"

    def touch(self, key: str) -> None:
        """Set the modification time of a file to now; without permission to write, do nothing."""
        # Reading a store must not need permission to write; a reader does not sweep it either.
        with contextlib.suppress(OSError):
            os.utime(self._path(key))

    def as_file(self, key: str) -> AbstractContextManager[Path]:
        """Return a context manager that yields the stored file itself."""
        path = self._path(key)
        if not path.is_file():
            raise MissingKey(key)
        return contextlib.nullcontext(path)

    def _path(self, key: str) -> Path:
        return self.root / checked_key(key)

    def _lock(self, key: str) -> FileLock:
        folder = self.root / _LOCKS
        self._make(folder)
        return FileLock(folder / hashlib.sha256(key.encode()).hexdigest()[:32])

    @contextmanager
    def _temporary(self) -> Iterator[Path]:
        folder = self.root / _TEMPORARY
        self._make(folder)
        path = folder / uuid.uuid4().hex
        try:
            yield path
        except OSError as error:
            if isinstance(error, StoreError):
                raise
            raise self._store_error(error, "write to") from error
        finally:
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
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS):
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
            # Another process removed the folder when it emptied it.
            self._make(path.parent)
            os.replace(temporary, path)

    def _device(self) -> int:
        self._make(self.root)
        return self.root.stat().st_dev

    def _make(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
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
