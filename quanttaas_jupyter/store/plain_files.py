"""Access to the files of a store in a folder: only regular files, and never through a link."""

from __future__ import annotations

import errno
import os
import stat
import time
from pathlib import Path

from ..core.errors import Unreadable
from .base import MissingKey

# A pipe is opened without waiting for its other end, and then refused. Windows has neither flag, and needs O_BINARY.
_FLAGS = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))
_UNREADABLE = (errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENXIO)


_AT_ONCE, _CHUNK = 1 << 30, 1 << 20
"""Most bytes of the first read of a file, which systems limit to 2 GiB, and of each further one."""
_checked: dict[str, float] = {}
"""When a folder was last seen to lie inside of its store, by the monotonic clock."""
_CHECK_SECONDS = 1.0
"""Seconds for which that counts: the event log of a study is thousands of files in one folder. Chosen, not tuned."""


def inside(root: Path, key: str, is_read: bool = False) -> str:
    """Return the path of a key, of which no folder below ``root`` is a link.

    Args:
        root: The folder of the store.
        key: The key.
        is_read: Whether the file is only read, so that a check a moment ago suffices.

    Raises:
        Unreadable: A folder on the way is a link.
    """
    folders, _, name = key.rpartition("/")
    folder, now = f"{root}/{folders}", time.monotonic()
    if not is_read or _checked.get(folder, -_CHECK_SECONDS) < now - _CHECK_SECONDS:
        _refuse_links(root, folders)
        _checked[folder] = now
    return f"{folder}/{name}" if folders else f"{root}/{name}"


def _refuse_links(root: Path, folders: str) -> None:
    path = str(root)
    for part in filter(None, folders.split("/")):
        path = f"{path}/{part}"
        try:
            mode = os.lstat(path).st_mode
        except OSError:
            break
        if stat.S_ISLNK(mode):
            raise Unreadable(f"{path} is a link, and a store follows none; put the folder itself there")


def regular(path: Path | str) -> os.stat_result | None:
    """Return what the system knows of a regular file; None if there is none, or something else."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found if stat.S_ISREG(found.st_mode) else None


def content(path: Path | str, key: str, most: int | None = None) -> bytes:
    """Return the bytes of a regular file, or one more than ``most`` of a larger one.

    Raises:
        MissingKey: There is no file.
        Unreadable: There is a link, a pipe or a device, or the file lets nobody read it.
        OSError: The file system fails.
    """
    handle = _opened(path, key)
    try:
        known = os.fstat(handle).st_size
        # One byte more than is expected, then what was appended meanwhile.
        step, parts, total = min(known, _AT_ONCE if most is None else most) + 1, [], 0
        while part := os.read(handle, step):
            parts.append(part)
            total += len(part)
            step = _CHUNK if total < known else 1
            if most is not None and total > most:
                break
    finally:
        os.close(handle)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _opened(path: Path | str, key: str) -> int:
    try:
        handle = os.open(path, _FLAGS)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise MissingKey(key) from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise Unreadable(f"{path} is a link, and a store follows none") from None
        if error.errno in _UNREADABLE:
            raise Unreadable(f"{path} cannot be read: {error.strerror}") from None
        raise
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        if stat.S_ISDIR(mode):
            raise MissingKey(key)
        raise Unreadable(f"{path} is no plain file")
    return handle
