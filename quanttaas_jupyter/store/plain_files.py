"""Access to the files of a store in a folder: only regular files, and never through a link."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from ..core.errors import Unreadable
from .base import MissingKey

# A pipe is opened without waiting for its other end, and then refused. Windows has neither flag, and needs O_BINARY.
_FLAGS = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))
_UNREADABLE = (errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENXIO)


def inside(root: Path, key: str) -> Path:
    """Return the path of a key, of which no folder below ``root`` is a link.

    Raises:
        Unreadable: A folder on the way is a link.
    """
    path = str(root)
    folders, _, name = key.rpartition("/")
    for part in filter(None, folders.split("/")):
        path = f"{path}/{part}"
        try:
            mode = os.lstat(path).st_mode
        except OSError:
            break
        if stat.S_ISLNK(mode):
            raise Unreadable(f"{path} is a link, and a store follows none; put the folder itself there")
    return root / folders / name


def regular(path: Path) -> os.stat_result | None:
    """Return what the system knows of a regular file; None if there is none, or something else."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found if stat.S_ISREG(found.st_mode) else None


def opened(path: Path, key: str) -> BinaryIO:
    """Open a regular file for reading.

    Raises:
        MissingKey: There is no file.
        Unreadable: There is a link, a pipe or a device, or the file lets nobody read it.
        OSError: The file system fails.
    """
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
    return os.fdopen(handle, "rb")
