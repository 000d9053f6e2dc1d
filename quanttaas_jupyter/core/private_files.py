"""Folders and files of ours outside of stores: this user's alone, by owner and mode."""

from __future__ import annotations

import os
import stat
import time
from contextlib import suppress
from pathlib import Path

from .errors import QuantTaaSError

_PATIENCE = 2.0
"""Seconds to wait for another process that just created a file to fill it; chosen, not tuned. It takes milliseconds."""


def private_folder(path: Path, remedy: str) -> Path:
    """Return a folder that only this user can enter, created if missing.

    Args:
        path: The folder. One of this user's that is open to others is closed.
        remedy: What to do if that does not work, for the error.

    Raises:
        QuantTaaSError: The folder cannot be made, is no folder, or belongs to another user.
    """
    try:
        path.mkdir(0o700, parents=True, exist_ok=True)
        known = path.stat()
        if _is_foreign(known):
            raise QuantTaaSError(
                f"the folder {path} belongs to another user, who could change what runs here; {remedy}"
            )
        # The umask takes permissions, a default ACL or an earlier version gave some.
        if known.st_mode & 0o077 and hasattr(os, "getuid"):
            path.chmod(0o700)
    except OSError as error:
        raise QuantTaaSError(f"the folder {path} cannot be made this user's own: {error.strerror}; {remedy}") from None
    return path


def private_secret(path: Path, size: int, remedy: str) -> bytes:
    """Return the random bytes in a file that only this user can read, written on first use.

    Raises:
        QuantTaaSError: The file cannot be written or read, is a link, or belongs to another user.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        secret = _read(path, remedy) or _created(path, size, remedy)
        if len(secret) == size:
            return secret
        if time.monotonic() > deadline:
            raise QuantTaaSError(f"the key {path} is damaged: it has {len(secret)} bytes instead of {size}; {remedy}")
        time.sleep(0.01)


def _created(path: Path, size: int, remedy: str) -> bytes:
    """Write new random bytes, unless another process is first; an empty result means that."""
    secret = os.urandom(size)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return b""
    except OSError as error:
        raise QuantTaaSError(f"the key {path} cannot be written: {error.strerror}; {remedy}") from None
    try:
        os.write(handle, secret)
        os.fsync(handle)
    except OSError as error:
        with suppress(OSError):
            path.unlink()
        raise QuantTaaSError(f"the key {path} cannot be written: {error.strerror}; {remedy}") from None
    finally:
        os.close(handle)
    return secret


def _read(path: Path, remedy: str) -> bytes:
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise QuantTaaSError(f"the key {path} cannot be read: {error.strerror}; {remedy}") from None
    with os.fdopen(handle, "rb") as stream:
        known = os.fstat(stream.fileno())
        if not stat.S_ISREG(known.st_mode) or _is_foreign(known):
            raise QuantTaaSError(f"the key {path} is no file of this user's own; {remedy}")
        if known.st_mode & 0o077 and hasattr(os, "getuid"):
            raise QuantTaaSError(f"others can read the key {path}; delete it, and a new one is made")
        return stream.read(1 << 12)


def _is_foreign(known: os.stat_result) -> bool:
    return hasattr(os, "getuid") and known.st_uid != os.getuid()
